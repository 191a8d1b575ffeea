# SPDX-License-Identifier: Apache-2.0
"""TD report bodies of TDX quotes: 1.0, 1.5 and the extended 1.5 (Intel DCAP, sgx_quote_4.h and sgx_quote_5.h)."""

import enum
from dataclasses import dataclass
from typing import ClassVar, Self

from kubenclave.sgx.layout import Layout

_ROWS_10: list[tuple[int, str, str | int]] = [
    (0, "tee_tcb_svn", 16),
    (16, "mr_seam", 48),
    (64, "mr_signer_seam", 48),
    (112, "seam_attributes", 8),
    (120, "td_attributes", "Q"),
    (128, "xfam", "Q"),
    (136, "mr_td", 48),
    (184, "mr_config_id", 48),
    (232, "mr_owner", 48),
    (280, "mr_owner_config", 48),
    (328, "rtmr0", 48),
    (376, "rtmr1", 48),
    (424, "rtmr2", 48),
    (472, "rtmr3", 48),
    (520, "report_data", 64),
]
_ROWS_15: list[tuple[int, str, str | int]] = [
    *_ROWS_10,
    (584, "tee_tcb_svn_2", 16),
    (600, "mr_service_td", 48),
]
_ROWS_15_EX: list[tuple[int, str, str | int]] = [
    *_ROWS_15,
    (648, "vm_id", "B"),
    (649, "td_id", 32),
    (681, "device_info", 48),
    (729, "init_service_td_hash", 48),
    (777, "init_service_td_attributes", 8),
    (785, "init_cpu_svn", 16),
    (801, "init_tee_tcb_svn", 16),
    (817, "init_tee_fmspc", 12),
    (829, "current_service_td_hash", 48),
    (877, "current_service_td_attributes", 8),
]


class TdAttributes(enum.IntFlag):
    """TDATTRIBUTES of a trust domain."""

    DEBUG = 1 << 0
    SEPT_VE_DISABLE = 1 << 28
    PKS = 1 << 30
    KL = 1 << 31
    PERFMON = 1 << 63


_UNDER_DEBUG: int = 0xFF
"""TUD, the low byte of TDATTRIBUTES: a trust domain with any of these bits is not to be trusted (TDX module spec)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport10:
    """TD report 1.0, 584 bytes. Measurements are SHA-384."""

    LAYOUT: ClassVar[Layout] = Layout("TD report 1.0", 584, _ROWS_10)

    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: int
    xfam: int
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes
    rtmr3: bytes
    report_data: bytes

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read exactly the size of this body. Raises FormatError for another length."""
        return cls(**cls.LAYOUT.parse(data))

    def build(self) -> bytes:
        """Return the bytes. Raises FormatError when a field has the wrong size."""
        return self.LAYOUT.build({name: getattr(self, name) for name in self.LAYOUT.names})

    @property
    def debug(self) -> bool:
        """Whether the trust domain can be looked into from outside: DEBUG or another bit of its group."""
        return bool(self.td_attributes & _UNDER_DEBUG)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport15(TdReport10):
    """TD report 1.5, 648 bytes: adds the TCB of the module running now, and service TDs."""

    LAYOUT: ClassVar[Layout] = Layout("TD report 1.5", 648, _ROWS_15)

    tee_tcb_svn_2: bytes
    mr_service_td: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport15Ex(TdReport15):
    """TD report 1.5-ex, 885 bytes: adds migration facts."""

    LAYOUT: ClassVar[Layout] = Layout("TD report 1.5-ex", 885, _ROWS_15_EX)

    vm_id: int
    td_id: bytes
    device_info: bytes
    init_service_td_hash: bytes
    init_service_td_attributes: bytes
    init_cpu_svn: bytes
    init_tee_tcb_svn: bytes
    init_tee_fmspc: bytes
    current_service_td_hash: bytes
    current_service_td_attributes: bytes
