# SPDX-License-Identifier: Apache-2.0
"""Tests on real Kubernetes, see README.md."""
