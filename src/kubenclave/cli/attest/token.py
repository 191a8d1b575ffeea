# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest token``: get a token for a quote, show one, and check it as a relying party should."""

import base64
import datetime as dt
import json
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import evidence, kit, parameters
from kubenclave.cli.remote import Remote, is_protected, remote_options
from kubenclave.errors import FormatError, UnreachableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubenclave.dcap.token.compact import CompactToken

_TIMES: Final = ("iat", "nbf", "exp")
_FOREIGN_KEYS: Final = ("jku", "x5u", "jwk", "x5c")
_MAX_JWKS: Final = 1 << 20
_TIMEOUT: Final = 10.0
_DIALECTS: Final = ("ear", "ear-veraison", "azure")


@click.group(
    "token",
    epilog=kit.examples(
        "kubenclave attest token get quote.bin --url https://attest.example --out token.jwt",
        "kubenclave attest token decode token.jwt",
        "kubenclave attest token verify token.jwt --issuer https://attest.example",
    ),
)
def command() -> None:
    """Get, read and check tokens."""


@command.command(
    "get",
    short_help="Have a quote attested.",
    epilog=kit.examples(
        "kubenclave attest token get quote.bin --url https://attest.example --out token.jwt",
        "kubenclave attest token get quote.bin --url URL --runtime-data runtime.json --challenge NONCE --out token.jwt",
    ),
)
@click.argument("quote", type=evidence.FILE)
@remote_options()
@click.option("--out", type=evidence.FILE, required=True, metavar="FILE", help="Where the token goes.")
@click.option("--dialect", type=click.Choice(_DIALECTS), default=_DIALECTS[0], show_default=True, help="Of the token.")
@click.option("--runtime-data", type=evidence.FILE, metavar="FILE", help="What report data begins with the SHA-256 of.")
@click.option("--challenge", metavar="NONCE", help="A nonce of the service that is in the runtime data: uses it up.")
@evidence.pck_chain_option
@click.option("--policy-version", type=click.IntRange(min=0), help="Be refused where another version is in force.")
@click.option("--answer", type=evidence.FILE, metavar="FILE", help="Where the whole answer goes, its receipt included.")
@kit.output_option
def get(
    *,
    quote: str,
    remote: Remote,
    out: str,
    dialect: str,
    runtime_data: str | None,
    pck_chain_path: str | None,
    answer: str | None,
    **named: Any,
) -> None:
    """Have the attestation service judge the quote in QUOTE (- for stdin), and keep the token.

    Runtime data that is a JSON object goes into the token as such, anything else in base64. Exit code 1 when the
    service refuses the quote, 4 when it does not answer.
    """
    request: dict[str, Any] = {"quote": _encoded(kit.read_input(quote, what="quote")), "token": dialect}
    request |= {name: value for name, value in named.items() if value is not None}
    if runtime_data is not None:
        request["runtime_data"] = _held(kit.read_input(runtime_data, what="runtime data"))
    if pck_chain_path is not None:
        request["pck_chain"] = kit.read_input(pck_chain_path, what="PCK chain").decode("ascii", "replace")
    said = remote.send("POST", "/v1/attest", document=request)
    if not isinstance(said, dict) or not isinstance(said.get("token"), str):
        raise UnreachableError("the service answers with something else than a token", code="service.unreachable")
    kit.write_output(out, said["token"].encode(), what="token")
    if answer is not None:
        kit.write_output(answer, json.dumps(said, indent=2).encode(), what="answer")
    kit.emit(said, _attested(said, out))


@command.command(
    "decode",
    short_help="Show what a token says, verified or not.",
    epilog=kit.examples(
        "kubenclave attest token decode token.jwt",
        "curl ... | jq -r .token | kubenclave attest token decode - --output json | jq .claims.kubenclave",
    ),
)
@click.argument("file", type=evidence.FILE)
@kit.output_option
def decode(file: str) -> None:
    """Show header and claims of the token in FILE (- for stdin). Nothing of it is verified.

    Exit code 3 when it is no token.
    """
    token = _read(file)
    warnings = _remarks(token, dt.datetime.now(dt.UTC))
    document = {"verified": False, "header": token.header, "claims": token.claims, "warnings": warnings}
    kit.emit(document, _shown(token))
    for each in warnings:
        kit.warn(kit.printable(each))


@command.command(
    "verify",
    short_help="Check a token as a relying party should.",
    epilog=kit.examples(
        "kubenclave attest token verify token.jwt --issuer https://attest.example --require-fresh --max-age 5m",
        "kubenclave attest token verify token.jwt --issuer https://attest.example --jwks certs.json     offline",
        "kubenclave attest token verify t.jwt --issuer https://localhost:8443/simulated --ca ca.pem \\",
        "    --simulated-root root.der                                                    SIMULATED",
    ),
)
@click.argument("file", type=evidence.FILE)
@click.option("--issuer", required=True, metavar="URL", help="Whose token it has to be, byte for byte.")
@click.option("--jwks", metavar="FILE|URL", help="Key set; by default that of the issuer, fetched from below its URL.")
@click.option("--ca", type=evidence.FILE, metavar="FILE", help="CA in PEM that the issuer's TLS certificate is from.")
@click.option("--audience", metavar="TEXT", help="Whom it has to be for; without it a token must be for nobody.")
@click.option("--max-age", type=parameters.Duration(), metavar="DURATION", help="Refuse tokens issued longer ago.")
@click.option("--require-fresh", is_flag=True, help="Refuse evidence that may be a recording.")
@evidence.at_option(now_by_default=True)
@click.option(
    "--simulated-root", type=evidence.FILE, metavar="FILE", help="Accept tokens under this SIMULATED root, DER or PEM."
)
@click.option("--dangerously-allow-simulated", is_flag=True, help="Accept tokens under any SIMULATED root.")
@click.option("--dangerously-allow-debug", is_flag=True, help="Accept enclaves whose host can read their memory.")
@click.option("--dangerously-allow-relaxed", is_flag=True, help="Accept verdicts that rest on dangerous relaxations.")
@kit.output_option
def verify(
    *,
    file: str,
    issuer: str,
    jwks: str | None,
    ca: str | None,
    at: dt.datetime,
    simulated_root: str | None,
    **decisions: Any,
) -> None:
    """Check the token in FILE (- for stdin): signature, issuer, times, and what it says of its own verdict.

    Signed with RS256 or ES256 by a key of the key set, and nothing else; keys that a token names itself are not looked
    at. Refused unless allowed: a SIMULATED platform, a debug enclave, a verdict that rests on a dangerous relaxation.

    Exit code 0 when it is good, 1 when not, 3 when it is no token, 4 when the key set cannot be fetched.
    """
    from kubenclave.services.attestation.relying import Rules, verify_token

    root = None if simulated_root is None else _root_digest(simulated_root)
    rules = Rules(issuer=issuer, simulated_root=root, **decisions)
    token = _read(file)
    good = verify_token(token.text, _keys(token, issuer, jwks, ca), rules, now=at)
    document = {
        "accepted": True,
        "kid": good.kid,
        "header": token.header,
        "claims": token.claims,
        "warnings": list(good.warnings),
    }
    mark = click.style("GOOD", fg="green", bold=True)
    kit.emit(document, f"{mark}  signed by {kit.printable(good.kid)}\n{_shown(token)}")
    for each in good.warnings:
        kit.warn(kit.printable(each))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _held(data: bytes) -> "dict[str, str]":
    try:
        kind = "JSON" if isinstance(json.loads(data), dict) else "Binary"
    except (ValueError, RecursionError):
        kind = "Binary"
    return {"data": _encoded(data), "type": kind}


def _attested(said: "Mapping[str, Any]", out: str) -> str:
    """Return what the service said, in a few lines; the token says it too, signed."""
    policy = said.get("policy")
    verdict = said.get("verdict")
    rows = [("token", kit.printable(out))]
    rows.append(("TCB status", _value(verdict.get("tcb_status") if isinstance(verdict, dict) else None)))
    rows.append(("policy", _value(policy.get("name") or policy.get("format")) if isinstance(policy, dict) else "none"))
    rows.append(("fresh", _value(said.get("fresh"))))
    rows += [("RELAXED", _value(each)) for each in said.get("relaxations") or ()]
    return kit.table(rows)


def _read(file: str) -> "CompactToken":
    from kubenclave.dcap.token.compact import CompactToken

    return CompactToken.parse(kit.read_input(file, what="token"))


def _root_digest(path: str) -> str:
    from kubenclave.dcap.anchor import TrustAnchor

    return TrustAnchor.from_certificate(evidence.load_root(path)).digest


def _keys(token: "CompactToken", issuer: str, jwks: str | None, ca: str | None) -> "dict[str, Mapping[str, Any]]":
    """Return the keys to check a token with: from a file, or fetched from where the caller says the issuer is."""
    from kubenclave.services.attestation.issue import JWKS_PATHS
    from kubenclave.services.attestation.relying import parse_jwks

    if jwks is not None and "://" not in jwks:
        return parse_jwks(kit.read_input(jwks, what="key set", limit=_MAX_JWKS))
    path = {str(algorithm): path for algorithm, path in JWKS_PATHS.items()}.get(str(token.algorithm))
    if jwks is None and path is None:
        return {}  # no key signs with that; the check says so
    return parse_jwks(_fetch(jwks or f"{issuer}{path}", ca))


def _fetch(url: str, ca: str | None) -> bytes:
    """Fetch a key set. Raises UsageError ``jwks.url``, UnreachableError ``jwks.unreachable``."""
    import ssl

    import httpx2

    if not is_protected(url):
        raise UsageError(
            "keys that anybody on the way can replace prove nothing",
            code="jwks.url",
            expected="an https URL, or http on this machine",
            found=url[:200],
            hint="--jwks FILE takes a key set that you have",
        )
    context = ssl.create_default_context(cafile=ca)
    try:
        with httpx2.Client(verify=context, timeout=_TIMEOUT, follow_redirects=False) as client:
            answer = client.get(url, headers={"accept": "application/json"})
    except httpx2.HTTPError as error:
        raise UnreachableError(
            "the issuer's key set cannot be fetched", code="jwks.unreachable", field=url[:200], found=str(error)[:200]
        ) from error
    if answer.status_code != 200:
        raise UnreachableError(
            "the issuer's key set cannot be fetched",
            code="jwks.unreachable",
            field=url[:200],
            expected="status 200",
            found=f"status {answer.status_code}",
        )
    if len(answer.content) > _MAX_JWKS:
        raise FormatError("not a key set", code="jwks.malformed", expected=f"{_MAX_JWKS} bytes at most", found="more")
    return answer.content


def _remarks(token: "CompactToken", now: dt.datetime) -> list[str]:
    """Return what a reader of an unverified token should not overlook."""
    said = token.claims.get("kubenclave")
    flags = said if isinstance(said, dict) else {}
    remarks = ["NOT VERIFIED: anybody can write this. Check it with: kubenclave attest token verify"]
    if token.algorithm == "none" or not token.signature:
        remarks.append("unsecured: nothing is signed")
    remarks += [f"header {name}: never take keys from there" for name in _FOREIGN_KEYS if name in token.header]
    if isinstance(expires := token.claims.get("exp"), int | float) and expires <= now.timestamp():
        remarks.append("expired")
    named = {"simulated": "SIMULATED platform", "debug": "debug enclave", "draft": "verdict under a draft policy"}
    return remarks + [text for name, text in named.items() if flags.get(name) is True]


def _shown(token: "CompactToken") -> str:
    """Return header and claims as text, times readable."""
    rows = [("header", "")]
    rows += [(f"  {kit.printable(name)}", _value(value)) for name, value in token.header.items()]
    rows.append(("claims", ""))
    for name, value in token.claims.items():
        if isinstance(value, dict):
            rows.append((f"  {kit.printable(name)}", ""))
            rows += [(f"    {kit.printable(inner)}", _value(one)) for inner, one in value.items()]
        else:
            rows.append((f"  {kit.printable(name)}", _time(value) if name in _TIMES else _value(value)))
    return kit.table(rows)


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return kit.printable(text)


def _time(value: object) -> str:
    from kubenclave.dcap.describe import zulu

    try:
        return f"{value}  {zulu(dt.datetime.fromtimestamp(value, dt.UTC))}"  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        return _value(value)
