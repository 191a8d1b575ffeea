# SPDX-License-Identifier: Apache-2.0
"""What a rule of a policy can pin down in a report body: one row for each member."""

from typing import Final, NamedTuple


class Pin(NamedTuple):
    """A member of a rule, and the field of the report body it speaks of; ``size`` in bytes, None for a number.

    A number is a product, which has to be equal, or the lowest security version that will do (``is_minimum``).
    """

    member: str
    field: str
    size: int | None = None
    is_minimum: bool = False

    @property
    def title(self) -> str:
        """Name of the field as Intel writes it, such as MRENCLAVE."""
        return self.field.upper().replace("_", "")

    @property
    def code(self) -> str:
        """Code of the finding that the field is another one."""
        return f"policy.{self.field.replace('_', '-')}"

    def holds(self, wanted: bytes | int, found: bytes | int | None) -> bool:
        """Tell whether the value found (None where the body has no such field) is as the rule wants it."""
        if self.is_minimum and isinstance(wanted, int) and isinstance(found, int):
            return found >= wanted
        return found == wanted

    def said(self, wanted: bytes | int) -> str:
        """Return what the rule wants, in words."""
        value = wanted.hex() if isinstance(wanted, bytes) else str(wanted)
        return f"{value} or more" if self.is_minimum else value


SGX_PINS: Final = (
    Pin("mr_enclave", "mr_enclave", 32),
    Pin("mr_signer", "mr_signer", 32),
    Pin("isv_prod_id", "isv_prod_id"),
    Pin("min_isv_svn", "isv_svn", is_minimum=True),
    Pin("isv_ext_prod_id", "isv_ext_prod_id", 16),
    Pin("isv_family_id", "isv_family_id", 16),
    Pin("config_id", "config_id", 64),
    Pin("min_config_svn", "config_svn", is_minimum=True),
)
TDX_PINS: Final = tuple(
    Pin(name, name, 48)
    for name in (
        "mr_td",
        "mr_seam",
        "mr_config_id",
        "mr_owner",
        "mr_owner_config",
        "rtmr0",
        "rtmr1",
        "rtmr2",
        "rtmr3",
        "mr_service_td",
    )
)
PINS: Final = (*SGX_PINS, *TDX_PINS)
