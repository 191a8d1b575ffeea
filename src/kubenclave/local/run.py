# SPDX-License-Identifier: Apache-2.0
"""Running an admitted pod's containers as processes of this machine.

Init containers run one after the other, sidecars from their turn on, the main containers together. The lease ends
with the connection to ``up``, and no process outlives it: what they leave behind is adopted and killed (``guard``).
"""

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Final

import msgspec

from kubenclave.cluster.admission import ContainerKind
from kubenclave.errors import KubenclaveError, PlatformError
from kubenclave.local import control as protocol
from kubenclave.local import guard, manifest, sandbox
from kubenclave.local.control import Container, ControlClient, Granted, LeaseRequest, Refused
from kubenclave.local.guard import POLL
from kubenclave.local.mounts import Bind
from kubenclave.local.sandbox import Command, Grants, Isolation
from kubenclave.local.state import StateDirectory

Say = Callable[[str], None]


class Outcome(msgspec.Struct, tag="outcome"):
    """What became of a pod: what its containers were granted, exit codes by container in the order of their ends."""

    epc: int
    simulated: bool
    isolation: Isolation
    granted: tuple[Container, ...] = ()
    exit_codes: dict[str, int] = msgspec.field(default_factory=dict)
    exit_code: int = 0


ATTESTATION_URL: Final = "KUBENCLAVE_ATTESTATION_URL"
"""Variable that tells a program where the attestation service of its machine is."""
_BY_ENVIRONMENT: Final = "granted sockets are passed by environment, and nothing else is out of reach"
_ANSWERS: Final = msgspec.json.Encoder()
_OUTCOMES: Final = msgspec.json.Decoder(Outcome | Refused)


def run(
    pod: Mapping[str, Any],
    state: StateDirectory,
    *,
    isolation: Isolation = Isolation.AUTO,
    output_to_stderr: bool = False,
    say: Say = lambda _: None,
) -> Outcome:
    """Get what ``pod`` asks for, run it to its end and give everything back. ``say`` hears what people should know.

    Raises the refusal of ``up``, UnreachableError without one, PlatformError where the wanted isolation is forbidden.
    """
    with ControlClient(state.control) as control:
        granted = control.ask(LeaseRequest(pod=dict(pod)))
        assert isinstance(granted, Granted), "a lease is answered by a grant or an error"
        programs = manifest.programs(granted.pod)
        for note in (*granted.notes, *manifest.remarks(granted.pod)):
            say(f"note: {note}")
        if granted.simulated and granted.epc:
            say("SIMULATED platform: nothing is protected by hardware")
        if isolation is Isolation.ENVIRONMENT:
            say(f"WARNING: NOT ISOLATED, as asked: {_BY_ENVIRONMENT}")
        run_of_pod = _PodRun(granted, isolation, say, output_to_stderr=output_to_stderr)
        containers = tuple(zip(granted.containers, programs, strict=True))
        answer = guard.guarded(
            lambda: _ANSWERS.encode(run_of_pod.outcome_or_refusal(containers)),
            control.fileno(),
            lambda: say("WARNING: 'kubenclave up' has ended, and the lease with it: ending too"),
        )
    outcome: Outcome | Refused = _OUTCOMES.decode(answer)
    if isinstance(outcome, Refused):
        raise protocol.as_error(outcome)
    return outcome


class _PodRun:
    """One pod's processes."""

    def __init__(self, granted: Granted, isolation: Isolation, say: Say, *, output_to_stderr: bool) -> None:
        self._granted = granted
        self._output_to_stderr = output_to_stderr
        self._say = say
        self._grace = manifest.grace(granted.pod)
        self._running: dict[int, str] = {}
        self._sidecars: set[int] = set()
        self._received: int | None = None
        self.outcome = Outcome(granted.epc, granted.simulated, isolation, granted.containers)

    def outcome_or_refusal(self, containers: Sequence[tuple[Container, manifest.Program]]) -> Outcome | Refused:
        """Run the containers to their end, in the keeper's process, and return what became of them."""
        with self.signals_forwarded():
            try:
                return self.run(containers)
            except KubenclaveError as error:
                return protocol.refusal(error)
            finally:
                self.end_all()

    def run(self, containers: Sequence[tuple[Container, manifest.Program]]) -> Outcome:
        """Run the containers in the order of their kinds and return the outcome."""
        for container, program in containers:
            if container.kind == ContainerKind.MAIN:
                continue
            pid = self._start(container, program)
            if container.kind == ContainerKind.SIDECAR:
                self._sidecars.add(pid)
                continue
            if code := self._wait_for({pid})[program.name]:
                self._say(f"init container {program.name} ended with exit code {code}")
                self.outcome.exit_code = code
                return self.outcome
        main = {
            self._start(container, program) for container, program in containers if container.kind == ContainerKind.MAIN
        }
        codes = self._wait_for(main)
        self.outcome.exit_code = next((code for code in codes.values() if code), 0)
        return self.outcome

    def end_all(self) -> None:
        """End whatever still runs: sidecars get SIGTERM and their grace, what nobody waits for is killed."""
        self._signal_all(signal.SIGTERM)
        deadline = time.monotonic() + self._grace
        while self._running and time.monotonic() < deadline:
            if not self._reap():
                time.sleep(POLL)
        self._signal_all(signal.SIGKILL)
        guard.end_orphans()

    @contextmanager
    def signals_forwarded(self) -> Iterator[None]:
        """Pass signals on. Ctrl-C reaches the processes by the terminal; after SIGTERM they have their grace."""
        numbers = (*guard.FORWARDED, signal.SIGALRM)
        before = {number: signal.signal(number, self._on_signal) for number in numbers}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._received = number
        if number == signal.SIGALRM:
            self._signal_all(signal.SIGKILL)
        elif number != signal.SIGINT or not os.isatty(0):
            self._signal_all(number)
        if number == signal.SIGTERM:
            signal.setitimer(signal.ITIMER_REAL, max(self._grace, POLL))

    def _start(self, container: Container, program: manifest.Program) -> int:
        if self._received is not None:
            raise KeyboardInterrupt
        grants = _grants(container)
        isolation = self.outcome.isolation
        if isolation is not Isolation.ENVIRONMENT:
            try:
                pid = sandbox.start(self._command(program, grants.envs), sandbox.view(grants, self._granted.state))
            except PlatformError as error:
                if isolation is Isolation.NAMESPACE or error.code != "sandbox.forbidden":
                    raise
                self._say(f"WARNING: NOT ISOLATED: {error}")
                self._say(f"WARNING: {_BY_ENVIRONMENT}")
                self.outcome.isolation = Isolation.ENVIRONMENT
            else:
                self.outcome.isolation = Isolation.NAMESPACE
                return self._started(pid, program)
        pid = sandbox.start(self._command(program, sandbox.translated(grants)), None)
        return self._started(pid, program)

    def _started(self, pid: int, program: manifest.Program) -> int:
        self._running[pid] = program.name
        if self._received is not None:  # it came while the process was on its way
            os.kill(pid, self._received)
        return pid

    def _command(self, program: manifest.Program, granted: Mapping[str, str]) -> Command:
        """Return the process of a container; the manifest's variables win, as they do in a kubelet."""
        url = self._granted.attestation_url
        ours = {} if url is None else {ATTESTATION_URL: url}
        env = {**sandbox.base_environment(os.environ), **ours, **granted, **program.env}
        return Command(program.argv, env, program.cwd or str(Path.cwd()), output_to_stderr=self._output_to_stderr)

    def _wait_for(self, wanted: set[int]) -> dict[str, int]:
        """Wait until all of ``wanted`` have ended and return their exit codes in that order."""
        names = {self._running[pid] for pid in wanted}
        while wanted & self._running.keys():
            self._reap(block=True)
        return {name: code for name, code in self.outcome.exit_codes.items() if name in names}

    def _reap(self, *, block: bool = False) -> bool:
        """Take note of one process that has ended; False when none has."""
        pid, status = os.waitpid(-1, 0 if block else os.WNOHANG)
        if pid in self._running:
            code = os.waitstatus_to_exitcode(status)
            self.outcome.exit_codes[self._running.pop(pid)] = 128 - code if code < 0 else code
        return pid != 0

    def _signal_all(self, number: int) -> None:
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _grants(container: Container) -> Grants:
    """Return what all resources of a container grant together."""
    binds: dict[str, Bind] = {}
    envs: dict[str, str] = {}
    for allotment in container.allotments:
        envs |= allotment.envs
        for mount in allotment.mounts:
            binds.setdefault(mount.container_path, Bind(mount.container_path, mount.host_path, mount.read_only))
        for device in allotment.devices:
            place = Bind(device.container_path, device.host_path, read_only="w" not in device.permissions)
            binds.setdefault(device.container_path, place)
    return Grants(tuple(binds.values()), envs)
