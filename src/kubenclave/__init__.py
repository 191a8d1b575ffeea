# SPDX-License-Identifier: Apache-2.0
"""kubenclave: Intel SGX application enclaves on Kubernetes.

The public API is small: ``verify_quote`` with its ``Collateral``, ``Policy`` and ``QuoteVerdict``, and the errors.
Names are looked up when first used, so that the node daemons, which share this package, load no cryptography.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

from kubenclave.errors import (
    FormatError,
    KubenclaveError,
    PlatformError,
    PolicyError,
    TrustError,
    UnreachableError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from kubenclave.dcap.collateral import Collateral
    from kubenclave.dcap.policy import Policy
    from kubenclave.dcap.verdict import QuoteVerdict, verify_quote

__version__ = "0.1.0.dev0"

__all__ = [
    "Collateral",
    "FormatError",
    "KubenclaveError",
    "PlatformError",
    "Policy",
    "PolicyError",
    "QuoteVerdict",
    "TrustError",
    "UnreachableError",
    "UsageError",
    "VerificationError",
    "__version__",
    "verify_quote",
]

_LAZY: Final = {
    "Collateral": "kubenclave.dcap.collateral",
    "Policy": "kubenclave.dcap.policy",
    "QuoteVerdict": "kubenclave.dcap.verdict",
    "verify_quote": "kubenclave.dcap.verdict",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
