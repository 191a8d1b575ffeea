# SPDX-License-Identifier: Apache-2.0
"""``kubenclave collateral serve``: the collateral service by itself."""

import datetime as dt
from pathlib import Path
from typing import Final

import click

from kubenclave.cli import evidence, kit
from kubenclave.cli.frontend import Network, credentials_option, network_options, take_credentials
from kubenclave.cli.parameters import Duration
from kubenclave.cli.state import COLLATERAL, state_option
from kubenclave.cli.trust import Trust, rollback_option, trust_options, warn_rollback, warn_simulated

_BODY: Final = 256 << 10  # of requests other than those that bring collateral


@click.command(
    "serve",
    epilog=kit.examples(
        "kubenclave collateral serve                                      Intel's, for this machine",
        "kubenclave collateral serve --simulated-state DIR                a SIMULATED platform's",
        "kubenclave collateral serve --listen :8081 --tls-cert tls.crt --tls-key tls.key --workers 2",
        "kubenclave collateral serve --source none                        bundles are brought to it",
    ),
)
@state_option(COLLATERAL, "Database.")
@trust_options
@network_options(port=8081)
@credentials_option
@click.option(
    "--dangerously-serve-expired",
    "grace",
    type=Duration(),
    default="0s",
    metavar="DURATION",
    help="How long after its end collateral is served when nobody has newer.",
)
@rollback_option
@kit.output_option
def command(
    *,
    state: Path,
    trust: Trust,
    network: Network,
    credentials_path: str | None,
    grace: dt.timedelta,
    rollback: bool,
) -> None:
    """Serve collateral as Intel's PCS and PCCS do, verified and kept current. Runs until Ctrl-C.

    Unmodified clients of PCCS work with it. Platforms and administrators need tokens, which 'kubenclave attest
    credential create --state DIR' makes.
    """
    from kubenclave import log
    from kubenclave.services.collateral.cache import CacheSettings
    from kubenclave.services.collateral.service import DATABASE
    from kubenclave.services.program import MAX_BODIES, CollateralOptions, collateral_parts
    from kubenclave.services.web.server import run

    anchor = evidence.load_anchor(trust.root)
    log.configure("collateral", simulated=not anchor.is_intel)
    warn_simulated(simulated=not anchor.is_intel)
    if grace:
        kit.warn(f"RELAXED  dangerously_serve_expired: for {grace} after its end")
    warn_rollback(rollback=rollback)
    cache = CacheSettings(dangerously_serve_expired=grace, dangerously_allow_rollback=rollback)
    options = CollateralOptions(sources=trust.make, cache=cache)
    with network.listening() as listening:
        url = f"{network.url(listening)}/sgx/certification/v4/"
        front = network.front(listening, dict(MAX_BODIES), _BODY)
        take_credentials(credentials_path, state / DATABASE)

        def ready() -> None:
            document = {"ready": True, "simulated": not anchor.is_intel, "root": anchor.digest, "url": url}
            kit.emit(document, f"ready\n{kit.table([('collateral', url)])}")

        run(lambda _metrics: collateral_parts(state, anchor, options, rate=network.per_client), front, ready)
