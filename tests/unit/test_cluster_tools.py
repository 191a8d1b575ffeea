# SPDX-License-Identifier: Apache-2.0
"""What tools/kubernetes/build.py reads from the Go modules beside it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tools.kubernetes import build
from tools.kubernetes.build import TOOLS, Tool

GO_MOD = """\
module test.example/tool

go 1.26.0

tool (
	test.example/thing/cmd/one
	test.example/thing/cmd/two
)

require test.example/thing v1.2.3

require test.example/thing/api v9.9.9 // indirect
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tool:
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "go_version", lambda: "go1.26.0")
    monkeypatch.setenv("KUBENCLAVE_TOOLS", str(tmp_path / "cache"))
    (tmp_path / "thing").mkdir()
    (tmp_path / "thing" / "go.mod").write_text(GO_MOD)
    (tmp_path / "thing" / "go.sum").write_text("")
    return Tool("thing", "test.example/thing", stamps=("p.version={version}", "p.minor={minor}"))


def test_version_and_commands_are_those_of_go_mod(tool: Tool):
    assert tool.version == "v1.2.3"
    assert tool.packages == ["test.example/thing/cmd/one", "test.example/thing/cmd/two"]


def test_a_single_tool_line_is_read_as_well(tool: Tool):
    (tool.folder / "go.mod").write_text("tool test.example/thing/cmd/one\nrequire test.example/thing v1.0.0\n")
    assert tool.packages == ["test.example/thing/cmd/one"]


def test_programs_are_told_their_version(tool: Tool):
    assert tool.ldflags() == "-s -w -X p.version=v1.2.3 -X p.minor=2"


def test_another_pin_checksum_option_or_compiler_is_another_place(tool: Tool, monkeypatch: pytest.MonkeyPatch):
    places = {build.place(tool), build.place(dataclasses.replace(tool, tags=("slim",)))}
    (tool.folder / "go.sum").write_text("test.example/thing v1.2.3 h1:x=\n")
    places.add(build.place(tool))
    (tool.folder / "go.mod").write_text(GO_MOD.replace("v1.2.3", "v1.2.4"))
    places.add(build.place(tool))
    monkeypatch.setattr(build, "go_version", lambda: "go1.27.0")
    places.add(build.place(tool))
    assert len(places) == 5
    assert all(place.parent == build.cache() for place in places)


def test_a_module_that_is_not_required_is_named(tool: Tool):
    with pytest.raises(SystemExit, match=r"requires no test\.example/other"):
        _ = dataclasses.replace(tool, module="test.example/other").version


def test_without_go_a_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(build, "go_version", lambda: None)
    assert build.main([]) == 1
    assert capsys.readouterr().err == "cluster tools: no `go` on PATH; install Go 1.26 or newer\n"


@pytest.mark.parametrize("name", TOOLS)
def test_every_pinned_tool_has_a_version_and_commands(name: str):
    assert TOOLS[name].version.startswith("v")
    assert TOOLS[name].packages
    if name.startswith("1."):
        assert TOOLS[name].version.startswith(f"v{name}.")


def test_packages_whose_program_is_missing_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(build, "PROGRAMS", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    for program in set(build.PACKAGES) - {"iptables", "runc"}:
        (tmp_path / program).touch(mode=0o755)
    assert build.missing_packages() == ["runc", "iptables"]
    assert build.install_packages() == "missing packages; install them with: sudo apt-get install runc iptables"
