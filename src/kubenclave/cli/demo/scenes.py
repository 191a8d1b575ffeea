# SPDX-License-Identifier: Apache-2.0
"""What the demo shows, step by step: a command of ours each, how it has to end, and what is worth seeing of it."""

import secrets
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from kubenclave.cli import kit
from kubenclave.cli.demo.stage import PROGRAM, Done, Stage
from kubenclave.errors import KubenclaveError, PlatformError
from kubenclave.local.attestation import installed
from kubenclave.local.up import has_sgx
from kubenclave.sgx.epc import amount

EPC: Final = "128Mi"
ASKED: Final = "64Mi"
HELD: Final = "96Mi"
KEPT: Final = (
    "workload",
    "quote.bin",
    "collateral.json",
    "root.der",
    "token.jwt",
    "policy.toml",
    "other-policy.toml",
    "up.log",
    "neighbour.log",
)

# The enclave of the demo: a simulated enclave's pages are the very bytes of the program.
WORKLOAD: Final = """#!/bin/sh
exec kubenclave quote get --report-data "$1" --out quote.bin
"""
_STATE: Final = ("--state", "state")
_EVIDENCE: Final = ("quote.bin", "--collateral", "collateral.json", "--at", "now")
_WIDTH: Final = 100

Fact = tuple[str, str]


@dataclass(slots=True)
class Step:
    """One command, how it has to end and how it ended (in the same words)."""

    title: str
    words: tuple[str, ...]
    wanted: str
    found: str = "not reached"
    seconds: float = 0.0
    facts: list[Fact] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether it ended as it has to."""
        return self.found == self.wanted

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "title": self.title,
            "command": shlex.join((PROGRAM, *self.words)),
            "wanted": self.wanted,
            "found": self.found,
            "good": self.good,
            "seconds": round(self.seconds, 3),
            "facts": [{"name": name, "value": value} for name, value in self.facts],
        }


class StopError(Exception):
    """A step on which all others rest went wrong."""


class Teller:
    """Tells the steps as they happen and keeps them: on stdout, or on stderr of a terminal when stdout is for JSON."""

    def __init__(self, *, hardware: bool) -> None:
        self.steps: list[Step] = []
        self.verdict: dict[str, Any] | None = None
        self._hardware = hardware
        self._count = 3 if hardware else 10 if installed() else 8
        self._tell: Callable[[str], None] = kit.progress if kit.wants_json() else click.echo

    def open(self) -> None:
        """Say what is going to be shown, and on what."""
        if not self._hardware:
            self._tell(click.style("SIMULATED platform: nothing here is protected by hardware", fg="yellow", bold=True))

    @contextmanager
    def step(self, title: str, *words: str, wanted: str, vital: bool = True) -> Iterator[Step]:
        """Tell one step around the block that carries it out. Raises StopError when a vital one goes wrong.

        An error in the first one passes: without the daemons there is nothing to tell.
        """
        step = Step(title, words, wanted)
        self.steps.append(step)
        self._tell("\n" + click.style(f"[{len(self.steps)}/{self._count}] {title}", bold=True))
        self._tell(click.style(_typed(words), dim=True))
        started = time.monotonic()
        try:
            yield step
        except KubenclaveError as error:
            if step is self.steps[0]:
                raise
            step.found = f"{error.code}: {error}"
        step.seconds = time.monotonic() - started
        if step.facts:
            self._tell(_indented(kit.table(step.facts)))
        self._tell(f"      {_coloured(step)}  ({step.seconds:.1f} s)")
        if vital and not step.good:
            raise StopError

    def document(self, seconds: float, keep: Path | None) -> dict[str, Any]:
        """Return all of it as JSON values."""
        return {
            "good": len(self.steps) == self._count and all(step.good for step in self.steps),
            "simulated": not self._hardware,
            "seconds": round(seconds, 3),
            "steps": [step.as_dict() for step in self.steps],
            "verdict": self.verdict,
            "kept": None if keep is None else str(keep),
        }

    def summary(self, document: dict[str, Any]) -> str:
        """Return the table at the end."""
        rows = [("STEP", "HAS TO BE", "IS")]
        rows += [(step.title, step.wanted, _coloured(step)) for step in self.steps]
        good = sum(step.good for step in self.steps)
        line = f"{good} of {self._count} steps ended as they have to, in {document['seconds']:.1f} s"
        line = click.style(line, fg="green" if document["good"] else "red", bold=True)
        lines = ["", kit.table(rows), "", line + ("" if self._hardware else ", on a SIMULATED platform")]
        if document["kept"]:
            lines.append(f"kept in {document['kept']}: quote, collateral, root, policies, log")
        return "\n".join(lines)


def simulated(stage: Stage, teller: Teller, stack: ExitStack) -> None:
    """Show everything on a SIMULATED platform."""
    try:
        url = _daemons(stage, teller, stack, "--simulated", "--epc", EPC).get("attestation_url")
        challenge = secrets.token_hex(32)
        _policy(stage, teller)
        _quote(stage, teller, challenge)
        _collateral(stage, teller)
        _accepted(stage, teller, challenge)
        if url is not None:
            _token(stage, teller, url)
        _refused(stage, teller)
        _short(stage, teller)
    except StopError:
        pass


def hardware(stage: Stage, teller: Teller, stack: ExitStack) -> None:
    """Show what a machine with SGX has without an enclave of one's own: EPC, device, quoting enclave.

    Raises PlatformError where there is no SGX.
    """
    if not has_sgx():
        raise PlatformError(
            "no usable SGX on this machine",
            code="demo.no-sgx",
            hint="kubenclave doctor node tells which layer is missing; without --hardware the demo is SIMULATED",
        )
    try:
        ready = _daemons(stage, teller, stack, "--hardware")
        ask = ("quote", "get", "--target-info-out", "target.bin")
        words = ("run", *_STATE, "--epc", "1Mi", "--quote", "--", PROGRAM, *ask)
        with teller.step(
            "A workload asks for EPC and finds the quoting enclave", *words, wanted="its target info"
        ) as step:
            done = stage.call(*words)
            step.facts = list(_grants(done))
            step.found = "its target info" if (stage.folder / "target.bin").is_file() else _ending(done)
        more = f"{(int(ready['epc_bytes']) >> 20) + 1}Mi"
        too_much = ("run", *_STATE, "--epc", more, "--", "true")
        _refusal(stage, teller, "A workload asks for more EPC than there is", too_much, "epc.short")
    except StopError:
        pass


def _daemons(stage: Stage, teller: Teller, stack: ExitStack, *options: str) -> dict[str, Any]:
    words = ("up", *options, *_STATE)
    with teller.step("The daemons of a node come up", *words, wanted="ready") as step:
        ready = stack.enter_context(stage.beside(*words, log="up.log", ready=lambda printed: "ready" in printed))
        step.facts.append(("EPC", amount(ready["epc_bytes"])))
        step.facts += [("device plugin", f"{name}, {count} devices") for name, count in ready["devices"].items()]
        step.facts.append(("AESM socket", ready["aesm_socket"]))
        step.found = "ready"
    return dict(ready)


def _policy(stage: Stage, teller: Teller) -> None:
    """Say which enclave is wanted before there is one: by measuring the program, not by asking it."""
    program = stage.folder / "workload"
    program.write_text(WORKLOAD)
    program.chmod(0o755)
    words = ("policy", "check", "policy.toml")
    with teller.step("Somebody says which enclave is wanted", *words, wanted="a strict policy") as step:
        mr_enclave = _measure(stage.folder)
        (stage.folder / "policy.toml").write_text(_policy_text("demo", mr_enclave))
        (stage.folder / "other-policy.toml").write_text(_policy_text("another enclave", mr_enclave[::-1]))
        done = stage.call(*words)
        strict = done.exit_code == 0 and done.document["relaxations"] == []
        step.facts.append(("measured", f"MRENCLAVE {mr_enclave.hex()}"))
        step.found = "a strict policy" if strict else _ending(done)


def _measure(folder: Path) -> bytes:
    """Return the MRENCLAVE of the workload, signed with a key made for this run."""
    from kubenclave.platform.simulated import loader, signing
    from kubenclave.sgx.sigstruct import Sigstruct

    key = signing.development_key(folder / "key.pem")
    identity = loader.of_content(WORKLOAD.encode(), loader.Terms(), lambda template: signing.sign(template, key))
    return Sigstruct.parse(identity.sigstruct).enclave_hash


def _policy_text(name: str, mr_enclave: bytes) -> str:
    return f'version = 1\nname = "{name}"\n\n[[enclaves]]\nmr_enclave = "{mr_enclave.hex()}"\n'


def _quote(stage: Stage, teller: Teller, challenge: str) -> None:
    enclave = ("sim", "run", "--key", "key.pem", "--", "./workload", challenge)
    words = ("run", *_STATE, "--epc", ASKED, "--quote", "--", PROGRAM, *enclave)
    with teller.step("A workload asks for EPC, and its enclave for a quote", *words, wanted="a quote") as step:
        done = stage.call(*words)
        step.facts = list(_grants(done))
        if done.exit_code == 0 and (stage.folder / "quote.bin").is_file():
            step.facts += _quote_facts(stage.call("quote", "show", "quote.bin").document)
            step.found = "a quote"
        else:
            step.found = _ending(done)


def _quote_facts(shown: dict[str, Any]) -> Iterator[Fact]:
    yield "enclave", f"MRENCLAVE {shown['mr_enclave']}"
    yield "REPORT", f"REPORTDATA {shown['report_data'][:32]}..., made for the quoting enclave"
    yield "quote", f"version {shown['version']}, {shown['size']} bytes, over the AESM socket"


def _grants(done: Done) -> Iterator[Fact]:
    """Yield what the device plugin granted, from the reply to Allocate."""
    if "granted" not in done.document:
        return
    yield "EPC granted", amount(done.document["epc_bytes"])
    for container in done.document["granted"]:
        for one in container["allotments"]:
            yield "device granted", f"{one['resource']}: {', '.join(one['devices_ids'])}"
            for device in one["devices"]:
                yield "device node", device["container_path"]
            for mount in one["mounts"]:
                yield "mount", f"{mount['container_path']}{' (read-only)' if mount['read_only'] else ''}"
            for name, value in one["envs"].items():
                yield "variable", f"{name}={value}"
    namespaces = done.document["isolation"] == "namespace"
    yield "isolation", "namespaces of its own" if namespaces else "by environment alone: this kernel forbids namespaces"


def _collateral(stage: Stage, teller: Teller) -> None:
    words = ("sim", "collateral", "--state", "state/sim", "--out", "collateral.json", "--root", "root.der")
    with teller.step("A relying party fetches collateral and root", *words, wanted="collateral") as step:
        done = stage.call(*words)
        if done.exit_code == 0:
            shown = stage.call("collateral", "show", "collateral.json", "--root", "root.der").document
            step.facts.append(
                ("signatures", "good under the root of the SIMULATED platform" if shown["verified"] else "BAD")
            )
            step.facts.append(("good until", shown["earliest_expiration"]))
        step.found = "collateral" if done.exit_code == 0 else _ending(done)


def _accepted(stage: Stage, teller: Teller, challenge: str) -> None:
    words = ("quote", "verify", *_EVIDENCE, "--root", "root.der", "--policy", "policy.toml", "--report-data", challenge)
    wanted = "accepted, appraised, UpToDate"
    with teller.step("It verifies the quote under its policy", *words, wanted=wanted) as step:
        done = stage.call(*words)
        if done.exit_code == 0:
            teller.verdict = done.document
            appraised = "appraised" if done.document["appraised"] else "NOT APPRAISED"
            step.found = f"accepted, {appraised}, {done.document['tcb_status']}"
            step.facts = list(_verdict_facts(done.document))
        else:
            step.found = _ending(done)


def _verdict_facts(verdict: dict[str, Any]) -> Iterator[Fact]:
    yield "MRENCLAVE", f"{verdict['quote']['mr_enclave']} is the one wanted"
    yield "REPORTDATA", "answers the challenge" if verdict["report_data_checked"] else "NOT CHECKED"
    yield "platform", f"{verdict['platform']['status']}, quoting enclave {verdict['qe']['status']}"
    yield "relaxations", ", ".join(verdict["relaxations"]) or "none"


def _token(stage: Stage, teller: Teller, url: str) -> None:
    """Have the attestation service judge the quote for everybody who trusts it, and be one of those."""
    words = ("attest", "token", "get", "quote.bin", "--url", url, "--out", "token.jwt")
    with teller.step("The attestation service makes it a token", *words, wanted="a token") as step:
        done = stage.call(*words)
        if done.exit_code == 0:
            step.facts = list(_token_facts(done.document))
        step.found = "a token" if (stage.folder / "token.jwt").is_file() else _ending(done)
    words = ("attest", "token", "verify", "token.jwt", "--issuer", url, "--simulated-root", "root.der")
    with teller.step("Somebody who trusts the service takes it", *words, wanted="accepted, SIMULATED") as step:
        done = stage.call(*words)
        if done.exit_code == 0:
            said = done.document["claims"]["kubenclave"]
            step.facts.append(("signed by", done.document["kid"]))
            step.facts.append(("verdict", f"{said['tcb_status']}, {'' if said['appraised'] else 'not '}appraised"))
            step.found = "accepted, SIMULATED" if said["simulated"] else "accepted"
        else:
            step.found = _ending(done)


def _token_facts(answer: dict[str, Any]) -> Iterator[Fact]:
    yield "in the log", f"entry {answer['receipt']['index']}, with a proof for later"
    yield "relaxations", ", ".join(answer["relaxations"]) or "none"


def _refused(stage: Stage, teller: Teller) -> None:
    """Show that the same quote is refused where it has to be."""
    intel = ("quote", "verify", *_EVIDENCE, "--policy", "policy.toml")
    _refusal(stage, teller, "Under Intel's root the same quote is refused", intel, "pck.untrusted-root")
    other = ("quote", "verify", *_EVIDENCE, "--root", "root.der", "--policy", "other-policy.toml")
    _refusal(stage, teller, "A policy for another enclave refuses it too", other, "policy.mr-enclave")


def _refusal(stage: Stage, teller: Teller, title: str, words: tuple[str, ...], code: str) -> None:
    with teller.step(title, *words, wanted=f"refused: {code}", vital=False) as step:
        done = stage.call(*words)
        step.found = f"refused: {done.error_code}" if done.error_code else _ending(done)
        step.facts = list(_reasons(done.document.get("error", {})))


def _reasons(error: dict[str, Any]) -> Iterator[Fact]:
    for one in error.get("findings", [error] if error else []):
        yield "because", one["field"] if "findings" in error else error["message"]
        for name in ("expected", "found"):
            if name in one:
                yield f"  {name}", one[name]
    if "hint" in error:
        yield "next step", error["hint"]


def _short(stage: Stage, teller: Teller) -> None:
    """Show that EPC is never given twice: while a neighbour holds most of it, there is not enough."""
    neighbour = ("run", *_STATE, "--epc", HELD, "--name", "neighbour", "--", "sh", "-c", "echo here > here; sleep 60")
    here = stage.folder / "here"
    with stage.beside(*neighbour, log="neighbour.log", ready=lambda _: here.is_file()):
        words = ("run", *_STATE, "--epc", ASKED, "--", "true")
        _refusal(stage, teller, f"A neighbour holds {HELD}; another asks for {ASKED}", words, "epc.short")


def _coloured(step: Step) -> str:
    """Return how a step ended; what has to be otherwise is marked in words too."""
    return (
        click.style(step.found, fg="green") if step.good else click.style(f"WRONG: {step.found}", fg="red", bold=True)
    )


def _ending(done: Done) -> str:
    """Return how a command ended that should have ended otherwise."""
    last = done.said.strip().rpartition("\n")[2]
    error = done.document.get("error", {}).get("message") or last
    return f"exit code {done.exit_code}{f': {error}' if error else ''}"


def _typed(words: tuple[str, ...]) -> str:
    """Return a command as one would type it, broken between its options where it is long."""
    lines = [f"      $ {PROGRAM}"]
    for word in map(shlex.quote, words):
        if len(lines[-1]) + len(word) > _WIDTH or (lines[-1].endswith(" --") and len(shlex.join(words)) > _WIDTH):
            lines[-1] += " \\"
            lines.append(f"          {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"      {line}" for line in text.splitlines())
