# SPDX-License-Identifier: Apache-2.0
"""Figures of docs/benchmarks.md: ``python -m benchmarks``."""
