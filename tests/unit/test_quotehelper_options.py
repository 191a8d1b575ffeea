# SPDX-License-Identifier: Apache-2.0
"""Options of the quote helper that a cluster gives it."""

from pathlib import Path

import pytest

from kubenclave.node.quotehelper.options import parse


def test_the_provision_socket_is_where_the_device_plugin_says(monkeypatch):
    monkeypatch.setenv("KUBENCLAVE_SIM_PROVISION", "/given/cpu.sock")
    assert parse(["--backend", "simulated"]).provision_socket == Path("/given/cpu.sock")
    assert parse(["--backend", "simulated", "--provision-socket", "/own"]).provision_socket == Path("/own")
    monkeypatch.delenv("KUBENCLAVE_SIM_PROVISION")
    assert parse(["--backend", "simulated"]).provision_socket == Path("/run/kubenclave/provision/cpu.sock")


def test_the_port_for_probes():
    assert parse(["--backend", "dcap"]).health_port is None
    assert parse(["--backend", "dcap", "--health-port", "9445"]).health_port == 9445


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_ports_that_are_none(port, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--backend", "dcap", "--health-port", port])
    assert ended.value.code == 2
    assert "--health-port" in capsys.readouterr().err
