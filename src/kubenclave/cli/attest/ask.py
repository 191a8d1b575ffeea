# SPDX-License-Identifier: Apache-2.0
"""The enclave's half of key release: key pair, challenge, quote over both, and the secret unwrapped."""

import base64
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import kit
from kubenclave.cli.remote import Remote
from kubenclave.errors import FormatError, PlatformError

if TYPE_CHECKING:
    from joserfc.jwk import ECKey

QuoteOver = Callable[[bytes], bytes]
"""64 bytes of report data to a quote."""

GRAMINE: Final = Path("/dev/attestation")
"""Where Gramine lets its enclaves write 64 bytes of report data and read a quote over them."""

_ALGORITHMS: Final = ["ECDH-ES+A256KW", "A256GCM"]


def quote_over(socket: Path | None) -> QuoteOver:
    """Return how the enclave that this process was started in gets quotes. Raises PlatformError without one."""
    from kubenclave.platform.aesmclient import AesmClient, socket_path
    from kubenclave.platform.simcpu import Enclave

    enclave = Enclave.inherited(os.environ)
    if enclave is None and (GRAMINE / "quote").exists():
        return _gramine_quote
    if enclave is None:
        raise PlatformError(
            "there is no enclave here to make a REPORT",
            code="quote.no-enclave",
            hint="kubenclave sim run -- kubenclave attest secret get ..., or ask from your own enclave: key-release.md",
        )
    click.get_current_context().with_resource(enclave)
    kit.warn("SIMULATED enclave: nothing is protected by hardware")
    client = AesmClient(socket_path(os.environ) if socket is None else socket)
    return lambda report_data: client.quote(lambda target: enclave.report(target, report_data))


def ask(remote: Remote, name: str, quote: QuoteOver) -> tuple[dict[str, Any], bytes]:
    """Ask for a secret and return the answer and the value.

    Raises what the service says, and FormatError ``release.answer`` for an answer that holds no secret for us.
    """
    from joserfc.jwk import ECKey

    from kubenclave.dcap.binding import report_data_over, runtime_data

    key = ECKey.generate_key("P-256")
    challenge = remote.send("POST", "/v1/challenge")
    nonce = challenge.get("nonce") if isinstance(challenge, dict) else None
    if not isinstance(nonce, str):
        raise _unfit("no challenge")
    data = runtime_data(nonce, key.as_dict(private=False))
    evidence = {
        "secret": name,
        "challenge": nonce,
        "quote": _encoded(quote(report_data_over(data))),
        "runtime_data": {"data": _encoded(data), "type": "JSON"},
    }
    answer = remote.send("POST", "/v1/release", document=evidence)
    if not isinstance(answer, dict) or not isinstance(answer.get("jwe"), str):
        raise _unfit("no JWE")
    return answer, _unwrapped(answer["jwe"], key)


def _gramine_quote(report_data: bytes) -> bytes:
    """Get a quote the way Gramine gives it. Raises PlatformError ``quote.gramine``."""
    try:
        (GRAMINE / "user_report_data").write_bytes(report_data)
        return (GRAMINE / "quote").read_bytes()
    except OSError as error:
        raise PlatformError(
            "Gramine gives no quote",
            code="quote.gramine",
            field=str(GRAMINE),
            found=error.strerror or str(error),
            hint='the manifest needs sgx.remote_attestation = "dcap", the machine a working AESM',
        ) from error


def _unwrapped(token: str, key: "ECKey") -> bytes:
    from joserfc import jwe
    from joserfc.errors import JoseError

    try:
        value = jwe.decrypt_compact(token, key, algorithms=_ALGORITHMS).plaintext
    except (JoseError, ValueError):
        value = None
    if value is None:
        raise _unfit("a JWE that our key does not open")
    return value


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unfit(found: str) -> FormatError:
    return FormatError(
        "the service answers with something else than a secret",
        code="release.answer",
        expected="a JWE to our key",
        found=found,
    )
