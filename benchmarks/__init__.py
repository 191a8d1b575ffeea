# SPDX-License-Identifier: Apache-2.0
"""Figures of docs/benchmarks.md: ``python -m benchmarks [--json FILE] [--quick] [NAME...]``.

Every figure is taken several times; where a peer exists it is measured in the same run, in turn with ours, so that
whatever else the machine does hits both. Shown are the best and the median of the runs.
"""
