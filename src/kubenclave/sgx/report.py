# SPDX-License-Identifier: Apache-2.0
"""REPORT and TARGETINFO, the two structures of local attestation (SDM vol. 3D, REPORT and TARGETINFO)."""

from dataclasses import dataclass, field
from typing import Any, Final, Self

from kubenclave.sgx.attributes import Attributes
from kubenclave.sgx.layout import Layout, wrong_size

REPORT_BODY_SIZE: Final = 384
REPORT_SIZE: Final = 432
TARGET_INFO_SIZE: Final = 512
REPORT_DATA_SIZE: Final = 64

# The gaps are rows here, because quote verifiers must not look at them: a report signed by Intel's quoting
# enclave stays genuine when a later CPU gives a reserved byte a meaning.
REPORT_BODY: Final = Layout(
    "REPORT body",
    REPORT_BODY_SIZE,
    [
        (0, "cpu_svn", 16),
        (16, "misc_select", "I"),
        (20, "cet_attributes", "B"),
        (21, "reserved1", 11),
        (32, "isv_ext_prod_id", 16),
        (48, "flags", "Q"),
        (56, "xfrm", "Q"),
        (64, "mr_enclave", 32),
        (96, "reserved2", 32),
        (128, "mr_signer", 32),
        (160, "reserved3", 32),
        (192, "config_id", 64),
        (256, "isv_prod_id", "H"),
        (258, "isv_svn", "H"),
        (260, "config_svn", "H"),
        (262, "reserved4", 42),
        (304, "isv_family_id", 16),
        (320, "report_data", 64),
    ],
)

_TARGET_INFO: Final = Layout(
    "TARGETINFO",
    TARGET_INFO_SIZE,
    [
        (0, "mr_enclave", 32),
        (32, "attributes", 16),
        (48, "cet_attributes", "B"),
        (50, "config_svn", "H"),
        (52, "misc_select", "I"),
        (64, "config_id", 64),
    ],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportBody:
    """What an enclave is and what it says: the first 384 bytes of a REPORT, and the body of an SGX quote."""

    cpu_svn: bytes
    misc_select: int
    cet_attributes: int = 0
    isv_ext_prod_id: bytes = bytes(16)
    attributes: Attributes
    mr_enclave: bytes
    mr_signer: bytes
    config_id: bytes = bytes(64)
    isv_prod_id: int
    isv_svn: int
    config_svn: int = 0
    isv_family_id: bytes = bytes(16)
    report_data: bytes
    reserved: tuple[bytes, bytes, bytes, bytes] = field(
        default=(bytes(11), bytes(32), bytes(32), bytes(42)), repr=False
    )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 384 bytes. Raises FormatError for another length."""
        if len(data) != REPORT_BODY_SIZE:
            raise wrong_size("REPORT body", REPORT_BODY_SIZE, len(data))
        (
            cpu_svn,
            misc_select,
            cet_attributes,
            reserved1,
            isv_ext_prod_id,
            flags,
            xfrm,
            mr_enclave,
            reserved2,
            mr_signer,
            reserved3,
            config_id,
            isv_prod_id,
            isv_svn,
            config_svn,
            reserved4,
            isv_family_id,
            report_data,
        ) = REPORT_BODY.values(data)
        return cls(
            cpu_svn=cpu_svn,
            misc_select=misc_select,
            cet_attributes=cet_attributes,
            isv_ext_prod_id=isv_ext_prod_id,
            attributes=Attributes(flags, xfrm),
            mr_enclave=mr_enclave,
            mr_signer=mr_signer,
            config_id=config_id,
            isv_prod_id=isv_prod_id,
            isv_svn=isv_svn,
            config_svn=config_svn,
            isv_family_id=isv_family_id,
            report_data=report_data,
            reserved=(reserved1, reserved2, reserved3, reserved4),
        )

    @property
    def debug(self) -> bool:
        """Whether the enclave's memory can be read from outside."""
        return self.attributes.debug

    def build(self) -> bytes:
        """Return the 384 bytes. Raises FormatError when a field has the wrong size."""
        fields: dict[str, Any] = {name: getattr(self, name, None) for name in REPORT_BODY.names}
        fields |= {"flags": self.attributes.flags, "xfrm": self.attributes.xfrm}
        fields |= {f"reserved{number}": value for number, value in enumerate(self.reserved, 1)}
        return REPORT_BODY.build(fields)


@dataclass(frozen=True, slots=True)
class Report:
    """REPORT, 432 bytes: the body, and the MAC that only this CPU can make.

    ``mac`` is the AES-CMAC of the body under the target's report key; ``key_id`` (32 bytes) goes into that key
    and is itself not under the MAC.
    """

    body: ReportBody
    key_id: bytes
    mac: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 432 bytes. Raises FormatError for another length."""
        if len(data) != REPORT_SIZE:
            raise wrong_size("REPORT", REPORT_SIZE, len(data))
        return cls(ReportBody.parse(data[:384]), data[384:416], data[416:432])

    def build(self) -> bytes:
        """Return the 432 bytes. Raises FormatError when a field has the wrong size."""
        for name, value, size in (("key_id", self.key_id, 32), ("mac", self.mac, 16)):
            if len(value) != size:
                raise wrong_size(f"REPORT {name}", size, len(value))
        return self.body.build() + self.key_id + self.mac


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetInfo:
    """TARGETINFO, 512 bytes: for which enclave a REPORT is made."""

    mr_enclave: bytes
    attributes: Attributes
    cet_attributes: int = 0
    config_svn: int = 0
    misc_select: int = 0
    config_id: bytes = bytes(64)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly 512 bytes. Raises FormatError for another length or non-zero reserved bytes."""
        fields = _TARGET_INFO.parse(data)
        return cls(**{**fields, "attributes": Attributes.parse(fields["attributes"])})

    def build(self) -> bytes:
        """Return the 512 bytes. Raises FormatError when a field has the wrong size."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _TARGET_INFO.names}
        return _TARGET_INFO.build({**fields, "attributes": self.attributes.build()})

    @classmethod
    def of(cls, body: ReportBody) -> Self:
        """Return the TARGETINFO that names the enclave a report body describes."""
        return cls(
            mr_enclave=body.mr_enclave,
            attributes=body.attributes,
            cet_attributes=body.cet_attributes,
            config_svn=body.config_svn,
            misc_select=body.misc_select,
            config_id=body.config_id,
        )
