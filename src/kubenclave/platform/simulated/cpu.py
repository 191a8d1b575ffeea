# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED CPU: enclaves from ECREATE to EINIT, their REPORTs and keys, and one EPC for all of them.

Pure: no sockets, no clock; the server in front of it brings the requests. What hardware checks is checked here in its
order and answered by its codes; a #GP of hardware is GENERAL_PROTECTION.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from kubenclave.errors import FormatError, TrustError
from kubenclave.platform.simulated.faults import CpuError, general_protection
from kubenclave.platform.simulated.keys import BaseKeys, Secs, cmac, get_key, report_key
from kubenclave.sgx.attributes import AttributeFlags, Attributes, MiscSelect, Xfrm
from kubenclave.sgx.epc import PAGE_SIZE
from kubenclave.sgx.keyrequest import KeyRequest
from kubenclave.sgx.measure import Measurement, Pages
from kubenclave.sgx.report import ReportBody, TargetInfo
from kubenclave.sgx.secinfo import PageType
from kubenclave.sgx.sigstruct import Sigstruct
from kubenclave.wire import simcpu
from kubenclave.wire.simcpu import Code

# What this CPU knows; integers, because the complement of an IntFlag has no unknown bits.
_FLAGS: Final = sum(flag.value for flag in AttributeFlags if flag is not AttributeFlags.INIT)
_XCR0: Final = sum(component.value for component in Xfrm)
_MISC: Final = MiscSelect.EXINFO.value
_LEGACY: Final = Xfrm.X87 | Xfrm.SSE
_AVX512: Final = Xfrm.OPMASK | Xfrm.ZMM_HI256 | Xfrm.HI16_ZMM
# Components that XSETBV accepts only together.
_TOGETHER: Final = (_LEGACY, Xfrm.BNDREGS | Xfrm.BNDCSR, _AVX512, Xfrm.TILECFG | Xfrm.TILEDATA)
# Where each component ends in the standard XSAVE format (SDM vol. 1, 13.4); the legacy area and header take 576 bytes.
_XSAVE_END: Final = {
    Xfrm.AVX: 832,
    Xfrm.BNDREGS: 1024,
    Xfrm.BNDCSR: 1088,
    Xfrm.OPMASK: 1152,
    Xfrm.ZMM_HI256: 1664,
    Xfrm.HI16_ZMM: 2688,
    Xfrm.PKRU: 2696,
    Xfrm.TILECFG: 2816,
    Xfrm.TILEDATA: 11008,
}
_XSAVE_LEGACY: Final = 576
_GPR_SIZE: Final = 184
_EXINFO_SIZE: Final = 16
# TCS: STATE, CSSA and AEP are the CPU's own, DBGOPTIN a debugger's; nothing stands behind GSLIMIT, with CET OCETSSA.
_TCS_CLEARED: Final = ((0, 8), (24, 4), (40, 8))
_TCS_FLAGS: Final = 8
_DBGOPTIN: Final = 1
_TCS_END: Final = 72
_TCS_END_CET: Final = 80
_MAX_SIZE_64: Final = 1 << 56
_MAX_SIZE_32: Final = 1 << 31


class Epc:
    """The enclave page cache: one ledger for all enclaves of the CPU."""

    def __init__(self, sizes: Sequence[int]) -> None:
        """Make an EPC of the whole pages in ``sizes``, the bytes of it on each NUMA node.

        Pages are taken from anywhere, as Linux does when a node of its own has none left.
        """
        self.sections: Final = tuple(size // PAGE_SIZE * PAGE_SIZE for size in sizes)
        self.pages: Final = sum(self.sections) // PAGE_SIZE
        self.free = self.pages

    def require(self, pages: int) -> None:
        """Raise CpuError when fewer pages are free."""
        if pages > self.free:
            raise CpuError(Code.OUT_OF_EPC, f"asked {pages} pages, free {self.free} of {self.pages}")

    def take(self, pages: int) -> None:
        """Take pages away. Raises CpuError when there are not as many."""
        self.require(pages)
        self.free -= pages

    def give_back(self, pages: int) -> None:
        """Return pages that were taken."""
        self.free += pages


class SoftwareCpu:
    """One CPU. ``launch_signer`` None means flexible launch control under Linux, where every signer may launch.

    ``cpu_svn`` (16 bytes) may be set at any time, as by a microcode update; it counts at once for everything.
    """

    def __init__(
        self, keys: BaseKeys, *, epc: Sequence[int], cpu_svn: bytes, boot: bytes, launch_signer: bytes | None = None
    ) -> None:
        """Switch on a CPU with ``epc`` bytes of EPC on each NUMA node; ``boot`` is 32 random bytes, new at every start.

        ``launch_signer`` is an IA32_SGXLEPUBKEYHASH that nobody can write any more.
        """
        self.keys: Final = keys
        self.epc: Final = Epc(epc)
        self.cpu_svn = cpu_svn
        self.launch_signer: Final = launch_signer
        self._boot: Final = boot

    @property
    def report_key_id(self) -> bytes:
        """KEYID of all REPORTs from now on: another one after every start and every change of the CPUSVN.

        Whoever keeps a report key by its KEYID thus never takes an old key for the present one.
        """
        return hashlib.sha256(b"CR_REPORT_KEYID" + self._boot + self.cpu_svn).digest()

    def enclave(self, *, may_provision: bool = False) -> "CpuEnclave":
        """Return an enclave that has not been created yet; ``may_provision`` lets it have the provisioning key."""
        return CpuEnclave(self, may_provision=may_provision)

    def status(self) -> simcpu.CpuStatus:
        """Return EPC and CPUSVN."""
        return simcpu.CpuStatus(self.epc.pages * PAGE_SIZE, self.epc.free * PAGE_SIZE, self.cpu_svn)


class CpuEnclave:
    """One enclave and what its owner can do with it. Every method raises CpuError when the CPU refuses."""

    def __init__(self, cpu: SoftwareCpu, *, may_provision: bool = False) -> None:
        self._cpu: Final = cpu
        self._may_provision: Final = may_provision
        self._held = 0
        self._ended = False
        self._created: simcpu.Create | None = None
        self._measurement: Measurement | None = None
        self._mr_enclave: bytes | None = None
        self._secs: Secs | None = None

    @property
    def created(self) -> bool:
        """Whether ECREATE has been done."""
        return self._created is not None

    @property
    def held(self) -> int:
        """EPC pages that are charged to it, the SECS included."""
        return self._held

    @property
    def secs(self) -> Secs | None:
        """What EINIT has made of it, None before."""
        return self._secs

    def create(self, wanted: simcpu.Create) -> None:
        """ECREATE."""
        if self._created is not None or self._ended:
            raise general_protection("this connection's enclave has been created already")
        _check_secs(wanted)
        try:
            measurement = Measurement(wanted.size, wanted.ssa_frame_size)
        except FormatError as error:
            raise general_protection(str(error)) from None
        self._take(1)
        self._created, self._measurement = wanted, measurement

    def add(self, pages: Pages) -> None:
        """EADD of each page and EEXTEND of its content; either all pages are added or none."""
        measurement = self._building("EADD")
        added = _as_added(pages, self._flags)
        self._take(pages.count)
        try:
            measurement.add(added)
        except FormatError as error:
            self._give_back(pages.count)
            raise general_protection(str(error)) from None

    def extend(self, offset: int, chunk: bytes) -> None:
        """EEXTEND."""
        try:
            self._building("EEXTEND").extend(offset, chunk)
        except FormatError as error:
            raise general_protection(str(error)) from None

    def measured(self, mr_enclave: bytes, pages: int) -> None:
        """Take a measurement for granted; only instead of pages, and only once."""
        measurement = self._building("MEASURED")
        if measurement.pages:
            raise general_protection("MEASURED stands in place of all pages, and there are some already")
        if pages * PAGE_SIZE > measurement.size:
            raise general_protection(f"{pages} pages are more than an enclave of {measurement.size} bytes has")
        self._take(pages)
        self._mr_enclave = mr_enclave

    def init(self, data: bytes) -> None:
        """EINIT; the enclave stays as it was when it is refused."""
        wanted, measurement = self._created, self._measurement
        if wanted is None or measurement is None or self._secs is not None:
            raise general_protection("EINIT needs an enclave that has been created and not initialised")
        if wanted.attributes.flags & AttributeFlags.PROVISION_KEY and not self._may_provision:
            # As Linux does before EINIT, whose only question is whether somebody has opened /dev/sgx_provision.
            raise CpuError(Code.INVALID_ATTRIBUTE, "PROVISIONKEY is for connections to the provision socket alone")
        sigstruct = self._check_sigstruct(data, wanted)
        mr_enclave = self._mr_enclave or measurement.mr_enclave()
        if sigstruct.enclave_hash != mr_enclave:
            raise CpuError(
                Code.INVALID_MEASUREMENT,
                f"SIGSTRUCT is for MRENCLAVE {sigstruct.enclave_hash.hex()}, loaded was {mr_enclave.hex()}",
            )
        self._check_launch(sigstruct, wanted)
        self._secs = Secs(
            attributes=replace(wanted.attributes, flags=wanted.attributes.flags | AttributeFlags.INIT),
            misc_select=wanted.misc_select,
            cet_attributes=wanted.cet_attributes,
            mr_enclave=mr_enclave,
            mr_signer=sigstruct.mr_signer,
            isv_prod_id=sigstruct.isv_prod_id,
            isv_svn=sigstruct.isv_svn,
            config_id=wanted.config_id,
            config_svn=wanted.config_svn,
            isv_family_id=sigstruct.isv_family_id,
            isv_ext_prod_id=sigstruct.isv_ext_prod_id,
        )
        self._measurement = None

    def report(self, target_info: bytes, report_data: bytes) -> bytes:
        """EREPORT: return 432 bytes, MACed for the target on this CPU."""
        secs = self._initialised("EREPORT")
        try:
            target = TargetInfo.parse(target_info)
        except FormatError as error:
            raise general_protection(str(error)) from None
        body = ReportBody(
            cpu_svn=self._cpu.cpu_svn,
            misc_select=secs.misc_select,
            cet_attributes=secs.cet_attributes,
            isv_ext_prod_id=secs.isv_ext_prod_id,
            attributes=secs.attributes,
            mr_enclave=secs.mr_enclave,
            mr_signer=secs.mr_signer,
            config_id=secs.config_id,
            isv_prod_id=secs.isv_prod_id,
            isv_svn=secs.isv_svn,
            config_svn=secs.config_svn,
            isv_family_id=secs.isv_family_id,
            report_data=report_data,
        ).build()
        key_id = self._cpu.report_key_id
        return body + key_id + cmac(report_key(self._cpu.keys, target, key_id, self._cpu.cpu_svn), body)

    def key(self, key_request: bytes) -> bytes:
        """EGETKEY: return 16 bytes."""
        secs = self._initialised("EGETKEY")
        try:
            request = KeyRequest.parse(key_request)
        except FormatError as error:
            raise general_protection(str(error)) from None
        return get_key(self._cpu.keys, secs, request, self._cpu.cpu_svn)

    def end(self) -> None:
        """EREMOVE of everything; nothing can be done with it afterwards."""
        self._give_back(self._held)
        self._ended = True  # what is still in the buffers of a closed connection must not take EPC that nobody frees
        self._created = self._measurement = self._secs = None

    @property
    def _flags(self) -> int:
        return 0 if self._created is None else self._created.attributes.flags

    def _building(self, leaf: str) -> Measurement:
        if self._measurement is None:
            raise general_protection(f"{leaf} needs an enclave that has been created and not initialised")
        if self._mr_enclave is not None:
            raise general_protection(f"{leaf} after MEASURED, which stands in place of all pages")
        return self._measurement

    def _initialised(self, leaf: str) -> Secs:
        if self._secs is None:
            raise general_protection(f"{leaf} needs an initialised enclave")
        return self._secs

    def _take(self, pages: int) -> None:
        self._cpu.epc.take(pages)
        self._held += pages

    def _give_back(self, pages: int) -> None:
        self._cpu.epc.give_back(pages)
        self._held -= pages

    def _check_sigstruct(self, data: bytes, wanted: simcpu.Create) -> Sigstruct:
        """Check what does not depend on the measurement: form, signature, and what only KSS may have."""
        try:
            sigstruct = Sigstruct.parse(data)
        except FormatError as error:
            raise CpuError(Code.INVALID_SIG_STRUCT, str(error)) from None
        try:
            sigstruct.check()
        except TrustError as error:
            raise CpuError(Code.INVALID_SIGNATURE, str(error)) from None
        kss = wanted.attributes.flags & AttributeFlags.KSS
        if not kss and (any(sigstruct.isv_family_id) or any(sigstruct.isv_ext_prod_id)):
            raise CpuError(Code.INVALID_SIG_STRUCT, "ISVFAMILYID and ISVEXTPRODID need an enclave with KSS")
        return sigstruct

    def _check_launch(self, sigstruct: Sigstruct, wanted: simcpu.Create) -> None:
        """Check who may launch, and what as."""
        # Linux writes the signer's own hash into the MSRs before EINIT, unless they are locked.
        allowed = self._cpu.launch_signer in (None, sigstruct.mr_signer)
        if wanted.attributes.flags & AttributeFlags.EINITTOKEN_KEY and not allowed:
            raise CpuError(Code.INVALID_ATTRIBUTE, "EINITTOKEN_KEY is for the launch-control signer alone")
        mask, stated, own = sigstruct.attribute_mask, sigstruct.attributes, wanted.attributes
        for name, bits, given, signed in (
            ("ATTRIBUTES.FLAGS", mask.flags, own.flags, stated.flags),
            ("ATTRIBUTES.XFRM", mask.xfrm, own.xfrm, stated.xfrm),
            ("MISCSELECT", sigstruct.misc_mask, wanted.misc_select, sigstruct.misc_select),
            ("CET_ATTRIBUTES", sigstruct.cet_attributes_mask, wanted.cet_attributes, sigstruct.cet_attributes),
        ):
            if given & bits != signed & bits:
                raise CpuError(
                    Code.INVALID_ATTRIBUTE, f"{name} is {given:#x}, signed was {signed:#x} under the mask {bits:#x}"
                )
        if not allowed:
            raise CpuError(Code.INVALID_EINITTOKEN, "launch control is locked to another signer, and there is no token")


def _as_added(pages: Pages, flags: int) -> Pages:
    """Return pages as EADD leaves them: a TCS has the fields cleared that are the CPU's own, and is measured so.

    Raises CpuError for a TCS in which something stands that has to be zero.
    """
    if pages.content is None or pages.sec_info.flags >> 8 != PageType.TCS:
        return pages
    reserved = _TCS_END_CET if flags & AttributeFlags.CET else _TCS_END
    content = bytearray(pages.content)
    for start in range(0, len(content), PAGE_SIZE):
        if any(content[start + reserved : start + PAGE_SIZE]):
            raise general_protection(f"the TCS at {pages.offset + start:#x} has reserved bytes that are not zero")
        for at, size in _TCS_CLEARED:
            content[start + at : start + at + size] = bytes(size)
        content[start + _TCS_FLAGS] &= ~_DBGOPTIN
    return replace(pages, content=bytes(content))


def _check_secs(wanted: simcpu.Create) -> None:
    """Refuse what ECREATE refuses in a SECS, sizes that are no power of two apart."""
    attributes = wanted.attributes
    if attributes.flags & ~_FLAGS:
        raise general_protection(f"ATTRIBUTES.FLAGS {attributes.flags:#x} has INIT or undefined bits")
    _check_xfrm(attributes)
    if wanted.misc_select & ~_MISC:
        raise general_protection(f"MISCSELECT {wanted.misc_select:#x} has bits that this CPU does not know")
    if wanted.cet_attributes and not attributes.flags & AttributeFlags.CET:
        raise general_protection("CET_ATTRIBUTES need an enclave with CET")
    if not attributes.flags & AttributeFlags.KSS and (wanted.config_svn or any(wanted.config_id)):
        raise general_protection("CONFIGID and CONFIGSVN need an enclave with KSS")
    limit = _MAX_SIZE_64 if attributes.flags & AttributeFlags.MODE64BIT else _MAX_SIZE_32
    if wanted.size > limit:
        raise general_protection(f"SIZE {wanted.size:#x} is beyond {limit:#x}")
    frame = max([_XSAVE_LEGACY, *(end for bit, end in _XSAVE_END.items() if attributes.xfrm & bit)])
    frame += _GPR_SIZE + (_EXINFO_SIZE if wanted.misc_select & MiscSelect.EXINFO else 0)
    if wanted.ssa_frame_size * PAGE_SIZE < frame:
        raise general_protection(f"SSAFRAMESIZE {wanted.ssa_frame_size} does not hold the {frame} bytes of XFRM")


def _check_xfrm(attributes: Attributes) -> None:
    xfrm = attributes.xfrm
    if xfrm & ~_XCR0 or xfrm & _LEGACY != _LEGACY:
        raise general_protection(f"XFRM {xfrm:#x} has undefined bits or lacks x87 and SSE")
    if any(0 < xfrm & bits < bits for bits in _TOGETHER) or (xfrm & _AVX512 and not xfrm & Xfrm.AVX):
        raise general_protection(f"XFRM {xfrm:#x} has components without those they need")
