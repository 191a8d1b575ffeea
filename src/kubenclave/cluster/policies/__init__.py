# SPDX-License-Identifier: Apache-2.0
"""The rules of admission as policies of Kubernetes itself: CEL written out of the table, no webhook in the way."""

from kubenclave.cluster.policies.cel import ASKS_FOR_SGX
from kubenclave.cluster.policies.objects import mutating_objects, validating_objects
from kubenclave.cluster.policies.settings import QUOTE_HELPER_ACCOUNT, Settings

__all__ = [
    "ASKS_FOR_SGX",
    "QUOTE_HELPER_ACCOUNT",
    "Settings",
    "mutating_objects",
    "validating_objects",
]
