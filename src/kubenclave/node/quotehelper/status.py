# SPDX-License-Identifier: Apache-2.0
"""What the helper says about itself: why it is not ready, with codes that stay, and the documents made of that."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from kubenclave.wire.aesm_errors import AesmError

_HINTS: Final = {
    AesmError.NO_PLATFORM_CERT_DATA: "register the platform and check the PCCS address and the provider library",
    AesmError.NETWORK_ERROR: "the collateral cache (PCCS) does not answer: check its address from here",
    AesmError.OUT_OF_EPC: "enclaves of workloads hold all EPC",
    AesmError.INTERFACE_UNAVAILABLE: "the helper needs /dev/sgx_provision, and the group that may open it",
    AesmError.ENCLAVE_LOAD_ERROR: "the helper needs /dev/sgx_enclave, and the group that may open it",
    AesmError.PLATFORM_LIB_UNAVAILABLE: "install the provider library (libsgx-dcap-default-qpl)",
    AesmError.SERVICE_UNAVAILABLE: "the worker's log names what it misses",
    AesmError.NO_DEVICE_ERROR: "kubenclave doctor node tells which layer is missing",
}


@dataclass(frozen=True, slots=True)
class Reason:
    """Something in the way of quotes; ``code`` is stable, ``hint`` the next step."""

    code: str
    message: str
    hint: str = ""

    def as_dict(self) -> dict[str, str]:
        """Shape in JSON: only what is set."""
        return {"code": self.code, "message": self.message, **({"hint": self.hint} if self.hint else {})}


def hint_for(error: AesmError) -> str:
    """Return the next step after an error of the backend."""
    return _HINTS.get(error, "the worker's log has the quoting library's own code")


def document(backend: str, reasons: Sequence[Reason], *, simulated: bool) -> bytes:
    """Return the JSON object of /readyz and /status."""
    content: dict[str, Any] = {
        "ready": not reasons,
        "simulated": simulated,
        "backend": backend,
        "reasons": [reason.as_dict() for reason in reasons],
    }
    return json.dumps(content).encode() + b"\n"
