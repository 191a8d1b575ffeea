# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED quoting enclave: turns REPORTs made for it into ECDSA-P256 quotes of version 3.

What does not change from quote to quote (the attestation key, its certification by the PCE, the certificates) is
prepared by ``init``; a quote then costs one AES-CMAC and one signature.
"""

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC

from kubenclave.errors import PlatformError
from kubenclave.platform.simulated.enclaves import PCE, QUOTING_ENCLAVE, EnclaveImage
from kubenclave.platform.simulated.pce import (
    KEY_ATTRIBUTE_MASK,
    CertificationEnclave,
    EnclaveConnection,
    report_is_genuine,
    report_mac_key,
)
from kubenclave.platform.simulated.pki import derive_key
from kubenclave.sgx.certification import CertificationData, CertificationType
from kubenclave.sgx.keyrequest import KeyName, KeyPolicy, KeyRequest
from kubenclave.sgx.layout import wrong_size
from kubenclave.sgx.quote import QuoteHeader, QuoteSignature, TeeType
from kubenclave.sgx.report import REPORT_BODY_SIZE, REPORT_SIZE, Report
from kubenclave.wire.quoteworker import QE_REPORT_INFO_SIZE, InitResult, QuoteResult
from kubenclave.wire.simcpu import CpuStatus

AUTH_DATA: Final = bytes(range(32))
"""QE authentication data, the bytes that Intel's quoting enclave has there."""

_ECDSA: Final = ec.ECDSA(hashes.SHA256())
_QE_ID_KEY: Final = hashlib.sha256(b"kubenclave simulated QE id").digest()
_KNOWN_KEY_IDS: Final = 64
_NONCE_SIZE: Final = 16
_QE_REPORT_AT: Final = 528  # in qe_report_info: nonce[16] | TARGETINFO[512] | REPORT[432]
_SIGNED_SIZE: Final = 48 + REPORT_BODY_SIZE


class Connection(EnclaveConnection, Protocol):
    """What quoting needs of a CPU connection with an enclave on it: ``kubenclave.platform.simcpu.Enclave``."""

    def pck_chain(self) -> bytes:
        """Return the platform's PCK certificate chain, PEM."""

    def status(self) -> CpuStatus:
        """Return EPC and CPUSVN of the CPU."""

    def close(self) -> None:
        """End the enclave."""


Load = Callable[[EnclaveImage], Connection]
"""Loads an enclave on a connection of its own."""


@dataclass(frozen=True, slots=True)
class _Certified:
    """An attestation key and everything that vouches for it; ``tail`` is what follows a quote's signature."""

    enclave: Connection
    key: ec.EllipticCurvePrivateKey
    cpu_svn: bytes
    chain: bytes
    header: bytes
    tail: bytes
    result: InitResult


class QuotingEnclave:
    """QE and PCE, loaded on two connections when first needed and anew when the platform's TCB has changed.

    Its methods raise PlatformError (codes ``quoting.*``, ``pce.*`` and those of the connection), and
    UnreachableError when the CPU is gone. Not for more than one thread.
    """

    def __init__(self, load: Load) -> None:
        self._load: Final = load
        self._enclaves = ExitStack()
        self._certified: _Certified | None = None
        self._mac_keys: OrderedDict[bytes, CMAC] = OrderedDict()

    def init(self) -> InitResult:
        """Have the attestation key certified for the platform as it is now; return what clients need for quotes.

        The key is the same after every restart at the same TCB. Raises PlatformError with code
        ``quoting.no-certificate`` when the platform's PCK certificate is for another key than the PCE's.
        """
        certified = self._certified
        if certified is None or certified.enclave.pck_chain() != certified.chain:
            certified = self._start()
        return certified.result

    def quote(self, report: bytes, qe_report_info: bytes | None = None) -> QuoteResult:
        """Return the quote for a REPORT (432 bytes) made on this CPU for the quoting enclave.

        Given ``qe_report_info`` (960 bytes: nonce, TARGETINFO, room for a REPORT), it comes back with the quoting
        enclave's own REPORT for that target, whose data is SHA-256(nonce ‖ quote). Raises PlatformError with code
        ``quoting.not-initialised``, ``quoting.invalid-report`` (its MAC does not fit) or ``quoting.qe-report``.
        """
        certified = self._certified
        if certified is None:
            raise PlatformError("the SIMULATED quoting enclave is not initialised", code="quoting.not-initialised")
        if len(report) != REPORT_SIZE:
            raise wrong_size("REPORT", REPORT_SIZE, len(report))
        if not self._is_genuine(certified, report) or report[:16] != certified.cpu_svn:
            certified = self._start_after_change(certified, report)
        signed = certified.header + report[:REPORT_BODY_SIZE]
        quote = signed + certified.tail[:4] + _sign(certified.key, signed) + certified.tail[4:]
        if qe_report_info is None:
            return QuoteResult(quote)
        return QuoteResult(quote, _answer_for(certified.enclave, quote, qe_report_info))

    def close(self) -> None:
        """End both enclaves; ``init`` loads them again."""
        self._certified = None
        self._mac_keys.clear()
        self._enclaves.close()

    def _is_genuine(self, certified: _Certified, report: bytes) -> bool:
        key_id = report[REPORT_BODY_SIZE : REPORT_BODY_SIZE + 32]
        key = self._mac_keys.get(key_id)
        if key is not None:
            return report_is_genuine(report, key)
        key = report_mac_key(certified.enclave, key_id)
        if not report_is_genuine(report, key):
            return False  # its KEYID is anybody's choice and displaces none that is in use
        self._mac_keys[key_id] = key
        if len(self._mac_keys) > _KNOWN_KEY_IDS:
            self._mac_keys.popitem(last=False)
        return True

    def _start_after_change(self, certified: _Certified, report: bytes) -> _Certified:
        """Have the key certified anew for a REPORT that was made after the platform's TCB has changed."""
        cpu_svn = report[:16]
        if cpu_svn != certified.cpu_svn and cpu_svn == certified.enclave.status().cpu_svn:
            certified = self._start()
            if self._is_genuine(certified, report):
                return certified
        raise PlatformError(
            "REPORT was not made on this CPU for the SIMULATED quoting enclave",
            code="quoting.invalid-report",
            hint="get the target info anew and make the REPORT with it",
        )

    def _start(self) -> _Certified:
        self.close()
        with ExitStack() as enclaves:
            pce = self._load(PCE)
            enclaves.callback(pce.close)
            enclave = self._load(QUOTING_ENCLAVE)
            enclaves.callback(enclave.close)
            self._certified = _certify(enclave, CertificationEnclave(pce))
            self._enclaves = enclaves.pop_all()
        return self._certified


def _certify(enclave: Connection, pce: CertificationEnclave) -> _Certified:
    own = Report.parse(enclave.report(bytes(512), bytes(64))).body
    key = _attestation_key(enclave, own.cpu_svn)
    numbers = key.public_key().public_numbers()
    public = numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")
    pub_key_id = hashlib.sha256(public + AUTH_DATA).digest()
    report = enclave.report(PCE.target_info, pub_key_id + bytes(32))
    signature = pce.certify(report)
    chain = _pck_chain(enclave, pce.pck_public_key)
    header = QuoteHeader(
        version=3,
        tee_type=TeeType.SGX,
        qe_svn=own.isv_svn,
        pce_svn=PCE.isv_svn,
        user_data=_qe_id(enclave) + bytes(4),
    ).build()
    section = QuoteSignature(
        bytes(64),
        public,
        report[:REPORT_BODY_SIZE],
        signature,
        AUTH_DATA,
        CertificationData(CertificationType.PCK_CERT_CHAIN, chain + b"\0"),  # the NUL is Intel's
    ).build(3)
    tail = struct.pack("<I", len(section)) + section[64:]
    result = InitResult(QUOTING_ENCLAVE.target_info.build(), pub_key_id, _SIGNED_SIZE + 4 + len(section))
    return _Certified(enclave, key, own.cpu_svn, chain, header, tail, result)


def _attestation_key(enclave: EnclaveConnection, cpu_svn: bytes) -> ec.EllipticCurvePrivateKey:
    request = KeyRequest(
        key_name=KeyName.SEAL,
        key_policy=KeyPolicy.MRSIGNER,
        isv_svn=QUOTING_ENCLAVE.isv_svn,
        cpu_svn=cpu_svn,
        attribute_mask=KEY_ATTRIBUTE_MASK,
    )
    return derive_key(enclave.key(request), "attestation key")


def _qe_id(enclave: EnclaveConnection) -> bytes:
    """Return the platform's pseudonym, 16 bytes: from a key without SVNs, so that it outlives TCB changes."""
    request = KeyRequest(
        key_name=KeyName.SEAL,
        key_policy=KeyPolicy.MRSIGNER,
        attribute_mask=KEY_ATTRIBUTE_MASK,
        key_id=_QE_ID_KEY,
    )
    cmac = CMAC(algorithms.AES(enclave.key(request)))
    cmac.update(b"QE id")
    return cmac.finalize()


def _pck_chain(enclave: Connection, pck_key: ec.EllipticCurvePublicKey) -> bytes:
    chain = enclave.pck_chain()
    leaf = x509.load_pem_x509_certificate(chain).public_key()
    if leaf != pck_key:
        raise PlatformError(
            "the PCK certificate is not for this platform's TCB",
            code="quoting.no-certificate",
            expected="a certificate of the PCE's key",
            found="one of another key",
            hint="the state may just have changed: try again; else the CPU and its state do not belong together",
        )
    return chain


def _sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    r, s = utils.decode_dss_signature(key.sign(message, _ECDSA))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def _answer_for(enclave: EnclaveConnection, quote: bytes, qe_report_info: bytes) -> bytes:
    if len(qe_report_info) != QE_REPORT_INFO_SIZE:
        raise wrong_size("qe_report_info", QE_REPORT_INFO_SIZE, len(qe_report_info))
    nonce, target = qe_report_info[:_NONCE_SIZE], qe_report_info[_NONCE_SIZE:_QE_REPORT_AT]
    try:
        report = enclave.report(target, hashlib.sha256(nonce + quote).digest() + bytes(32))
    except PlatformError as error:
        raise PlatformError(
            f"the SIMULATED quoting enclave cannot make its REPORT: {error.message}", code="quoting.qe-report"
        ) from error
    return qe_report_info[:_QE_REPORT_AT] + report
