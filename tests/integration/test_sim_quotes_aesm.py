# SPDX-License-Identifier: Apache-2.0
"""A SIMULATED quote end to end: CPU, quote helper and worker as programs, AESM socket, collateral, two verifiers."""

import datetime as dt
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dcap_qvl
import pytest

from kubenclave import Collateral, KubenclaveError, TrustError, verify_quote
from kubenclave.platform.aesmclient import AesmClient
from kubenclave.platform.simcpu import Enclave
from kubenclave.platform.simulated.places import cpu_socket, provision_socket
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.sgx.attributes import Attributes
from tests.integration.test_sim_quotes_verify import BAD, GOOD
from tests.simulated_platform import APP_MR_ENCLAVE, app_sigstruct
from tests.waiting import PATIENCE, eventually


@contextmanager
def program(*arguments: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("ab") as file, subprocess.Popen([sys.executable, "-m", *arguments], stderr=file, stdout=file) as run:
        try:
            yield run
        finally:
            run.terminate()


class Node:
    def __init__(self, root: Path) -> None:
        self.state, self.aesm, self.log = root / "s", root / "aesm.socket", root / "log"
        self.cpu, self.provision = cpu_socket(self.state), provision_socket(self.state)
        self.root = root

    @contextmanager
    def platform(self) -> Iterator["subprocess.Popen[bytes]"]:
        with program("kubenclave", "sim", "start", "--state", str(self.state), "--epc", "4Mi", log=self.log) as run:
            eventually(self.cpu.exists, what="the CPU's socket")
            yield run

    @contextmanager
    def helper(self) -> Iterator["subprocess.Popen[bytes]"]:
        sockets = ["--socket", str(self.aesm), "--health-socket", str(self.root / "health")]
        backend = ["--backend", "simulated", "--provision-socket", str(self.provision)]
        with program("kubenclave.node.helper", *sockets, *backend, log=self.log) as run:
            eventually(self.aesm.exists, what="the AESM socket")
            yield run

    def sim(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "kubenclave", "sim", *arguments, "--state", str(self.state)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def collateral(self) -> tuple[Collateral, bytes]:
        out, root = self.root / "collateral.json", self.root / "root.der"
        for path in (out, root):
            path.unlink(missing_ok=True)
        self.sim("collateral", "--out", str(out), "--root", str(root))
        return Collateral.from_json(out.read_bytes()), root.read_bytes()

    def quote(self) -> bytes:
        with Enclave.connect(self.cpu) as enclave:
            enclave.create(1 << 13, attributes=Attributes(4, 3))
            enclave.measured(APP_MR_ENCLAVE, 2)
            enclave.init(app_sigstruct())
            return AesmClient(self.aesm).quote(lambda target: enclave.report(target, bytes(64)))


@pytest.fixture
def node(short_tmp) -> Node:
    return Node(short_tmp)


def both(quote: bytes, collateral: Collateral, root: bytes) -> tuple[str, str]:
    """Answers of the two verifiers: the status, or the code of ours and "refused" of the other."""
    now = dt.datetime.now(dt.UTC)
    try:
        ours = str(verify_quote(quote, collateral, at=now, root=root).tcb_status)
    except TrustError as error:
        ours = error.code
    try:
        parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.to_json())
        theirs: str = dcap_qvl.verify_with_root_ca(quote, parsed, root, int(now.timestamp())).status
    except ValueError:
        theirs = "refused"
    return ours, theirs


def test_every_state_set_from_outside_shows_in_the_next_quote(node):
    answers = {}
    with node.platform(), node.helper():
        for tcb in PlatformTcb:
            node.sim("tcb", tcb.value)
            answers[tcb] = both(node.quote(), *node.collateral())
    good = {tcb: (status, status) for tcb, status in GOOD.items()}
    assert answers == good | {tcb: (code, "refused") for tcb, code in BAD.items()}


def test_helper_quotes_again_after_the_platform_was_restarted(node):
    with node.platform() as first, node.helper():
        before = node.quote()
        first.terminate()
        first.wait(PATIENCE)
        with node.platform():
            again: list[bytes] = []

            def quoted() -> bool:
                with suppress(KubenclaveError):
                    again.append(node.quote())
                return bool(again)

            eventually(quoted, what="a quote of the new platform")
            assert both(again[0], *node.collateral()) == ("UpToDate", "UpToDate")
    assert before[500:564] == again[0][500:564]  # the attestation key
