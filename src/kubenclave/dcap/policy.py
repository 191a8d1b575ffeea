# SPDX-License-Identifier: Apache-2.0
"""Policy: which enclaves a relying party wants, and on what terms. A small document in JSON or TOML.

Everything strict is the default. Every member that relaxes is named ``dangerously_...`` and shows in the result.
A policy that is put together in Python is held to the same rules as one that is read.
"""

import contextlib
import datetime as dt
import functools
import re
import tomllib
from typing import Annotated, Any, Final, Literal, get_type_hints

import msgspec

from kubenclave.dcap.collateral import load_json
from kubenclave.dcap.pins import PINS, SGX_PINS, TDX_PINS, Pin
from kubenclave.dcap.tcb import TcbStatus
from kubenclave.errors import FormatError
from kubenclave.sgx.attributes import AttributeFlags
from kubenclave.sgx.report import REPORT_DATA_SIZE

_U16 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Count = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
_Days = Annotated[int, msgspec.Meta(ge=0, le=3650)]
PRIVILEGED_FLAGS: Final = AttributeFlags.PROVISION_KEY | AttributeFlags.EINITTOKEN_KEY
_ALLOWED: Final = {
    "tcb_statuses": "one of " + ", ".join(status.value for status in TcbStatus if status is not TcbStatus.REVOKED),
    "version": "1",
}
_WRONG_TYPE: Final = re.compile(r"Expected (?P<expected>.+?)(?:, got (?P<found>.+))?")


class Hex(bytes):
    """Bytes that stand in a document as hexadecimal digits."""

    __slots__ = ()


class EnclaveRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """One enclave (or trust domain) that is wanted.

    Either ``mr_enclave`` (32 bytes), or ``mr_signer`` (32 bytes) with ``isv_prod_id`` and ``min_isv_svn``: a signer
    alone vouches for everything it ever signed, old versions included. For TDX ``mr_td`` (48 bytes).
    The other members narrow that down further: ``pins`` has their sizes. Members that are given must all hold.
    """

    name: str = ""
    mr_enclave: Hex | None = None
    mr_signer: Hex | None = None
    isv_prod_id: _U16 | None = None
    min_isv_svn: _U16 | None = None
    isv_ext_prod_id: Hex | None = None
    isv_family_id: Hex | None = None
    config_id: Hex | None = None
    min_config_svn: _U16 | None = None
    mr_td: Hex | None = None
    mr_seam: Hex | None = None
    mr_config_id: Hex | None = None
    mr_owner: Hex | None = None
    mr_owner_config: Hex | None = None
    rtmr0: Hex | None = None
    rtmr1: Hex | None = None
    rtmr2: Hex | None = None
    rtmr3: Hex | None = None
    mr_service_td: Hex | None = None

    def __post_init__(self) -> None:
        _hold_to_types(self)

    @property
    def is_of_sgx(self) -> bool:
        """Whether the rule speaks of an SGX enclave: a policy has no rule that does not say which TEE it means."""
        return self.mr_td is None

    @functools.cached_property
    def pinned(self) -> tuple[tuple[Pin, bytes | int], ...]:
        """The members that are given, with their values."""
        return tuple((pin, value) for pin in PINS if (value := getattr(self, pin.member)) is not None)


class MaskedBits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bits that must have a value: (found & mask) == value."""

    mask: Hex
    value: Hex

    def __post_init__(self) -> None:
        _hold_to_types(self)


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a relying party accepts.

    - ``enclaves``: any one of them.
    - ``tcb_statuses``: accepted statuses in Intel's spelling; Revoked is never accepted.
    - ``refused_advisories``: advisory ids, in whatever case, that must not apply to the platform.
    - ``attributes`` (16 bytes: FLAGS, XFRM) and ``misc_select`` (4 bytes) of SGX, ``td_attributes`` (8 bytes) of TDX,
      in memory order, as masked bits. A policy that names those of one TEE only refuses quotes of the other.
    - ``report_data``: 1 to 64 bytes, zeros behind them; compared whole.
    - ``max_collateral_age_days``: how old TCB info and QE identity may be at most, counted from their issue date.
    - ``min_tcb_evaluation_data_number``: oldest generation of collateral.

    Raises FormatError (code ``policy.malformed``) for what ``from_json`` would not read either.
    """

    version: Literal[1]
    name: str = ""
    enclaves: Annotated[tuple[EnclaveRule, ...], msgspec.Meta(min_length=1)]
    tcb_statuses: Annotated[tuple[TcbStatus, ...], msgspec.Meta(min_length=1)] = (TcbStatus.UP_TO_DATE,)
    refused_advisories: tuple[str, ...] = ()
    attributes: MaskedBits | None = None
    misc_select: MaskedBits | None = None
    td_attributes: MaskedBits | None = None
    report_data: Hex | None = None
    max_collateral_age_days: _Days | None = None
    min_tcb_evaluation_data_number: _Count = 0
    dangerously_allow_debug: bool = False
    dangerously_allow_provision_key: bool = False
    dangerously_accept_expired_collateral_days: _Days = 0

    def __post_init__(self) -> None:
        _hold_to_types(self)
        _check(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Policy":
        """Read a JSON document. Raises FormatError (codes ``json.*`` and ``policy.malformed``)."""
        return _checked(load_json(text, "policy"))

    @classmethod
    def from_toml(cls, text: str) -> "Policy":
        """Read a TOML document. Raises FormatError (code ``policy.malformed``)."""
        try:
            return _checked(tomllib.loads(text))
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is a plain ValueError
            raise _malformed(f"not TOML: {error}") from None

    @property
    def forbidden_flags(self) -> AttributeFlags:
        """FLAGS bits that no accepted enclave may have."""
        forbidden = AttributeFlags(0)
        if not self.dangerously_allow_provision_key:
            forbidden |= PRIVILEGED_FLAGS
        return forbidden

    @property
    def grace(self) -> dt.timedelta:
        """How long collateral may be overdue."""
        return dt.timedelta(days=self.dangerously_accept_expired_collateral_days)

    @property
    def expected_report_data(self) -> bytes | None:
        """The 64 bytes that report data has to be, or None when the policy does not say."""
        return None if self.report_data is None else bytes(self.report_data).ljust(REPORT_DATA_SIZE, b"\0")


def _checked(document: Any) -> Policy:
    try:
        return msgspec.convert(document, Policy, dec_hook=_decode_hex)
    except ValueError as error:  # msgspec.ValidationError, and UnicodeEncodeError of a lone surrogate
        raise _unfit(error) from None


def _check(policy: Policy) -> None:
    for number, rule in enumerate(policy.enclaves):
        _check_rule(rule, f"enclaves[{number}]")
    if TcbStatus.REVOKED in policy.tcb_statuses:
        raise _malformed("Revoked, which cannot be accepted", "tcb_statuses", _ALLOWED["tcb_statuses"])
    if policy.report_data is not None and not 1 <= len(policy.report_data) <= REPORT_DATA_SIZE:
        raise _malformed(f"{len(policy.report_data)} bytes", "report_data", f"1 to {REPORT_DATA_SIZE} bytes")
    for name, size in (("attributes", 16), ("misc_select", 4), ("td_attributes", 8)):
        if (bits := getattr(policy, name)) is not None:
            _check_bits(name, bits, size)


def _hold_to_types(members: msgspec.Struct) -> None:
    """Give every member the type it is declared with, as reading a document does: msgspec leaves constructors alone.

    Else a text in place of a list would be searched letter by letter, and an empty list of enclaves would want none.
    """
    for name, kind in _types(type(members)).items():
        try:
            value = msgspec.convert(getattr(members, name), kind, dec_hook=_decode_hex)
        except ValueError as error:
            raise _unfit(error, name) from None
        msgspec.structs.force_setattr(members, name, value)


@functools.cache
def _types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _check_bits(name: str, bits: MaskedBits, size: int) -> None:
    for part, given in (("mask", bits.mask), ("value", bits.value)):
        if len(given) != size:
            raise _malformed(f"{len(given)} bytes", f"{name}.{part}", f"{size} bytes")
    if any(value & ~mask for value, mask in zip(bits.value, bits.mask, strict=True)):
        raise _malformed("bits that its mask leaves out, so nothing could match", where=f"{name}.value")


def _check_rule(rule: EnclaveRule, where: str) -> None:
    for pin, value in rule.pinned:
        if isinstance(value, bytes) and len(value) != pin.size:
            raise _malformed(f"{len(value)} bytes", f"{where}.{pin.member}", f"{pin.size} bytes")
    given = {pin for pin, _ in rule.pinned}
    if not given.isdisjoint(SGX_PINS) and not given.isdisjoint(TDX_PINS):
        named = ", ".join(pin.member for pin, _ in rule.pinned)
        raise _malformed(named, where, "members of SGX or members of TDX, not both in one rule")
    by_signer = rule.mr_signer is not None and rule.isv_prod_id is not None and rule.min_isv_svn is not None
    if rule.mr_enclave is None and rule.mr_td is None and not by_signer:
        named = ", ".join(pin.member for pin, _ in rule.pinned) or "nothing that says which enclave"
        raise _malformed(named, where, "mr_enclave, or mr_signer with isv_prod_id and min_isv_svn, or mr_td")


def _decode_hex(kind: type, value: Any) -> Any:
    if kind is Hex and isinstance(value, bytes):  # in Python there is no need of digits
        return Hex(value)
    if kind is Hex and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return Hex(bytes.fromhex(value))
    found = "other text" if isinstance(value, str) else type(value).__name__
    raise ValueError(f"Expected hexadecimal digits, got {found}")


def _unfit(error: ValueError, name: str = "") -> FormatError:
    """Say in our words what msgspec says, as "Expected `int`, got `str` - at `$.version`"; it looked at ``name``."""
    text, _, path = str(error).partition(" - at `$")
    where = (name + path.rstrip("`")).removeprefix(".")
    text = text.replace("`", "")
    if wrong := _WRONG_TYPE.fullmatch(text):
        return _malformed(wrong["found"] or "something else", where, wrong["expected"])
    value = text.removeprefix("Invalid enum value ")
    if value != text:
        return _malformed(value, where, _ALLOWED[where.partition("[")[0]])
    return _malformed(f"{text[0].lower()}{text[1:]}", where)


def _malformed(found: str, where: str = "", expected: str | None = None) -> FormatError:
    return FormatError(
        "not a policy",
        code="policy.malformed",
        field=where or None,
        expected=expected,
        found=found[:200],
        hint="docs/policy.md lists every member of a policy",
    )
