# SPDX-License-Identifier: Apache-2.0
"""``kubenclave demo``: all of it in one run, with our own commands as anybody would type them."""

import time
from contextlib import ExitStack
from pathlib import Path

import click

from kubenclave.cli import kit
from kubenclave.cli.demo.stage import staged


@click.command(
    "demo",
    epilog=kit.examples(
        "kubenclave demo",
        "kubenclave demo --keep /tmp/evidence        keep quote, collateral, root, policies and log",
        "kubenclave demo --output json | jq .good",
        "kubenclave demo --hardware                  EPC, device and quoting enclave of real SGX",
    ),
)
@click.option("--keep", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Keep what was made.")
@click.option("--hardware", is_flag=True, help="Use the SGX of this machine instead of a SIMULATED platform.")
@kit.output_option
def command(*, keep: Path | None, hardware: bool) -> None:
    """Show all of it in one run: EPC, enclave device, REPORT, quote, verdict; and refusals, which matter as much.

    Everything runs in a temporary directory and is gone afterwards. Exit code 0 only when every step ended as it has
    to, 1 when one did not, 5 when the daemons do not come up.
    """
    from kubenclave.cli.demo import scenes

    started = time.monotonic()
    teller = scenes.Teller(hardware=hardware)
    teller.open()
    with staged(keep, scenes.KEPT) as stage, ExitStack() as stack:
        (scenes.hardware if hardware else scenes.simulated)(stage, teller, stack)
    document = teller.document(time.monotonic() - started, keep)
    kit.emit(document, teller.summary(document))
    kit.finish(kit.ExitCode.GOOD if document["good"] else kit.ExitCode.REFUSED)
