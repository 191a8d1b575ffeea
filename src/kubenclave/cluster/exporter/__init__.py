# SPDX-License-Identifier: Apache-2.0
"""One exporter for the cluster: EPC of nodes and pods as metrics, and the largest node for admission to warn by."""
