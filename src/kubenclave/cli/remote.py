# SPDX-License-Identifier: Apache-2.0
"""How commands talk to a service: its URL, a token from a file, and errors as the service gave them."""

import functools
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import click

from kubenclave.cli import evidence, kit
from kubenclave.errors import (
    Finding,
    KubenclaveError,
    PlatformError,
    PolicyError,
    TrustError,
    UnreachableError,
    UsageError,
)

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_TIMEOUT: Final = 30.0
_MAX_ANSWER: Final = 80 << 20  # a page of a thousand entries of the greatest size
_MAX_TOKEN: Final = 16 << 10
_CLASSES: Final[Mapping[int, type[KubenclaveError]]] = {400: UsageError, 404: UsageError, 409: UsageError}


def remote_options(*, required: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command ``--url``, ``--token-file`` and ``--ca``, and hand it ``remote``: None without a URL."""
    text = "The service, as https://collateral.example:8081; an attestation service by its issuer URL."
    options = (
        click.option("--url", required=required, metavar="URL", help=text),
        click.option("--token-file", type=evidence.FILE, metavar="FILE", help="Bearer token, where one is needed."),
        click.option("--ca", type=click.Path(), metavar="FILE", help="CA of the service's certificate, in PEM."),
    )

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def command(*, url: str | None, token_file: str | None, ca: str | None, **given: Any) -> None:
            remote = None if url is None else Remote(url, token_file=token_file, ca=ca)
            function(remote=remote, **given)

        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def is_protected(url: str) -> bool:
    """Tell whether nobody on the way can pose as what is at a URL: https, or http on this machine."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)


class Remote:
    """A service at its URL. Raises UsageError ``service.url`` for one that anybody on the way can pose as."""

    def __init__(self, url: str, *, token_file: str | None = None, ca: str | None = None) -> None:
        if not is_protected(url):
            raise UsageError(
                "not the URL of a service",
                code="service.url",
                expected="an https URL, or http on this machine",
                found=url[:200],
            )
        self._url: Final = url.rstrip("/")
        self._ca: Final = ca
        self._headers: Final = {} if token_file is None else {"Authorization": f"Bearer {_token(token_file)}"}

    def get(self, path: str, **parameters: int) -> Any:
        """Ask for a JSON document. Raises what ``send`` raises."""
        return self.send("GET", path, parameters=parameters)

    def send(self, method: str, path: str, *, document: Any = None, parameters: Mapping[str, int] | None = None) -> Any:
        """Send a request and return the document in the answer, None where it is empty.

        Raises UnreachableError ``service.unreachable``, and what the service says with its code: PolicyError,
        TrustError, UsageError, else PlatformError.
        """
        import httpx2

        try:
            context = ssl.create_default_context(cafile=self._ca)
            with httpx2.Client(verify=context, timeout=_TIMEOUT, follow_redirects=False) as client:
                request = client.build_request(
                    method, self._url + path, json=document, params=parameters, headers=self._headers
                )
                answer = client.send(request, stream=True)
                content = self._content(answer.iter_bytes())
        except (httpx2.HTTPError, OSError) as error:
            raise self._unreachable(str(error)) from error
        if answer.is_success:
            return _json(content) if content else None
        problem = _json(content)
        if not isinstance(problem, dict) or not isinstance(problem.get("code"), str):
            raise self._unreachable(f"status {answer.status_code}")
        raise _error(answer.status_code, problem)

    def _content(self, parts: Iterable[bytes]) -> bytes:
        content = bytearray()
        for part in parts:
            content += part
            if len(content) > _MAX_ANSWER:
                raise self._unreachable("an answer without end")
        return bytes(content)

    def _unreachable(self, found: str) -> UnreachableError:
        return UnreachableError(
            "the service gives no answer that can be read",
            code="service.unreachable",
            field=self._url,
            found=found[:200],
            hint="check the URL, of an attestation service with the path of its issuer, and --ca",
        )


def _token(path: str) -> str:
    text = kit.read_input(path, what="token", limit=_MAX_TOKEN).decode("ascii", "replace").strip()
    if not text.isascii() or not text.isprintable():
        raise UsageError("the file holds no token", code="cli.input", field=path)
    return text


def _json(content: bytes) -> Any:
    """Return a document; None for what is none, so that whoever asked says what was expected."""
    import json

    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _error(status: int, problem: Mapping[str, Any]) -> KubenclaveError:
    """Return a problem document as the error that it was made of."""
    known = ("field", "expected", "found", "hint")
    text = {name: str(problem[name])[:500] for name in known if problem.get(name) is not None}
    findings = problem.get("findings")
    if isinstance(findings, list) and findings and all(isinstance(each, dict) for each in findings):
        members = ("code", "field", "expected", "found")
        return PolicyError([Finding(*(str(each.get(name, ""))[:500] for name in members)) for each in findings])
    kind = TrustError if status in {401, 403, 422} else _CLASSES.get(status, PlatformError)
    return kind(str(problem.get("title", "refused"))[:500], code=problem["code"][:100], **text)
