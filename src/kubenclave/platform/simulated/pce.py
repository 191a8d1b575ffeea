# SPDX-License-Identifier: Apache-2.0
"""The SIMULATED provisioning certification enclave (PCE): signs REPORTs of quoting enclaves with the PCK key.

The PCK key follows from the PCE's provisioning key, so only the CPU whose fuses go into that key can have it, and
whoever knows the fuses (the issuer's side of the simulation) can tell its public half.
"""

import functools
import hmac
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC

from kubenclave.errors import PlatformError
from kubenclave.platform.simulated.enclaves import PCE
from kubenclave.platform.simulated.pki import derive_key, raw_signature
from kubenclave.sgx.attributes import AttributeFlags, Attributes
from kubenclave.sgx.keyrequest import KeyName, KeyRequest
from kubenclave.sgx.report import REPORT_BODY_SIZE, Report, TargetInfo

# Everything that would make another enclave of this one goes into a key; INIT and DEBUG always do.
KEY_ATTRIBUTE_MASK: Final = Attributes((1 << 64) - 1, 0)


class EnclaveConnection(Protocol):
    """An initialised enclave, as itself: ``kubenclave.platform.simcpu.Enclave`` satisfies it."""

    def report(self, target_info: TargetInfo | bytes, report_data: bytes) -> bytes:
        """EREPORT: 432 bytes."""

    def key(self, request: KeyRequest) -> bytes:
        """EGETKEY: 16 bytes."""


def pck_key_request(cpu_svn: bytes) -> KeyRequest:
    """Return what the PCE asks EGETKEY for its provisioning key at that CPUSVN (16 bytes)."""
    return KeyRequest(
        key_name=KeyName.PROVISION,
        isv_svn=PCE.isv_svn,
        cpu_svn=cpu_svn,
        attribute_mask=KEY_ATTRIBUTE_MASK,
    )


def pck_private_key(provisioning_key: bytes) -> ec.EllipticCurvePrivateKey:
    """Return the PCK key, P-256, that follows from the PCE's provisioning key (16 bytes)."""
    return derive_key(provisioning_key, "PCK key")


def cpu_svn_of(enclave: EnclaveConnection) -> bytes:
    """Return the CPUSVN (16 bytes) under which an enclave runs, from a REPORT it makes for nobody."""
    return Report.parse(enclave.report(bytes(512), bytes(64))).body.cpu_svn


def report_mac_key(enclave: EnclaveConnection, key_id: bytes) -> CMAC:
    """Return AES-CMAC, without a message yet, under the enclave's REPORT key for that KEYID (32 bytes)."""
    key = enclave.key(KeyRequest(key_name=KeyName.REPORT, key_id=key_id))
    return CMAC(algorithms.AES(key))


def report_is_genuine(report: bytes, mac_key: CMAC) -> bool:
    """Tell, in constant time, whether a REPORT (432 bytes) was made on this CPU for the owner of that key."""
    cmac = mac_key.copy()
    cmac.update(report[:REPORT_BODY_SIZE])
    return hmac.compare_digest(cmac.finalize(), report[REPORT_BODY_SIZE + 32 :])


class CertificationEnclave:
    """The PCE on its connection."""

    def __init__(self, enclave: EnclaveConnection) -> None:
        self._enclave: Final = enclave

    @functools.cached_property
    def _pck_key(self) -> ec.EllipticCurvePrivateKey:
        return pck_private_key(self._enclave.key(pck_key_request(cpu_svn_of(self._enclave))))

    @property
    def pck_public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half of the PCK key at the CPUSVN under which this PCE runs."""
        return self._pck_key.public_key()

    def certify(self, report: bytes) -> bytes:
        """Sign the 384-byte body of a REPORT (432 bytes) made for the PCE; return r‖s, 64 bytes.

        As with Intel the MAC and the PROVISIONKEY attribute are checked, not who the reporter is: telling quoting
        enclaves from others is the verifier's part. Raises PlatformError with code ``pce.refused``.
        """
        parsed = Report.parse(report)
        if not report_is_genuine(report, report_mac_key(self._enclave, parsed.key_id)):
            raise _refused("a REPORT of this CPU for the PCE", "a MAC that does not fit")
        if not parsed.body.attributes.flags & AttributeFlags.PROVISION_KEY:
            raise _refused("the attribute PROVISIONKEY", ", ".join(parsed.body.attributes.names()))
        return raw_signature(self._pck_key, report[:REPORT_BODY_SIZE])


def _refused(expected: str, found: str) -> PlatformError:
    return PlatformError("the SIMULATED PCE does not certify", code="pce.refused", expected=expected, found=found)
