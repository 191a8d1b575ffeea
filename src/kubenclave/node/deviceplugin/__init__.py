# SPDX-License-Identifier: Apache-2.0
"""Enclave and provision devices (and, where wanted, EPC by the MiB) as resources of the kubelet."""

from kubenclave.node.deviceplugin.plugin import ResourcePlugin
from kubenclave.node.deviceplugin.resources import Offer, Resource, resources
from kubenclave.sgx.epc import EpcMode

__all__ = ["EpcMode", "Offer", "Resource", "ResourcePlugin", "resources"]
