# SPDX-License-Identifier: Apache-2.0
"""HTTP as sources use it: a fixed list of origins, limits of time and size, and failures told apart.

Proxies of the environment are honoured (HTTPS_PROXY, NO_PROXY), certificates are always verified, and a redirect leads
nowhere but to the same origin.
"""

import asyncio
import datetime as dt
import email.utils
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx2

from kubenclave.errors import KubenclaveError, UsageError
from kubenclave.services.collateral.sources.base import SourceError, unknown
from kubenclave.wire import pcs

_CONNECT_SECONDS: Final = 10.0
_TOTAL_SECONDS: Final = 60.0
_MOST_REDIRECTS: Final = 3
_LONGEST_WAIT: Final = dt.timedelta(days=1)
_UNKNOWN: Final = frozenset({404, 410, 461, 462})  # 410: a generation withdrawn; 461, 462: of PCCS
_DENIED: Final = frozenset({401, 403, 407})
_BUSY: Final = frozenset({429, 503})
_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer; names of headers in lower case."""

    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)

    def header(self, *names: str) -> str:
        """Return the first of these headers that is there, an empty text where none is."""
        return next((self.headers[name.lower()] for name in names if name.lower() in self.headers), "")


class Http:
    """Requests to the origins of one source."""

    def __init__(
        self,
        name: str,
        *urls: str,
        ca_file: Path | None = None,
        total_seconds: float = _TOTAL_SECONDS,
        limit: int = pcs.MAX_BODY,
    ) -> None:
        self._name: Final = name
        self._origins: Final = frozenset(_origin(url) for url in urls)
        self._total: Final = total_seconds
        self._limit: Final = limit
        self._client: Final = httpx2.AsyncClient(
            follow_redirects=False,
            timeout=httpx2.Timeout(total_seconds, connect=min(_CONNECT_SECONDS, total_seconds)),
            verify=_tls(name, ca_file),
            headers={"Accept-Encoding": "identity", "User-Agent": "kubenclave"},
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def ask(
        self,
        what: str,
        url: str,
        *,
        parameters: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        json: Mapping[str, str] | None = None,
    ) -> Answer:
        """Return the answer to a GET, or to a POST of ``json``; ``what`` is what errors call it.

        Raises SourceError (codes ``source.*``) and UnknownError.
        """
        target = httpx2.URL(url, params=dict(parameters)) if parameters else httpx2.URL(url)
        request = self._client.build_request("POST" if json else "GET", target, headers=dict(headers or {}), json=json)
        try:
            async with asyncio.timeout(self._total):
                for _ in range(_MOST_REDIRECTS):
                    if _origin(str(request.url)) not in self._origins:
                        raise self._error("source.redirect", what, "the source sends us to another host")
                    response = await self._client.send(request, stream=True)
                    try:
                        if response.next_request is None:
                            return await self._read(what, response)
                        request = response.next_request
                    finally:
                        await response.aclose()
        except TimeoutError as error:
            raise self._error("source.timeout", what, "the source takes too long", f"{self._total:g} s") from error
        except httpx2.HTTPError as error:
            raise self._failure(what, error) from error
        raise self._error("source.redirect", what, "the source sends us in circles")

    async def _read(self, what: str, response: httpx2.Response) -> Answer:
        if response.status_code != HTTPStatus.OK:
            raise self._refusal(what, response)
        body = bytearray()
        async for part in response.aiter_raw():
            body += part
            if len(body) > self._limit:
                raise self._error("source.too-large", what, "the answer is too large", f"above {self._limit} bytes")
        return Answer(bytes(body), {name.lower(): value for name, value in response.headers.items()})

    def _refusal(self, what: str, response: httpx2.Response) -> KubenclaveError:
        status = response.status_code
        if status in _UNKNOWN:
            return unknown(what, self._name, f"status {status}")
        if status in _DENIED:
            hint = "check the API key or token of the source, and what the proxy lets through"
            return self._error("source.unauthorized", what, "the source lets us not in", f"status {status}", hint)
        after = retry_after(response.headers.get("retry-after", ""), response.headers.get("date", ""))
        if status == HTTPStatus.TOO_MANY_REQUESTS or (status in _BUSY and after is not None):
            return self._error("source.rate-limited", what, "the source wants a rest", f"status {status}", after=after)
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return self._error("source.failed", what, "the source failed", f"status {status}")
        hint = "is the URL that of a PCS or PCCS, without anything behind the version?"
        return self._error("source.refused", what, "the source refuses the request", f"status {status}", hint)

    def _failure(self, what: str, error: httpx2.HTTPError) -> SourceError:
        causes = tuple(_causes(error))
        text = str(next((each for each in causes if str(each)), error))[:200]
        if any(isinstance(each, ssl.SSLError) for each in causes):
            hint = "the certificate must be good for that name: give the source's CA (ca_file), or check the proxy's"
            return self._error("source.tls", what, "TLS with the source fails", text, hint)
        if isinstance(error, httpx2.ProxyError):
            return self._error(
                "source.proxy", what, "the proxy does not connect us", text, "check HTTPS_PROXY, NO_PROXY"
            )
        if any(isinstance(each, socket.gaierror) for each in causes):
            return self._error("source.dns", what, "the name of the source is not known", text, "check DNS and the URL")
        if isinstance(error, httpx2.TimeoutException):
            return self._error("source.timeout", what, "the source does not answer in time", text)
        return self._error("source.unreachable", what, "the source cannot be reached", text)

    def _error(
        self,
        code: str,
        what: str,
        message: str,
        found: str | None = None,
        hint: str | None = None,
        *,
        after: dt.timedelta | None = None,
    ) -> SourceError:
        return SourceError(
            message, code=code, field=f"{what} from {self._name}", found=found, hint=hint, retry_after=after
        )


def retry_after(value: str, date: str) -> dt.timedelta | None:
    """Read ``Retry-After``: seconds, or a time that counts from ``Date`` (RFC 9110, 10.2.3); a day at most."""
    text = value.strip()
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return min(dt.timedelta(seconds=int(text)), _LONGEST_WAIT)
    try:
        wait = email.utils.parsedate_to_datetime(text) - email.utils.parsedate_to_datetime(date)
    except (TypeError, ValueError):
        return None
    return min(max(wait, dt.timedelta(0)), _LONGEST_WAIT)


def check_url(url: str) -> str:
    """Return a base URL of the configuration without its last slash. Raises UsageError for another kind of text."""
    parts = urlsplit(url)
    try:
        usable = parts.scheme in _PORTS and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable or parts.username or parts.query or parts.fragment:
        raise UsageError(
            "not the URL of a source of collateral",
            code="source.url",
            expected="https://HOST[:PORT][/PATH]",
            found=url.rpartition("@")[2][:200],
        )
    return url.rstrip("/")


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)


def _tls(name: str, ca_file: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            "the file of the source's CA cannot be used", code="source.ca-file", field=name, found=str(error)[:200]
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    each: BaseException | None = error
    while each is not None and each not in found:
        found.append(each)
        each = each.__cause__ or each.__context__
    return found[::-1]
