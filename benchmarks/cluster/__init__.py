# SPDX-License-Identifier: Apache-2.0
"""Figures on real Kubernetes: ``python -m benchmarks.cluster [--json FILE] [--quick] [NAME...]``.

The cluster is that of tests/cluster, in namespaces of its own, and ends with the run.
"""
