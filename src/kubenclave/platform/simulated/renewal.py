# SPDX-License-Identifier: Apache-2.0
"""A SIMULATED platform gets its certificates and collateral from an issuer elsewhere, and keeps them current.

What it has got it keeps, so that it starts again without the issuer. Its fuses and private keys stay with it. An
add-on that is installed anew has another issuer, with another root: what the one before has sent is then forgotten.
"""

import asyncio
import base64
import http.client
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Never
from urllib.parse import urlsplit

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kubenclave.errors import KubenclaveError, PlatformError, UnreachableError, UsageError
from kubenclave.platform.simulated.issued import LIMIT, PATH, CertificateRequest, Issued
from kubenclave.platform.simulated.keys import BaseKeys
from kubenclave.platform.simulated.provisioning import pck_public_key
from kubenclave.platform.simulated.state import PlatformState, StateFile
from kubenclave.platform.simulated.tcb import PlatformTcb

RENEW_SECONDS: Final = 6 * 3600.0
"""Collateral is made anew each day, and lasts for 30."""

_POLL_SECONDS: Final = 1.0
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_TIMEOUT: Final = 10.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class IssuerAddress:
    """Where an issuer is, and the file with the token that says which node asks (read anew each time: it rotates)."""

    host: str
    port: int
    token_file: Path

    @classmethod
    def parse(cls, url: str, token_file: Path) -> "IssuerAddress":
        """Read ``http://HOST:PORT``; an IPv6 address needs no brackets. Raises UsageError."""
        parts = urlsplit(url)
        host, _, port = parts.netloc.rpartition(":")
        if parts.scheme != "http" or not host or not (port.isascii() and port.isdecimal()) or parts.path.strip("/"):
            raise UsageError(
                "not the address of an issuer", code="simissuer.address", expected="http://HOST:PORT", found=url
            )
        return cls(host.strip("[]"), int(port), token_file)


def request_of(state: PlatformState) -> CertificateRequest:
    """Return what the platform in this state asks for."""
    keys = BaseKeys.from_fuses(state.fuses)
    return CertificateRequest(
        platform=state.fuses.identity,
        tcb=state.tcb,
        keys={tcb: _coordinates(pck_public_key(keys, tcb)) for tcb in PlatformTcb},
    )


def fetch(address: IssuerAddress, request: CertificateRequest) -> Issued:
    """Ask the issuer; blocks for some seconds at most.

    Raises UnreachableError when there is no answer, PlatformError when the issuer refuses or sends something for
    another platform, FormatError when its answer is not understood.
    """
    token = _token(address)
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", PATH, request.to_json(), headers)
        response = connection.getresponse()
        status, body = response.status, response.read(LIMIT + 1)
    except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: a token that is no header
        raise UnreachableError(
            f"the issuer at {address.host}:{address.port} does not answer: {error}",
            code="simissuer.unreachable",
            hint="kubectl get deployment kubenclave-issuer: is it there and ready",
        ) from error
    finally:
        connection.close()
    if status != http.HTTPStatus.OK:
        raise PlatformError("the issuer refuses", code="simissuer.refused", found=f"{status} {_reason(body)}")
    issued = Issued.from_json(body)
    if (issued.platform, issued.tcb) != (request.platform, request.tcb):
        raise PlatformError("the issuer sent what is for another platform", code="simissuer.refused")
    return msgspec.structs.replace(issued, installation=installation_of(token))


def forget_others(directory: Path, state: PlatformState, address: IssuerAddress) -> None:
    """Forget what the issuer of another installation has sent: under its root nobody verifies any more.

    Raises PlatformError where what is kept cannot be removed, or the token not be read.
    """
    try:
        kept = Issued.load(directory, state.fuses.identity)
    except PlatformError:  # nothing is kept
        return
    if kept.installation != (now := installation_of(_token(address))):
        _log.info("issuer.forgotten", before=kept.installation, now=now)
        Issued.forget(directory)


def installation_of(token: str) -> str:
    """Return what tells one installation of the add-on from another: the UID of the service account in a token.

    It is made with the account, and gone with it. Empty where a token names none; whether a token is genuine is for the
    issuer to find out.
    """
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["kubernetes.io"]["serviceaccount"]["uid"])
    except (IndexError, KeyError, TypeError, ValueError, RecursionError):
        return ""


async def keep_current(directory: Path, state: PlatformState, address: IssuerAddress) -> Never:
    """Keep what the issuer sends in ``directory``: at the start, after changes of the TCB's state, and every so often.

    While the issuer is away it is tried again, less and less often; the log says so.
    """
    file, loop = StateFile(directory, state), asyncio.get_running_loop()
    due, pause = loop.time(), _FIRST_PAUSE
    while True:
        with suppress(KubenclaveError):  # the CPU, which follows the same file, has logged it
            changed, state = state, file.current()
            due = loop.time() if changed.tcb is not state.tcb else due
        if loop.time() < due:
            await asyncio.sleep(_POLL_SECONDS)
            continue
        try:
            issued = await asyncio.to_thread(fetch, address, request_of(state))
            issued.save(directory)
        except KubenclaveError as error:
            _log.warning("issuer.waiting", code=error.code, error=str(error), hint=error.hint or "", seconds=pause)
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
            continue
        _log.info("issuer.certified", platform=issued.platform, tcb=issued.tcb.value)
        due, pause = loop.time() + RENEW_SECONDS, _FIRST_PAUSE


def _token(address: IssuerAddress) -> str:
    try:
        return address.token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is no text"
        raise PlatformError(f"cannot read {address.token_file}: {reason}", code="simissuer.token") from error


def _coordinates(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:].hex()


def _reason(body: bytes) -> str:
    """Return what a refusal says in words, as far as it can be read."""
    try:
        return str(json.loads(body)["message"])[:200]
    except (ValueError, KeyError, TypeError, RecursionError):
        return "without a reason"
