# SPDX-License-Identifier: Apache-2.0
"""``kubenclave run``: a command or a Pod manifest with the EPC it asks for."""

import os

import click
import msgspec

from kubenclave.cli import kit
from kubenclave.cli.parameters import EpcSize
from kubenclave.errors import UsageError
from kubenclave.local import manifest, run
from kubenclave.local.sandbox import Isolation
from kubenclave.local.state import locate


@click.command(
    "run",
    context_settings={"allow_interspersed_args": False},
    epilog=kit.examples(
        "kubenclave run --epc 64Mi -- ./app --its-own-option",
        "kubenclave run --epc 64Mi --quote -- ./app",
        "kubenclave run -f pod.yaml",
    ),
)
@click.option("--state", metavar="DIR", help="The --state of 'kubenclave up'.")
@click.option("--epc", type=EpcSize(), metavar="SIZE", help="EPC for the command, as in 64Mi.")
@click.option("--quote", is_flag=True, help="Tell the command to get quotes over AESM (SGX_AESM_ADDR=1).")
@click.option("--provision", is_flag=True, help="Ask for the provisioning key too ('up' has to grant it).")
@click.option("-f", "--file", "path", metavar="FILE", help="Pod manifest in any dialect, - for stdin.")
@click.option("-e", "--env", "variables", metavar="NAME[=VALUE]", multiple=True, help="Variable for the command.")
@click.option("--name", help="Name under which others see the lease.")
@click.option(
    "--isolation",
    type=click.Choice([kind.value for kind in Isolation]),
    default=Isolation.AUTO.value,
    show_default=True,
    help="Namespaces of its own, environment only, or namespaces where the kernel allows them.",
)
@click.argument("command_line", metavar="[COMMAND]...", nargs=-1, type=click.UNPROCESSED)
@kit.output_option
def command(
    *,
    state: str | None,
    epc: int | None,
    quote: bool,
    provision: bool,
    path: str | None,
    variables: tuple[str, ...],
    name: str | None,
    isolation: str,
    command_line: tuple[str, ...],
) -> None:
    """Run COMMAND, or the containers of a Pod, with what it asks for and nothing else.

    The exit code is the command's. 'kubenclave up' has to run. With --output json the command's own output goes to
    stderr and one document on stdout says what became of it.
    """
    directory = locate(state, os.environ)
    if path is not None:
        if command_line or epc or quote or provision or variables or name:
            raise UsageError("a manifest says everything itself", code="cli.misuse", hint="give either -f or a COMMAND")
        pod = manifest.from_yaml(kit.read_input(path, what="manifest", limit=manifest.MAX_MANIFEST))
    elif command_line:
        env = dict(_variable(text) for text in variables)
        pod = manifest.from_command(command_line, epc=epc, quote=quote, provision=provision, env=env, name=name)
    else:
        raise UsageError("nothing to run", code="cli.misuse", hint="kubenclave run --epc 64Mi -- COMMAND")
    outcome = run.run(pod, directory, isolation=Isolation(isolation), output_to_stderr=kit.wants_json(), say=_say)
    if kit.wants_json():
        document = {
            "exit_code": outcome.exit_code,
            "containers": outcome.exit_codes,
            "epc_bytes": outcome.epc,
            "simulated": outcome.simulated,
            "isolation": outcome.isolation.value,
            "granted": msgspec.to_builtins(outcome.granted),
        }
        kit.emit(document, "")
    kit.finish(outcome.exit_code)


def _say(text: str) -> None:
    """Say what may quote the manifest, which is not for a terminal to obey."""
    kit.say(kit.printable(text))


def _variable(text: str) -> tuple[str, str]:
    """Return name and value; a name alone takes the value from our own environment."""
    name, given, value = text.partition("=")
    return name, value if given else os.environ.get(name, "")
