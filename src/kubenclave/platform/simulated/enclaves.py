# SPDX-License-Identifier: Apache-2.0
"""The two enclaves that every quoting platform runs, SIMULATED: quoting enclave (QE) and PCE.

Their pages hold a sentence instead of code. What counts is their identity, which is the same in all simulations.
"""

import functools
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography.hazmat.primitives.asymmetric import rsa

from kubenclave.platform.simulated import signing
from kubenclave.platform.simulated.documents import QE_ISV_SVN, QE_PROD_ID
from kubenclave.platform.simulated.tcb import PCE_SVN
from kubenclave.sgx.attributes import AttributeFlags, Attributes, Xfrm
from kubenclave.sgx.epc import PAGE_SIZE
from kubenclave.sgx.measure import Pages, measure
from kubenclave.sgx.report import TargetInfo
from kubenclave.sgx.secinfo import SecInfo
from kubenclave.sgx.sigstruct import EXPONENT, KEY_SIZE, Sigstruct

# The signing key of the simulation's enclaves: RSA-3072 with exponent 3, public knowledge, here for everyone to see.
# It protects nothing: whoever signs with it gets an enclave that only simulated platforms certify.
_P: Final = int(
    "f26023d7764184a43cf8d12ecd1e49914796e178c73fabdcf25391a20ba4eb2d0b6d0f9eac387040b63a3d55eff5929541b3fb3efed4d3cb"
    "1f2119e2002eefc6442b77422740ddc51d5a816ed1b52d06b8cfeccd61db158b908581dd201e7afd46e2c6f1db155a76ceb8f011119b6835"
    "bf084838569c48529b06c66528173c44c11c2225dbd1d671543a3ccc2e5a1382cc186fe484d631982a3f59b8d0a3f1d03ef2711cafb24a49"
    "bffa51f298b67db62fbee9d3a5898fd3f67b1da37adc1551",
    16,
)
_Q: Final = int(
    "d58cc42dbd417cc5c8309a2a3c17a828801c8cbdbacced8b2f7762f30073520c7560214591eded212c895e805ab7403a8406f73106f88094"
    "78dbbe3a742c8bffea992a7cbfbaf3ea1a31ebf26d3b3076432e02938d67422a0af0060287d30384d6a25928cac885e32c46451c9eec7ec0"
    "b1e389ae92c98f4f8bd281fdb810268c1901b6ab04b4335eb7f645cf8de1a12aa365972d2577d30c6559d5f345205995caadc27e7648bc6e"
    "a0f8030cc0dbf1e2992af378532179cd934983ac7708f4fd",
    16,
)
_MODULUS: Final = _P * _Q
MR_SIGNER: Final = Sigstruct(
    enclave_hash=bytes(32),
    attributes=Attributes(0, 0),
    attribute_mask=Attributes(0, 0),
    modulus=_MODULUS.to_bytes(KEY_SIZE, "little"),
).mr_signer
"""MRSIGNER of both enclaves, 32 bytes."""

_DATE: Final = 0x20260101
_ALL_BITS: Final = (1 << 64) - 1
_ATTRIBUTES: Final = Attributes(AttributeFlags.MODE64BIT | AttributeFlags.PROVISION_KEY, Xfrm.X87 | Xfrm.SSE)
_SIZE: Final = 4 * PAGE_SIZE
_RX, _TCS, _RW = SecInfo(0x205), SecInfo(0x100), SecInfo(0x203)


class Loadable(Protocol):
    """A connection to a CPU on which no enclave has been created: ``kubenclave.platform.simcpu.Enclave``."""

    def create(self, size: int, ssa_frame_size: int = 1, *, attributes: Attributes) -> None:
        """ECREATE."""

    def add(self, pages: Pages) -> None:
        """EADD and EEXTEND."""

    def init(self, sigstruct: bytes) -> None:
        """EINIT."""


@dataclass(frozen=True)
class EnclaveImage:
    """An enclave to be loaded, with MODE64BIT and PROVISIONKEY. ``name`` is in its pages, and so in MRENCLAVE."""

    name: str
    isv_prod_id: int
    isv_svn: int

    @functools.cached_property
    def pages(self) -> tuple[Pages, ...]:
        """Three measured pages: a sentence where the code would be, a TCS, and its state save area."""
        sentence = f"SIMULATED {self.name} of kubenclave. It protects nothing.".encode()
        ossa, nssa = 2 * PAGE_SIZE, 1
        tcs = bytes(16) + ossa.to_bytes(8, "little") + bytes(4) + nssa.to_bytes(4, "little")
        contents = (sentence, tcs, b"")
        return tuple(
            Pages(number * PAGE_SIZE, kind, 1, content.ljust(PAGE_SIZE, b"\0"))
            for number, (kind, content) in enumerate(zip((_RX, _TCS, _RW), contents, strict=True))
        )

    @functools.cached_property
    def mr_enclave(self) -> bytes:
        """MRENCLAVE, 32 bytes."""
        return measure(_SIZE, 1, self.pages)

    @functools.cached_property
    def sigstruct(self) -> bytes:
        """SIGSTRUCT, 1808 bytes; nothing may differ from it, DEBUG included."""
        template = Sigstruct(
            enclave_hash=self.mr_enclave,
            attributes=_ATTRIBUTES,
            attribute_mask=Attributes(_ALL_BITS, _ALL_BITS),
            isv_prod_id=self.isv_prod_id,
            isv_svn=self.isv_svn,
            date=_DATE,
        )
        return signing.sign(template, signing_key()).build()

    @property
    def target_info(self) -> TargetInfo:
        """The TARGETINFO that names this enclave once it runs (with INIT set)."""
        flags = _ATTRIBUTES.flags | AttributeFlags.INIT
        return TargetInfo(mr_enclave=self.mr_enclave, attributes=Attributes(flags, _ATTRIBUTES.xfrm))

    def load(self, connection: Loadable) -> None:
        """ECREATE to EINIT on a connection. Raises what the connection raises when the CPU refuses."""
        connection.create(_SIZE, attributes=_ATTRIBUTES)
        for pages in self.pages:
            connection.add(pages)
        connection.init(self.sigstruct)


QUOTING_ENCLAVE: Final = EnclaveImage("quoting enclave", QE_PROD_ID, QE_ISV_SVN)
PCE: Final = EnclaveImage("provisioning certification enclave", 1, PCE_SVN)


def signing_key() -> rsa.RSAPrivateKey:
    """Return the key that signs both enclaves, public knowledge as it is."""
    d = pow(EXPONENT, -1, (_P - 1) * (_Q - 1))
    numbers = rsa.RSAPrivateNumbers(
        p=_P,
        q=_Q,
        d=d,
        dmp1=d % (_P - 1),
        dmq1=d % (_Q - 1),
        iqmp=pow(_Q, -1, _P),
        public_numbers=rsa.RSAPublicNumbers(EXPONENT, _MODULUS),
    )
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)  # the key is a constant
