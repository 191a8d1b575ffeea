# SPDX-License-Identifier: Apache-2.0
"""``kubenclave attest serve``: the attestation service, alone or with the collateral service in the same process."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubenclave.cli import kit
from kubenclave.cli.frontend import Network, credentials_option, network_options, take_credentials
from kubenclave.cli.parameters import Duration
from kubenclave.cli.state import ATTESTATION, state_option
from kubenclave.cli.trust import Trust, rollback_option, trust_options, warn_rollback, warn_simulated
from kubenclave.errors import UsageError

if TYPE_CHECKING:
    from kubenclave.services.attestation.settings import Settings
    from kubenclave.services.web.server import Parts
    from kubenclave.wire.metrics import Metrics


class _SigningKey(click.ParamType[tuple[str, Path]]):
    """A signing key in a file: ``RS256=FILE`` or ``ES256=FILE``."""

    name = "key"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        """Return algorithm and file; fails as click wants it."""
        algorithm, _, path = value.partition("=")
        if algorithm not in {"RS256", "ES256"} or not path:
            self.fail(f"{value!r} is no signing key: RS256=FILE or ES256=FILE", param, ctx)
        return algorithm, Path(path)


@click.command(
    "serve",
    epilog=kit.examples(
        "kubenclave attest serve --with-collateral --open",
        "kubenclave attest serve --simulated-state ~/.local/state/kubenclave/platform --open",
        "kubenclave attest serve --listen :8443 --tls-cert tls.crt --tls-key tls.key \\",
        "    --issuer https://attest.example --source pccs=https://pccs.example:8081 --token-needed --workers 2",
    ),
)
@state_option(ATTESTATION, "Databases.")
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
@click.option(
    "--rotate-keys",
    type=Duration(),
    metavar="DURATION",
    help="Age at which signing keys get a successor (default: never).",
)
@click.option(
    "--signing-key",
    "signing_keys",
    type=_SigningKey(),
    multiple=True,
    metavar="ALGORITHM=FILE",
    help="RS256=FILE or ES256=FILE: private key in PEM that nobody else can read (default: keys made in the database).",
)
@click.option("--challenge-lifetime", type=Duration(), default="5m", show_default=True, help="Life of a challenge.")
@click.option("--keep-evidence", type=click.IntRange(min=0), default=0, help="Evidence kept for dry runs of policies.")
@click.option(
    "--max-batch",
    type=click.IntRange(1, 256),
    default=16,
    show_default=True,
    help="Pieces of evidence in one request.",
)
@click.option(
    "--minimum-tcb-evaluation-data-number",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Oldest generation of collateral that counts.",
)
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
@rollback_option
@kit.output_option
def command(*, state: Path, issuer: str | None, network: Network, trust: Trust, **given: Any) -> None:
    """Attest enclaves: quotes in, signed tokens out, every verdict in a log. Runs until Ctrl-C.

    A service is for Intel's root, or for the one SIMULATED root that it is given, which its issuer has to say. Only
    policies' administrators can write, with tokens that 'kubenclave attest credential create' makes.
    """
    from kubenclave import log
    from kubenclave.services.attestation.service import DATABASE
    from kubenclave.services.web.server import run

    log.configure("attestation", simulated=trust.root is not None)
    warn_simulated(simulated=trust.root is not None)
    own = {name: given.pop(name) for name in ("with_collateral", "credentials_path", "rotate_keys", "rollback")}
    with network.listening() as listening:
        url = network.url(listening)
        settings = _settings(state, issuer or _default_issuer(url, trust), trust, given)
        for relaxation in settings.relaxations:
            kit.warn(f"RELAXED  {relaxation}")
        warn_rollback(rollback=own["rollback"])
        service = _Service(settings, trust, network, url, own["with_collateral"], own["rotate_keys"], own["rollback"])
        front = network.front(listening, service.bodies(), service.body())
        take_credentials(own["credentials_path"], state / DATABASE)
        run(service.parts, front, service.tell)


@dataclass(frozen=True, slots=True)
class _Service:
    """What was asked for; ``url`` is where it is, without the path of the issuer."""

    settings: "Settings"
    trust: Trust
    network: Network
    url: str
    with_collateral: bool
    rotate_keys: dt.timedelta | None
    rollback: bool

    def body(self) -> int:
        """Return how many bytes a request may have."""
        from kubenclave.services.attestation.requests import MAX_BODY

        return MAX_BODY

    def bodies(self) -> dict[str, int]:
        """Return how many where that is more, by path."""
        from kubenclave.services.program import MAX_BODIES

        batch = {f"{self.settings.path}/v1/attest/batch": self.settings.max_batch * self.body()}
        return {**(MAX_BODIES if self.with_collateral else {}), **batch}

    def parts(self, metrics: "Metrics") -> "Parts":
        """Return what one worker serves."""
        from kubenclave.services.collateral.cache import CacheSettings
        from kubenclave.services.program import CollateralOptions, attestation_parts

        grace = self.settings.dangerously_accept_expired_collateral
        cache = CacheSettings(dangerously_serve_expired=grace, dangerously_allow_rollback=self.rollback)
        options = CollateralOptions(sources=self.trust.make, cache=cache)
        return attestation_parts(
            self.settings,
            options,
            metrics,
            rate=self.network.per_client,
            serve_collateral=self.with_collateral,
            rotate_keys=self.rotate_keys,
        )

    def tell(self) -> None:
        """Say that clients may come, and where."""
        settings, own = self.settings, f"{self.url}{self.settings.path}"
        document = {"ready": True, "simulated": settings.simulated, "issuer": settings.issuer, "url": own}
        rows = [("attestation", own), ("issuer", settings.issuer)]
        if self.with_collateral:
            collateral = f"{self.url}/sgx/certification/v4/"
            document |= {"collateral_url": collateral}
            rows.append(("collateral", collateral))
        kit.emit(document, f"ready\n{kit.table(rows)}")


def _settings(state: Path, issuer: str, trust: Trust, given: dict[str, Any]) -> "Settings":
    from kubenclave.services.attestation.keys.signing import Algorithm
    from kubenclave.services.attestation.settings import Settings

    keys = {Algorithm(algorithm): path for algorithm, path in given.pop("signing_keys")}
    lifetime: dt.timedelta = given["token_lifetime"]
    if lifetime > dt.timedelta(days=1):
        raise UsageError("a token lives for a day at most", code="cli.misuse", field="--token-lifetime")
    own = {"root": trust.root, "open": given.pop("is_open"), "signing_key_files": keys}
    return Settings(issuer=issuer, state=state, **own, **given)


def _default_issuer(url: str, trust: Trust) -> str:
    return url if trust.root is None else f"{url}/simulated"
