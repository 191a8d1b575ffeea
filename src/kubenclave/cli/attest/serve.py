# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest serve``: the attestation service, alone or with the collateral service in the same process."""

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubenclave.cli import kit
from kubenclave.cli.frontend import (
    Network,
    Trust,
    credentials_option,
    network_options,
    take_credentials,
    trust_options,
    warn_simulated,
)
from kubenclave.cli.parameters import Duration
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.services.attestation.settings import Settings

_STATE = "kubenclave-attestation"


@click.command(
    "serve",
    epilog=kit.examples(
        "kubenclave attest serve --with-collateral --open",
        "kubenclave attest serve --simulated-state ~/.local/state/kubenclave/platform --open",
        "kubenclave attest serve --listen :8443 --tls-cert tls.crt --tls-key tls.key \\",
        "    --issuer https://attest.example --source pccs=https://pccs.example:8081 --token-needed --workers 2",
    ),
)
@click.option(
    "--state", type=click.Path(path_type=Path), default=_STATE, show_default=True, metavar="DIR", help="Databases."
)
@click.option("--issuer", metavar="URL", help="Name of the service in its tokens (default: the address served).")
@click.option(
    "--open/--token-needed",
    "is_open",
    default=False,
    help="Whether anybody may attest and verify (default: with a token, or a client certificate).",
)
@credentials_option
@click.option("--with-collateral", is_flag=True, help="Serve PCS's and PCCS's API as well.")
@trust_options
@network_options(port=8443)
@click.option("--token-lifetime", type=Duration(), default="8h", show_default=True, help="Life of a token.")
@click.option("--challenge-lifetime", type=Duration(), default="5m", show_default=True, help="Life of a challenge.")
@click.option("--keep-evidence", type=click.IntRange(min=0), default=0, help="Evidence kept for dry runs of policies.")
@click.option("--isolated", is_flag=True, help="Policies count only when a registered signer signed them.")
@click.option(
    "--secrets-key", type=click.Path(path_type=Path), metavar="FILE", help="Key that seals secrets for enclaves."
)
@click.option("--dangerously-allow-debug", is_flag=True, help="Debug enclaves get tokens, which say so.")
@click.option("--dangerously-allow-draft-policies", is_flag=True, help="Requests may bring a policy of their own.")
@click.option(
    "--dangerously-accept-expired-collateral",
    type=Duration(),
    default="0s",
    metavar="DURATION",
    help="How long after its end collateral still counts.",
)
@kit.output_option
def command(*, state: Path, issuer: str | None, network: Network, trust: Trust, **given: Any) -> None:
    """Attest enclaves: quotes in, signed tokens out, every verdict in a log. Runs until Ctrl-C.

    A service is for Intel's root, or for the one SIMULATED root that it is given, which its issuer has to say. Only
    policies' administrators can write, with tokens that 'kubenclave attest credential create' makes.
    """
    from kubenclave import log
    from kubenclave.services.attestation.requests import MAX_BODY
    from kubenclave.services.attestation.service import DATABASE
    from kubenclave.services.program import MAX_BODIES

    log.configure("attestation", simulated=trust.root is not None)
    warn_simulated(simulated=trust.root is not None)
    with_collateral, credentials_path = given.pop("with_collateral"), given.pop("credentials_path")
    with network.listening() as listening:
        host, port = listening.getsockname()[:2]
        url = f"{network.scheme}://{_host(host)}:{port}"
        settings = _settings(state, issuer or _default_issuer(url, trust), trust, given)
        for relaxation in settings.relaxations:
            kit.warn(relaxation)
        prefix = settings.path
        bodies = {
            **(MAX_BODIES if with_collateral else {}),
            f"{prefix}/v1/attest/batch": settings.max_batch * MAX_BODY,
        }
        front = network.front(listening, bodies, MAX_BODY)
        take_credentials(credentials_path, state / DATABASE)
        _run(settings, trust, network, front, with_collateral, f"{url}{prefix}", url)


def _run(  # noqa: PLR0917
    settings: "Settings", trust: Trust, network: Network, front: Any, with_collateral: bool, own: str, url: str
) -> None:
    from kubenclave.services.collateral.cache import CacheSettings
    from kubenclave.services.program import CollateralOptions, attestation_parts
    from kubenclave.services.web.server import run

    grace = settings.dangerously_accept_expired_collateral
    options = CollateralOptions(sources=trust.make, cache=CacheSettings(dangerously_serve_expired=grace))

    def ready() -> None:
        document: dict[str, Any] = {
            "ready": True,
            "simulated": settings.simulated,
            "issuer": settings.issuer,
            "url": own,
        }
        rows = [("attestation", own), ("issuer", settings.issuer)]
        if with_collateral:
            collateral = f"{url}/sgx/certification/v4/"
            document["collateral_url"] = collateral
            rows.append(("collateral", collateral))
        kit.emit(document, f"ready\n{kit.table(rows)}")

    run(
        lambda metrics: attestation_parts(
            settings, options, metrics, rate=network.per_client, serve_collateral=with_collateral
        ),
        front,
        ready,
    )


def _settings(state: Path, issuer: str, trust: Trust, given: dict[str, Any]) -> "Settings":
    from kubenclave.services.attestation.settings import Settings

    lifetime: dt.timedelta = given["token_lifetime"]
    if lifetime > dt.timedelta(days=1):
        raise UsageError("a token lives for a day at most", code="cli.misuse", field="--token-lifetime")
    return Settings(issuer=issuer, state=state, root=trust.root, open=given.pop("is_open"), **given)


def _default_issuer(url: str, trust: Trust) -> str:
    return url if trust.root is None else f"{url}/simulated"


def _host(host: str) -> str:
    """Return a host as URLs have it; what listens on all addresses is reached at this machine's own."""
    if host in {"::", "0.0.0.0"}:  # noqa: S104 - compared, not listened on
        return "localhost"
    return f"[{host}]" if ":" in host else host
