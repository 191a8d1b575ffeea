# SPDX-License-Identifier: Apache-2.0
"""What the documents say holds: layers, members of policies, commands and their options, links."""

import re
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from kubenclave.cli.main import cli
from kubenclave.dcap.policy import EnclaveRule, Policy
from kubenclave.node.agent import parser as agent_parser
from kubenclave.node.quotehelper.options import parse as parse_quote_helper
from kubenclave.platform.simulated.tcb import PlatformTcb

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "charts/kubenclave/README.md", "examples/README.md")),
    *(ROOT / name for name in ("tests/cluster/README.md", "tools/kubernetes/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)
DAEMONS: dict[str, Callable[[list[str]], object]] = {
    "agent": agent_parser().parse_args,
    "quote-helper": parse_quote_helper,
}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document, re.MULTILINE | re.DOTALL)


def commands() -> list[object]:
    """Every command of ours that a document shows, without what the shell makes of the rest of the line."""
    found: dict[str, object] = {}
    for path in DOCUMENTS:
        for block in blocks(path.read_text(encoding="utf-8"), "console"):
            for line in block.splitlines():
                if match := re.match(r"\$ (?:\w+=\S+ )*(?:kubectl )?(kubenclave .*)", line):
                    words = shlex.split(match[1], comments=True)
                    end = next((at for at, word in enumerate(words) if word in {"|", "&&", ">", "&"}), len(words))
                    name = f"{path.stem}-{len(found)}-{'-'.join(words[1:3])}"
                    found[name] = pytest.param(words[1:end], id=name)
    return list(found.values())


def parse(words: list[str]) -> None:
    """Read a command line to its end without running anything; what follows ``--`` may be another of ours."""
    if words[:1] == ["node"] and words[1] in DAEMONS:
        DAEMONS[words[1]](words[2:])
        return
    if "--" in words:
        at = words.index("--")
        words, inner = words[:at], words[at + 1 :]
        if inner[0] == "kubenclave":
            parse(inner[1:])
        words = [*words, "--", *inner]
    command: click.Command = cli
    context = click.Context(command)
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        assert found is not None, f"no command {words[0]}"
        command, words = found, words[1:]
        context = click.Context(command, parent=context, info_name=command.name)
    command.make_parser(context).parse_args(words)


@pytest.mark.parametrize("words", commands())
def test_commands_in_documents_exist_with_their_options(words):
    parse(words)


def test_the_picture_of_the_layers_is_the_contract():
    picture = re.findall(r"^│ (.*?) +│", text("docs/architecture.md"), re.MULTILINE)
    contracts = tomllib.loads(text("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract for contract in contracts if contract["type"] == "layers"]
    assert picture == layers["layers"]
    assert layers["exhaustive"] is True


def test_every_member_of_a_policy_is_documented():
    listed = re.findall(r"^\| `(\w+)` \|", text("docs/policy.md"), re.MULTILINE)
    assert listed == [*Policy.__struct_fields__, *EnclaveRule.__struct_fields__]


def test_every_example_of_a_policy_is_one():
    examples = blocks(text("docs/policy.md"), "toml")
    assert examples
    for example in examples:
        Policy.from_toml(example)


def test_every_state_of_the_simulated_platform_is_documented():
    listed = re.findall(r"^\| `([\w-]+)` \| (?:\w+|refused.*) \|$", text("docs/simulated-platform.md"), re.MULTILINE)
    assert set(listed) == {state.value for state in PlatformTcb}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_between_documents_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_the_transcript_in_the_readme_has_the_steps_of_the_demo():
    table = re.search(r"^STEP .*?\n(.*?)\n\n", text("README.md"), re.MULTILINE | re.DOTALL)
    assert table is not None
    titles = [re.split(r"  |\d", row)[0].strip() for row in table[1].splitlines()]  # amounts are filled in
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/kubenclave/cli/demo").glob("*.py"))
    assert titles
    assert [title for title in titles if title not in source] == []


def test_the_limits_of_the_quote_helper_are_documented_with_their_defaults(capsys):
    listed = dict(re.findall(r"^\| `(--[\w-]+)` \| (\d+) \|", text("docs/quote-helper.md"), re.MULTILINE))
    with pytest.raises(SystemExit):
        parse_quote_helper(["--help"])
    limits = " ".join(capsys.readouterr().out.partition("limits:")[2].split())
    assert listed == dict(re.findall(r"(--[\w-]+) (?:N|SECONDS) .*?\((\d+)\)", limits))
