# SPDX-License-Identifier: Apache-2.0
"""What becomes of a pod that asks for SGX. Pure: a pod in, the pod that runs and what it takes out."""

from kubenclave.cluster.admission.asks import Admitted, Ask, ContainerKind
from kubenclave.cluster.admission.review import admit
from kubenclave.cluster.admission.table import (
    AESM_VARIABLE,
    AESMD,
    DEFAULT_RULES,
    DIALECTS,
    QUOTE_PROVIDER,
    SGX_RESOURCES,
    TOTAL_ANNOTATION,
    EnclaveWithoutEpc,
    Grants,
    Rules,
)
from kubenclave.sgx.epc import EpcMode

__all__ = [
    "AESMD",
    "AESM_VARIABLE",
    "DEFAULT_RULES",
    "DIALECTS",
    "QUOTE_PROVIDER",
    "SGX_RESOURCES",
    "TOTAL_ANNOTATION",
    "Admitted",
    "Ask",
    "ContainerKind",
    "EnclaveWithoutEpc",
    "EpcMode",
    "Grants",
    "Rules",
    "admit",
]
