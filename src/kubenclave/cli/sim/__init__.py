# SPDX-License-Identifier: Apache-2.0
"""``kubenclave sim``: the SIMULATED SGX platform as a program, and enclaves on it."""

import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kubenclave.cli import evidence, kit, parameters
from kubenclave.cli.sim import daemon, sockets
from kubenclave.cli.sim.identity import EnclaveOptions, identity_of, signer
from kubenclave.cli.sim.options import state_directory, state_option
from kubenclave.errors import UsageError
from kubenclave.platform.simulated.tcb import PlatformTcb

if TYPE_CHECKING:
    from kubenclave.platform.simulated.state import PlatformState

_PASSERBY: Final = b"SIMULATED enclave of 'kubenclave sim report'. It protects nothing."

_cpu_option = click.option(
    "--cpu-socket",
    type=click.Path(),
    metavar="PATH",
    help="The SIMULATED CPU (default: KUBENCLAVE_SIM_CPU, for enclaves with the provisioning key "
    "KUBENCLAVE_SIM_PROVISION, or where 'up' and 'sim start' put it).",
)
_key_option = click.option(
    "--key",
    type=click.Path(),
    metavar="FILE",
    help="RSA-3072 key with exponent 3 that signs the enclave (default: kubenclave/sim-enclave-key.pem in the user's "
    "config folder, made when first needed).",
)


@click.group(
    "sim",
    epilog=kit.examples(
        "kubenclave sim start --state /tmp/sim --epc 64Mi",
        "kubenclave sim run -- kubenclave quote get --report-data 00ff --out quote.bin",
        "kubenclave sim tcb out-of-date --state /tmp/sim",
        "kubenclave sim collateral --state /tmp/sim --out collateral.json --root root.der",
    ),
)
def command() -> None:
    """Run and use the SIMULATED SGX platform. It protects nothing, and all it makes says so."""


command.add_command(daemon.command)


@command.command(
    "run",
    context_settings={"allow_interspersed_args": False},
    epilog=kit.examples(
        "kubenclave sim run -- ./app --its-own-option",
        "kubenclave sim run --key enclave-key.pem --isv-svn 2 -- ./app",
        "kubenclave run --epc 64Mi --provision -- kubenclave sim run --provision -- ./app",
        "kubenclave sim run --manifest app.manifest.sgx --sig app.sig -- ./app",
        "kubenclave sim run --sgxs app.sgxs --sigstruct app.sig -- ./app",
        "kubenclave sim run --mr-enclave 9e2c... --pages 4096 --sigstruct app.sig -- ./app",
    ),
)
@_cpu_option
@state_option
@_key_option
@click.option("--isv-prod-id", type=click.IntRange(0, 0xFFFF), default=0, metavar="N", help="Product id to sign.")
@click.option("--isv-svn", type=click.IntRange(0, 0xFFFF), default=0, metavar="N", help="Security version to sign.")
@click.option("--debug", is_flag=True, help="Sign and launch it as a debug enclave.")
@click.option("--provision", is_flag=True, help="Sign and launch it with the right to the provisioning key.")
@click.option("--manifest", type=evidence.FILE, metavar="FILE", help="Gramine's .manifest.sgx.")
@click.option("--sig", "--sigstruct", "sigstruct", type=evidence.FILE, metavar="FILE", help="SIGSTRUCT, 1808 bytes.")
@click.option("--libpal", type=click.Path(), metavar="FILE", help="Gramine's libpal.so (default: the installed one).")
@click.option("--sgxs", type=evidence.FILE, metavar="FILE", help="SGXS stream.")
@click.option("--mr-enclave", metavar="HEX", help="Measurement in place of pages.")
@click.option(
    "--pages", type=click.IntRange(0, 0xFFFFFFFF), metavar="N", help="EPC pages that --mr-enclave stands for."
)
@click.argument("command_line", metavar="COMMAND...", nargs=-1, type=click.UNPROCESSED, required=True)
@kit.output_option
def run(*, command_line: tuple[str, ...], cpu_socket: str | None, state: str | None, **options: Any) -> None:
    """Load a SIMULATED enclave and run COMMAND with it.

    COMMAND makes REPORTs and gets keys of that enclave alone, through the connection it inherits as the descriptor that
    KUBENCLAVE_SIM_ENCLAVE names. Without files that describe an enclave its pages are the content of COMMAND's
    executable. An enclave with the provisioning key is loaded through the provision socket, which has to have been
    granted. Nothing runs when the CPU refuses: a SIGSTRUCT or measurement that does not match, EPC that is short.
    The exit code is COMMAND's, and so is the output; --output json is the form of errors before it runs.
    """
    from kubenclave.platform.simcpu import CPU_SOCKET_VARIABLE, ENCLAVE_VARIABLE, Enclave

    executable = _executable(command_line[0])
    wanted = identity_of(executable, EnclaveOptions(**options))
    cpu = sockets.cpu(cpu_socket, state)
    socket = sockets.provision(cpu_socket, state) if wanted.provisions else cpu
    with Enclave.connect(socket) as enclave:
        wanted.load(enclave)
        body = enclave.body()
        kit.warn(
            f"SIMULATED enclave, nothing is protected by hardware: MRENCLAVE {body.mr_enclave.hex()} "
            f"MRSIGNER {body.mr_signer.hex()}{' DEBUG' if body.debug else ''}"
        )
        env = {**os.environ, CPU_SOCKET_VARIABLE: str(cpu), ENCLAVE_VARIABLE: str(enclave.hand_down())}
        _replace_process(executable, command_line, env)


@command.command(
    "report",
    epilog=kit.examples(
        "kubenclave sim report --target-info target.bin --report-data 00ff --out report.bin",
        "kubenclave sim run -- kubenclave sim report --target-info target.bin --report-data 00ff --out report.bin",
    ),
)
@click.option(
    "--target-info", type=evidence.FILE, metavar="FILE", required=True, help="For whom: TARGETINFO, 512 bytes."
)
@click.option("--report-data", type=parameters.ReportData(), metavar="HEX", required=True, help="What it shall say.")
@click.option("--out", type=evidence.FILE, metavar="FILE", required=True, help="Where the REPORT goes, - for stdout.")
@_cpu_option
@state_option
@_key_option
@kit.output_option
def report(
    *,
    target_info: str,
    report_data: bytes,
    out: str,
    cpu_socket: str | None,
    state: str | None,
    key: str | None,
) -> None:
    """Write the REPORT of a SIMULATED enclave for a target.

    It is the enclave that 'kubenclave sim run' started this command in, else a small one loaded just for this.
    """
    from kubenclave.platform.simcpu import Enclave
    from kubenclave.platform.simulated import loader
    from kubenclave.sgx.report import TARGET_INFO_SIZE, Report, TargetInfo

    if out == "-" and kit.wants_json():
        raise UsageError("stdout takes either the REPORT or the document", code="cli.misuse", hint="--out FILE")
    target = TargetInfo.parse(kit.read_input(target_info, what="target info", limit=TARGET_INFO_SIZE))
    enclave = Enclave.inherited(os.environ)
    small = None if enclave else loader.of_content(_PASSERBY, loader.Terms(), signer(key))
    enclave = enclave or Enclave.connect(sockets.cpu(cpu_socket, state))
    click.get_current_context().with_resource(enclave)
    if small is not None:
        small.load(enclave)
    made = enclave.report(target, report_data)
    kit.write_output(out, made, what="REPORT")
    body = Report.parse(made).body
    document = {
        "simulated": True,
        "inherited": small is None,
        "mr_enclave": body.mr_enclave.hex(),
        "mr_signer": body.mr_signer.hex(),
        "report_data": report_data.hex(),
        "out": out,
    }
    if out != "-":
        kit.emit(document, f"REPORT of the SIMULATED enclave {body.mr_enclave.hex()} in {out}")


@command.command(
    "tcb",
    short_help="Show or set what verifiers think of it.",
    epilog=kit.examples(
        "kubenclave sim tcb --state /tmp/sim                what it is",
        "kubenclave sim tcb out-of-date --state /tmp/sim",
        "kubenclave sim tcb revoked --state /tmp/kubenclave/sim      below 'kubenclave up --state /tmp/kubenclave'",
    ),
)
@click.argument("wanted", metavar="[STATE]", type=click.Choice([each.value for each in PlatformTcb]), required=False)
@state_option
@kit.output_option
def tcb(*, wanted: str | None, state: str | None) -> None:
    """Show or set what verifiers shall think of the SIMULATED platform.

    STATE is up-to-date, out-of-date, configuration-needed, sw-hardening-needed,
    configuration-and-sw-hardening-needed, out-of-date-configuration-needed, revoked or expired. A running simulator
    follows at once: CPUSVN, PCK certificate and the next quotes are of the new state. Make the collateral anew as well.
    """
    directory = state_directory(state)
    platform = _load(directory)
    if wanted is not None:
        platform = platform.with_tcb(PlatformTcb(wanted))
        platform.save(directory)
    document = {
        "simulated": True,
        "state": str(directory),
        "tcb": platform.tcb.value,
        "cpu_svn": platform.tcb.svns.cpu_svn.hex(),
        "pce_svn": platform.tcb.svns.pce_svn,
    }
    kit.emit(document, f"SIMULATED platform {directory}: {platform.tcb.value}, CPUSVN {document['cpu_svn']}")


@command.command(
    "collateral",
    short_help="Write collateral and root of the platform.",
    epilog=kit.examples(
        "kubenclave sim collateral --state /tmp/sim --out collateral.json --root root.der",
        "kubenclave quote verify quote.bin --collateral collateral.json --root root.der --at now",
    ),
)
@state_option
@click.option("--out", type=evidence.FILE, metavar="FILE", required=True, help="Where the collateral goes: JSON.")
@click.option("--root", type=evidence.FILE, metavar="FILE", help="Where the root certificate goes: DER.")
@click.option("--pck-chain", type=evidence.FILE, metavar="FILE", help="Where the PCK certificate chain goes: PEM.")
@evidence.at_option(now_by_default=True)
@kit.output_option
def collateral(*, state: str | None, out: str, root: str | None, pck_chain: str | None, at: dt.datetime) -> None:
    """Write the collateral with which quotes of the SIMULATED platform verify, and the root to verify it under.

    It is that of the platform's present state ('kubenclave sim tcb'), current at the time given by --at; of a platform
    with an issuer elsewhere what that one has sent last.
    """
    if kit.wants_json() and "-" in (out, root, pck_chain):
        raise UsageError("stdout takes either a file or the document", code="cli.misuse", hint="give a FILE")
    from kubenclave.platform.simulated.provisioning import provisioning_of

    directory = state_directory(state)
    platform = _load(directory)
    provisioning = provisioning_of(platform, directory)
    kit.write_output(out, provisioning.collateral(platform.tcb, at).to_json().encode() + b"\n", what="collateral")
    if root is not None:
        kit.write_output(root, provisioning.root_der, what="root certificate")
    if pck_chain is not None:
        kit.write_output(pck_chain, provisioning.pck_chain(platform.tcb), what="PCK certificate chain")
    document = {
        "simulated": True,
        "state": str(directory),
        "tcb": platform.tcb.value,
        "at": evidence.zulu(at),
        "out": out,
        "root": root,
        "pck_chain": pck_chain,
    }
    if kit.wants_json():
        kit.emit(document, "")
    else:
        kit.say(f"SIMULATED collateral for a platform that is {platform.tcb.value} in {out}")


def _load(directory: Path) -> "PlatformState":
    from kubenclave.platform.simulated.state import PlatformState

    return PlatformState.load(directory)


def _executable(name: str) -> str:
    import shutil

    found = shutil.which(name)
    if found is None:
        raise UsageError(f"no such command: {name}", code="sim.no-command", hint="see PATH, or name it with its folder")
    return found


def _replace_process(executable: str, command_line: tuple[str, ...], env: dict[str, str]) -> None:
    """Become the command, so that signals and the exit code are its own. Raises UsageError when it cannot be run."""
    import signal

    # Python ignores these two, and whoever is executed would go on ignoring them.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execve(executable, command_line, env)  # noqa: S606  # no shell is the point
    except OSError as error:
        raise UsageError(
            f"cannot run {executable}: {error.strerror or error}",
            code="sim.no-command",
            hint="a script needs a first line such as #!/bin/sh",
        ) from error
