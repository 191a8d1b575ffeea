# SPDX-License-Identifier: Apache-2.0
"""One machine without Kubernetes: the same daemons and a stand-in for the kubelet."""
