# SPDX-License-Identifier: Apache-2.0
"""Starts and stops real Kubernetes clusters for tests, see ../README.md."""
