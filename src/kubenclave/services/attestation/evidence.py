# SPDX-License-Identifier: Apache-2.0
"""Evidence as the judge takes it, whichever API it came by."""

import functools
import hashlib
import hmac
import json
import re
from dataclasses import dataclass, field
from typing import Any, Final

from kubenclave.dcap.collateral import load_json
from kubenclave.dcap.judgement import DataType, HeldData
from kubenclave.dcap.ratls import RaTlsCertificate
from kubenclave.errors import FormatError, TrustError
from kubenclave.sgx.quote import Body, Quote
from kubenclave.sgx.report import ReportBody

MAX_QUOTE: Final = 64 * 1024  # real ones are 5 kB
MAX_PCK_CHAIN: Final = 32 * 1024
MAX_HELD_DATA: Final = 128 * 1024
MAX_NONCE: Final = 256
_NONCE: Final = re.compile(r"[ -~]*")
_DIGEST: Final = 32


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A quote and what comes with it; nothing in here is verified, only bounded.

    - ``quote``: as the quoting enclave wrote it.
    - ``pck_chain``: PEM, for a quote that carries none.
    - ``runtime_data``: report data begins with its SHA-256.
    - ``init_data``: CONFIGID begins with its SHA-256.
    - ``nonce``: goes into the token as it is and proves nothing.
    - ``challenge``: a nonce of ours that runtime data has to hold; it is used up.
    - ``certificate``: the RA-TLS certificate that the quote was taken from, whose key the quote has to vouch for.

    Raises FormatError (codes ``evidence.*``, ``json.*``).
    """

    quote: bytes = field(repr=False)
    pck_chain: bytes | None = None
    runtime_data: HeldData | None = None
    init_data: HeldData | None = None
    nonce: str | None = None
    challenge: str | None = None
    certificate: RaTlsCertificate | None = None

    def __post_init__(self) -> None:
        runtime_data = None if self.runtime_data is None else self.runtime_data.data
        init_data = None if self.init_data is None else self.init_data.data
        bounds = (
            ("quote", self.quote, MAX_QUOTE),
            ("pck_chain", self.pck_chain, MAX_PCK_CHAIN),
            ("runtime_data", runtime_data, MAX_HELD_DATA),
            ("init_data", init_data, MAX_HELD_DATA),
            ("nonce", self.nonce, MAX_NONCE),
            ("challenge", self.challenge, MAX_NONCE),
        )
        for name, value, most in bounds:
            if value is not None and len(value) > most:
                unit = "characters" if isinstance(value, str) else "bytes"
                raise FormatError(
                    "a part of the evidence is too long",
                    code="evidence.size",
                    field=name,
                    expected=f"at most {most} {unit}",
                    found=f"{len(value)} {unit}",
                )

        if self.nonce is not None and not _NONCE.fullmatch(self.nonce):
            raise FormatError(
                "the nonce has characters that tokens do not hold",
                code="evidence.nonce",
                field="nonce",
                expected="printable ASCII",
            )
        for name in ("runtime_data", "init_data"):
            held: HeldData | None = getattr(self, name)
            if held is not None and held.kind is DataType.JSON:
                _check_json(held.data, name)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the quote, 32 bytes: what logs and tokens call the evidence."""
        return hashlib.sha256(self.quote).digest()

    @functools.cached_property
    def parsed(self) -> Quote:
        """The quote in its parts. Raises FormatError when it is none."""
        return Quote.parse(self.quote)

    def check_binding(self, body: Body) -> None:
        """Refuse held data that the verified report does not speak of. Raises TrustError (codes ``evidence.*``)."""
        if self.certificate is not None:
            self.certificate.check_binding(body.report_data)
        if self.runtime_data is not None:
            _compare("runtime data", "REPORTDATA", self.runtime_data, body.report_data, "evidence.runtime-data")
        if self.init_data is not None:
            if not isinstance(body, ReportBody):
                raise TrustError("a trust domain's report holds no CONFIGID", code="evidence.init-data-tee")
            _compare("init data", "CONFIGID", self.init_data, body.config_id, "evidence.init-data")

    def check_challenge(self, challenge: str) -> None:
        """Refuse bound data that does not hold the challenge; that it is bound, ``check_binding`` has found.

        It is the member ``nonce`` of runtime data (``dcap.binding``), or the nonce of DICE claims in ASCII.
        Raises TrustError ``evidence.challenge-not-bound``.
        """
        found: Any = None
        if self.certificate is not None and self.certificate.nonce is not None:
            found = self.certificate.nonce.decode("ascii", "replace")
        elif self.runtime_data is not None:
            found = _nonce_in(self.runtime_data.data)
        if not isinstance(found, str) or not hmac.compare_digest(_octets(found), _octets(challenge)):
            raise TrustError(
                "the quote does not speak of the challenge",
                code="evidence.challenge-not-bound",
                field="nonce",
                expected="the challenge in the data whose SHA-256 report data begins with",
                found="another nonce" if found else "no nonce",
                hint='hash runtime data {"nonce": <the challenge>, ...} in the enclave, and send it along',
            )


def _nonce_in(data: bytes) -> Any:
    """Return the member ``nonce`` of a JSON object, None of anything else."""
    try:
        document = load_json(data, "runtime data")
    except FormatError:
        return None
    return document.get("nonce") if isinstance(document, dict) else None


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def read_json(data: bytes, name: str) -> Any:
    """Read JSON whose text is Unicode: a lone surrogate, which an escape can smuggle in, fits into no token or table.

    Raises FormatError (codes ``json.*``).
    """
    value = load_json(data, name)
    if b"\\u" in data:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise FormatError(
                f"{name} is not JSON", code="json.malformed", expected="Unicode text", found="a lone surrogate"
            ) from None
    return value


def _check_json(data: bytes, name: str) -> None:
    """Refuse what is said to be JSON and would not go into a token as an object."""
    value = read_json(data, name)
    if not isinstance(value, dict):
        raise FormatError(
            "held data is no JSON object",
            code="evidence.not-json",
            field=name,
            expected="a JSON object",
            found=type(value).__name__,
            hint="send it as Binary",
        )


def _compare(what: str, name: str, held: HeldData, found: bytes, code: str) -> None:
    if not hmac.compare_digest(held.digest, found[:_DIGEST]):
        raise TrustError(
            f"the quote does not speak of the {what}",
            code=code,
            field=f"{name}[0:{_DIGEST}]",
            expected=f"SHA-256 of the {what}, {held.digest.hex()}",
            found=found[:_DIGEST].hex(),
            hint="send the bytes that the enclave hashed, exactly as they were: JSON is never written anew",
        )
