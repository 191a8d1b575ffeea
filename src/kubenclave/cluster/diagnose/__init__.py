# SPDX-License-Identifier: Apache-2.0
"""Why a pod is pending, has no device or gets no quote, and what a cluster lacks: ``model`` says it in words."""
