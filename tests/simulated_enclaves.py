# SPDX-License-Identifier: Apache-2.0
"""Enclaves for tests of the SIMULATED CPU: SIGSTRUCTs for any terms, signed with the simulation's public key."""

from typing import Any, Final

from kubenclave.platform.simulated import enclaves, signing
from kubenclave.platform.simulated.cpu import CpuEnclave, SoftwareCpu
from kubenclave.platform.simulated.keys import BaseKeys, Fuses
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.measure import Pages, measure
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.sigstruct import Sigstruct
from kubenclave.wire import simcpu

ALL: Final = (1 << 64) - 1
PLAIN: Final = Attributes(AttributeFlags.MODE64BIT, 3)
FUSES: Final = Fuses(b"P" * 16, b"S" * 16, b"E" * 16)
CPU_SVN: Final = bytes([5, 4, 3, 2, 1, *[0] * 11])
SIZE: Final = 0x4000
CONTENT: Final = b"code".ljust(4096, b"\0")
LOAD: Final = (Pages(0, SecInfo(0x205), 1, CONTENT), Pages(0x1000, SecInfo(0x203), 1))
MR_ENCLAVE: Final = measure(SIZE, 1, LOAD)
MR_SIGNER: Final = enclaves.MR_SIGNER


def signed(**terms: Any) -> Sigstruct:
    """Return a signed SIGSTRUCT for LOAD, or for what ``terms`` say."""
    given: dict[str, Any] = {
        "enclave_hash": MR_ENCLAVE,
        "attributes": PLAIN,
        "attribute_mask": Attributes(ALL, ALL),
        "cet_attributes_mask": 0xFF,
        **terms,
    }
    template = Sigstruct(**given)
    return signing.sign(template, enclaves.signing_key())


def cpu(*, pages: int = 64, fuses: Fuses = FUSES, launch_signer: bytes | None = None) -> SoftwareCpu:
    """Return a CPU with so many pages of EPC."""
    keys = BaseKeys.from_fuses(fuses)
    return SoftwareCpu(keys, epc=[pages * 4096], cpu_svn=CPU_SVN, boot=b"B" * 32, launch_signer=launch_signer)


def built(of: SoftwareCpu, **create: Any) -> CpuEnclave:
    """Return LOAD as loaded, before EINIT; ``create`` are other operands of ECREATE."""
    enclave = of.enclave(may_provision=True)
    enclave.create(simcpu.Create(**{"size": SIZE, "attributes": PLAIN, **create}))
    for pages in LOAD:
        enclave.add(pages)
    return enclave


def running(of: SoftwareCpu, *, create: dict[str, Any] | None = None, **terms: Any) -> CpuEnclave:
    """Return LOAD after EINIT under these terms; ATTRIBUTES and MISCSELECT of the terms go into ECREATE too."""
    same = {name: terms[name] for name in ("attributes", "misc_select", "cet_attributes") if name in terms}
    enclave = built(of, **same, **(create or {}))
    enclave.init(signed(**terms).build())
    return enclave
