# SPDX-License-Identifier: Apache-2.0
"""KEYREQUEST: which key an enclave asks EGETKEY for (SDM vol. 3D, KEYREQUEST)."""

import enum
from dataclasses import dataclass
from typing import Any, Final, Self

from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.layout import Layout

KEY_REQUEST_SIZE: Final = 512
KEY_SIZE: Final = 16
_NO_BITS: Final = Attributes(0, 0)

_LAYOUT: Final = Layout(
    "KEYREQUEST",
    KEY_REQUEST_SIZE,
    [
        (0, "key_name", "H"),
        (2, "key_policy", "H"),
        (4, "isv_svn", "H"),
        (6, "cet_attributes_mask", "B"),
        (8, "cpu_svn", 16),
        (24, "attribute_mask", 16),
        (40, "key_id", 32),
        (72, "misc_mask", "I"),
        (76, "config_svn", "H"),
    ],
)


class KeyName(enum.IntEnum):
    """The five keys."""

    EINITTOKEN = 0
    PROVISION = 1
    PROVISION_SEAL = 2
    REPORT = 3
    SEAL = 4


class KeyPolicy(enum.IntFlag):
    """What of the enclave's identity goes into a key; all but the first two need KSS."""

    MRENCLAVE = 0x01
    MRSIGNER = 0x02
    NOISVPRODID = 0x04
    CONFIGID = 0x08
    ISVFAMILYID = 0x10
    ISVEXTPRODID = 0x20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """KEYREQUEST, 512 bytes. Key names and policy bits that nobody defined are kept, for EGETKEY to refuse."""

    key_name: int
    key_policy: int = 0
    isv_svn: int = 0
    cet_attributes_mask: int = 0
    cpu_svn: bytes = bytes(16)
    attribute_mask: Attributes = _NO_BITS
    key_id: bytes = bytes(32)
    misc_mask: int = 0
    config_svn: int = 0

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 512 bytes. Raises FormatError for another length or reserved bytes that are not zero."""
        fields = _LAYOUT.parse(data)
        return cls(**{**fields, "attribute_mask": Attributes.parse(fields["attribute_mask"])})

    def build(self) -> bytes:
        """Return the 512 bytes. Raises FormatError when a field has the wrong size."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _LAYOUT.names}
        return _LAYOUT.build({**fields, "attribute_mask": self.attribute_mask.build()})
