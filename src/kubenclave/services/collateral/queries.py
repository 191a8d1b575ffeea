# SPDX-License-Identifier: Apache-2.0
"""Parameters of requests to the collateral service. All raise FormatError ``pcs.parameter``.

Parameters that nobody knows are left alone (clients append their own), and of a repeated one the first counts.
"""

import re
import urllib.parse
from typing import Final

from starlette.requests import Request

from kubenclave.errors import FormatError
from kubenclave.services.collateral.items import ROOT_CRL, ItemKey
from kubenclave.services.collateral.sources.base import UnknownError
from kubenclave.wire import pcs

ENCODINGS: Final = ("hex", "der", "pem")
PLATFORMS: Final = ("all", "client", "E3", "E5")
_MAX_URI: Final = 2048
_URI: Final = re.compile(rb"(?:^|&)uri=(.*)", re.DOTALL)
_INTEL: Final = ("https://certificates.trustedservices.intel.com", "https://api.trustedservices.intel.com")
_SIMULATED: Final = ("https://simulated.invalid",)  # as the certificates of every simulated root name it


def first(request: Request, name: str) -> str | None:
    """Return the first value of a parameter, None where it is absent."""
    values = request.query_params.getlist(name)
    return values[0] if values else None


def fmspc(request: Request) -> str:
    """Return the FMSPC, 12 hex digits in lower case."""
    return pcs.parse_fmspc(first(request, "fmspc") or "")


def fmspcs(request: Request) -> frozenset[str]:
    """Return the FMSPCs of a list with commas; none where nothing is said."""
    return families(first(request, "fmspc") or "")


def families(text: str) -> frozenset[str]:
    """Return the FMSPCs of a text with commas between them; none of an empty one."""
    return frozenset(pcs.parse_fmspc(each.strip()) for each in text.split(",")) if text.strip() else frozenset()


def update(request: Request) -> str:
    """Return which generation is meant: standard (also where nothing is said), early, or a number."""
    return pcs.parse_update(first(request, "update"), first(request, "tcbEvaluationDataNumber"))


def ca(request: Request) -> str:
    """Return which PCK CA is meant."""
    return pcs.parse_ca(first(request, "ca") or "")


def encoding(request: Request) -> str:
    """Return the form of a revocation list, hex where nothing is said."""
    return choice(request, "encoding", ENCODINGS, default="hex")


def choice(request: Request, name: str, values: tuple[str, ...], *, default: str) -> str:
    """Return which of ``values`` a parameter is, in any case."""
    given = first(request, name)
    if given is None:
        return default
    for value in values:
        if value.lower() == given.lower():
            return value
    raise wrong(name, ", ".join(values), given)


def number(request: Request, name: str, *, most: int) -> int:
    """Return a parameter that is a whole number from 0 to ``most``; 0 where nothing is said."""
    given = first(request, name) or "0"
    if not (given.isascii() and given.isdecimal()) or len(given) > 9 or int(given) > most:
        raise wrong(name, f"a number up to {most}", given)
    return int(given)


def crl_by_uri(request: Request, *, simulated: bool) -> ItemKey:
    """Return the list that a certificate's distribution point names: known addresses only, and nothing is fetched.

    Clients do not escape the address, so it is everything behind ``uri=`` as it stands.
    """
    match = _URI.search(request.scope["query_string"])
    given = "" if match is None else match[1].decode("latin-1")
    if len(given) > _MAX_URI:
        raise wrong("uri", f"{_MAX_URI} characters at most", f"{len(given)} characters")
    for text in (given, urllib.parse.unquote(given)):
        for address, key in _addresses(_SIMULATED if simulated else _INTEL):
            if text == address or text.startswith(f"{address}&"):  # a client may append a parameter of its own
                return key
    raise wrong("uri", "the address of a revocation list of the root that is served here", given)


def wrong(name: str, expected: str, found: str) -> FormatError:
    """Return the refusal of a parameter."""
    return FormatError(
        "a parameter is not what it should be",
        code="pcs.parameter",
        field=name,
        expected=expected,
        found=ascii(found[:80]) if found else "nothing",
    )


def absent(what: str, name: str) -> UnknownError:
    """Return the answer that there is no such thing here."""
    return UnknownError(f"there is no {what} here", code="collateral.unknown", field=name)


def _addresses(hosts: tuple[str, ...]) -> list[tuple[str, ItemKey]]:
    root = [(f"{host}/IntelSGXRootCA.{ending}", ROOT_CRL) for host in hosts for ending in ("der", "crl")]
    of_cas = [
        (f"{host}/sgx/certification/v{version}/pckcrl?ca={ca}", ItemKey.pck_crl(ca))
        for host in hosts
        for version in (3, 4)
        for ca in ("processor", "platform")
    ]
    return root + of_cas
