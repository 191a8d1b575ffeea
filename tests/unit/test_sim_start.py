# SPDX-License-Identifier: Apache-2.0
"""The machine behind ``sim start``: a CPU that follows its state file, and certificates for it."""

from dataclasses import replace

import pytest
from cryptography import x509

from kubenclave.platform.simulated.enclaves import PCE
from kubenclave.platform.simulated.faults import CpuError
from kubenclave.platform.simulated.pce import CertificationEnclave
from kubenclave.platform.simulated.start import Machine
from kubenclave.platform.simulated.state import PlatformState
from kubenclave.platform.simulated.tcb import PlatformTcb
from kubenclave.wire.simcpu import Code
from tests.simulated_platform import Platform


def machine(folder, **changes) -> Machine:
    state = replace(PlatformState.open(folder), **changes)
    return Machine(folder, state, boot=b"b" * 32)


@pytest.mark.parametrize("tcb", list(PlatformTcb), ids=[each.value for each in PlatformTcb])
def test_the_pck_certificate_is_for_the_key_of_the_pce_on_this_cpu(tmp_path, tcb):
    running = machine(tmp_path, tcb=tcb)
    platform = Platform(tcb)
    platform.cpu = running.cpu
    pce = platform.load(PCE)
    leaf = x509.load_pem_x509_certificates(running.pck_chain())[0]
    assert leaf.public_key() == CertificationEnclave(pce).pck_public_key
    assert running.cpu.cpu_svn == tcb.svns.cpu_svn


def test_two_platforms_have_no_certificate_in_common(tmp_path):
    one, two = machine(tmp_path / "one"), machine(tmp_path / "two")
    assert one.pck_chain() != two.pck_chain()


def test_without_a_usable_seed_there_is_no_certificate(tmp_path):
    with pytest.raises(CpuError) as caught:
        machine(tmp_path, seed=b"short").pck_chain()
    assert caught.value.answer is Code.NOT_AVAILABLE


def test_a_change_of_the_state_is_followed(tmp_path):
    running = machine(tmp_path)
    before = running.pck_chain()
    PlatformState.load(tmp_path).with_tcb(PlatformTcb.OUT_OF_DATE).save(tmp_path)
    assert running.cpu.cpu_svn == PlatformTcb.UP_TO_DATE.svns.cpu_svn
    running.refresh()
    assert running.cpu.cpu_svn == PlatformTcb.OUT_OF_DATE.svns.cpu_svn
    assert running.pck_chain() != before


def test_other_changes_of_the_state_wait_for_a_restart(tmp_path):
    running = machine(tmp_path)
    chain = running.pck_chain()
    PlatformState.new((8192,)).save(tmp_path)
    running.refresh()
    assert running.cpu.epc.pages == (128 << 20) // 4096
    assert running.pck_chain() == chain
