# SPDX-License-Identifier: Apache-2.0
"""A SIMULATED platform in one process, without sockets: software CPU, issuer, quoting enclave and applications."""

import datetime as dt
from dataclasses import replace
from typing import Final, Self

from kubenclave.dcap.collateral import Collateral
from kubenclave.dcap.pckext import PckCa
from kubenclave.platform.simulated import enclaves, signing
from kubenclave.platform.simulated.cpu import CpuEnclave, SoftwareCpu
from kubenclave.platform.simulated.enclaves import PCE, QUOTING_ENCLAVE, EnclaveImage
from kubenclave.platform.simulated.issuer import Issuer
from kubenclave.platform.simulated.keys import BaseKeys, Fuses
from kubenclave.platform.simulated.pce import CertificationEnclave
from kubenclave.platform.simulated.pki import Pki
from kubenclave.platform.simulated.quoting import QuotingEnclave
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.keyrequest import KeyRequest
from kubenclave.sgx.measure import Pages
from kubenclave.sgx.report import TargetInfo
from kubenclave.sgx.sigstruct import Sigstruct
from kubenclave.wire import simcpu

NOW: Final = dt.datetime(2026, 3, 15, 12, 30, tzinfo=dt.UTC)
SEED: Final = bytes(range(32))
APP_ATTRIBUTES: Final = Attributes(AttributeFlags.MODE64BIT, 3)
APP_MR_ENCLAVE: Final = b"\xa9" * 32
_ALL_BUT_DEBUG: Final = ~AttributeFlags.DEBUG & (1 << 64) - 1


class DirectEnclave:
    """An enclave of a software CPU, with the methods of a connection to one behind a socket."""

    def __init__(self, platform: "Platform") -> None:
        self._platform = platform
        self._enclave: CpuEnclave = platform.cpu.enclave(may_provision=True)
        self.closed = False

    def create(self, size: int, ssa_frame_size: int = 1, *, attributes: Attributes) -> None:
        self._enclave.create(simcpu.Create(size=size, ssa_frame_size=ssa_frame_size, attributes=attributes))

    def add(self, pages: Pages) -> None:
        self._enclave.add(pages)

    def measured(self, mr_enclave: bytes, pages: int) -> None:
        self._enclave.measured(mr_enclave, pages)

    def init(self, sigstruct: bytes) -> None:
        self._enclave.init(sigstruct)

    def report(self, target_info: TargetInfo | bytes, report_data: bytes) -> bytes:
        target = target_info if isinstance(target_info, bytes) else target_info.build()
        return self._enclave.report(target, report_data)

    def key(self, request: KeyRequest) -> bytes:
        self._platform.keys_asked += 1
        return self._enclave.key(request.build())

    def pck_chain(self) -> bytes:
        return self._platform.pck_chain()

    def status(self) -> simcpu.CpuStatus:
        return self._platform.cpu.status()

    def close(self) -> None:
        self.closed = True
        self._enclave.end()


class Platform:
    """One machine. ``fuse`` tells machines apart, ``boot`` the times it was switched on."""

    def __init__(
        self,
        tcb: PlatformTcb = PlatformTcb.UP_TO_DATE,
        *,
        fuse: bytes = b"f" * 16,
        boot: bytes = b"b" * 32,
        ca: PckCa = PckCa.PLATFORM,
    ) -> None:
        self.keys = BaseKeys.from_fuses(Fuses(provisioning=fuse, seal=fuse, owner_epoch=bytes(16)))
        self.cpu = SoftwareCpu(self.keys, epc=[1 << 20], cpu_svn=tcb.svns.cpu_svn, boot=boot)
        self.issuer = Issuer(Pki.from_seed(SEED), platform=fuse, ca=ca)
        self.tcb = tcb
        self.keys_asked = 0
        self.loaded: list[DirectEnclave] = []
        self.qe = QuotingEnclave(self.load)

    @classmethod
    def ready(cls, tcb: PlatformTcb = PlatformTcb.UP_TO_DATE, *, ca: PckCa = PckCa.PLATFORM) -> Self:
        platform = cls(tcb, ca=ca)
        platform.qe.init()
        return platform

    def load(self, image: EnclaveImage) -> DirectEnclave:
        enclave = DirectEnclave(self)
        image.load(enclave)
        self.loaded.append(enclave)
        return enclave

    def change(self, tcb: PlatformTcb) -> None:
        self.tcb = tcb
        self.cpu.cpu_svn = tcb.svns.cpu_svn

    def pck_chain(self) -> bytes:
        pce = DirectEnclave(self)
        PCE.load(pce)
        chain = self.issuer.pck_chain(self.tcb, CertificationEnclave(pce).pck_public_key)
        pce.close()
        return chain

    def collateral(self, now: dt.datetime = NOW) -> Collateral:
        return self.issuer.collateral(self.tcb, now)

    def application(self, *, debug: bool = False) -> DirectEnclave:
        flags = AttributeFlags.DEBUG if debug else 0
        enclave = DirectEnclave(self)
        enclave.create(1 << 13, attributes=replace(APP_ATTRIBUTES, flags=APP_ATTRIBUTES.flags | flags))
        enclave.measured(APP_MR_ENCLAVE, 2)
        enclave.init(app_sigstruct())
        return enclave

    def app_report(self, data: bytes = bytes(64), *, debug: bool = False) -> bytes:
        enclave = self.application(debug=debug)
        report = enclave.report(QUOTING_ENCLAVE.target_info, data)
        enclave.close()
        return report

    def quote(self, data: bytes = bytes(64), *, debug: bool = False) -> bytes:
        return self.qe.quote(self.app_report(data, debug=debug)).quote


def app_sigstruct() -> bytes:
    template = Sigstruct(
        enclave_hash=APP_MR_ENCLAVE,
        attributes=APP_ATTRIBUTES,
        attribute_mask=Attributes(_ALL_BUT_DEBUG, (1 << 64) - 1),
        isv_prod_id=7,
        isv_svn=3,
    )
    return signing.sign(template, enclaves.signing_key()).build()
