# SPDX-License-Identifier: Apache-2.0
"""docs/metrics.md lists every metric of the source with its type and labels; the dashboard asks for no other."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chart import VARIATIONS, containers, helm, pods, render

ROOT = Path(__file__).parents[2]
NAME = re.compile(r"kubenclave_[a-z0-9_]+")
DASHBOARD = json.loads((ROOT / "charts/kubenclave/files/dashboard.json").read_text(encoding="utf-8"))


def declared() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield name, type and labels of each metric that a program of ours declares."""
    for path in (ROOT / "src/kubenclave").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or len(node.args) < 2:
                continue
            kind = ast.unparse(node.func).rpartition(".")[2]
            words = [each.value for each in node.args if isinstance(each, ast.Constant)]
            if kind in {"counter", "gauge", "histogram"} and NAME.fullmatch(str(words[0])):
                yield str(words[0]), kind, tuple(map(str, words[2:]))


def documented() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    for line in (ROOT / "docs/metrics.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `kubenclave_"):
            name, kind, labels, meaning = (cell.strip() for cell in line.strip("|").split("|"))
            assert meaning, line
            yield name.strip("`"), kind, tuple(re.findall(r"`([a-z_]+)`", labels))


def panels(board):
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def expressions():
    return [target["expr"] for panel in panels(DASHBOARD) for target in panel.get("targets", [])]


def test_the_document_lists_the_metrics_of_the_source_and_no_other():
    found, told = sorted(declared()), sorted(documented())
    assert len(found) > 20
    assert told == found


def test_counters_end_in_total_and_nothing_else_does():
    assert [name for name, kind, _ in declared() if name.endswith("_total") != (kind == "counter")] == []


def test_the_dashboard_asks_for_metrics_that_exist_by_labels_that_they_have():
    labels = {name: set(names) for name, _, names in declared()}
    asked = expressions()
    assert len(asked) > 10
    for expression in asked:
        names = [name.removesuffix("_bucket") for name in NAME.findall(expression)]
        assert names, expression
        assert set(names) <= labels.keys(), expression
        known = set().union(*(labels[name] for name in names))
        by = {label for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in re.split(r",\s*", group)}
        matched = set(re.findall(r"[{,]\s*([a-z_]+)\s*(?:=~|!~|!=|=)", expression))
        assert by | matched <= known | {"le", "instance", "pod"}, expression


def test_the_dashboard_has_the_form_that_grafana_reads():
    assert DASHBOARD["schemaVersion"] >= 38
    assert DASHBOARD["uid"] == "kubenclave"
    (source,) = (one for one in DASHBOARD["templating"]["list"] if one["type"] == "datasource")
    assert source["query"] == "prometheus"
    ids = [panel["id"] for panel in panels(DASHBOARD)]
    assert len(ids) == len(set(ids))
    for panel in panels(DASHBOARD):
        assert panel["title"]
        if panel["type"] != "row":
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["description"]
            assert panel["targets"]


def test_panels_lie_on_the_grid_and_not_on_one_another():
    taken: set[tuple[int, int]] = set()
    for panel in panels(DASHBOARD):
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@pytest.mark.skipif(helm() is None, reason="Helm is not built: make cluster-tools")
@pytest.mark.parametrize("variation", VARIATIONS)
def test_pods_that_have_metrics_are_annotated_with_their_port(variation):
    scraped = set()
    for name, pod in pods(render(VARIATIONS[variation])):
        ports = {each["name"]: each["containerPort"] for one in containers(pod) for each in one.get("ports", [])}
        annotations = pod["metadata"].get("annotations", {})
        assert annotations.get("prometheus.io/port") == (str(ports["metrics"]) if "metrics" in ports else None), name
        assert ("prometheus.io/scrape" in annotations) == ("metrics" in ports), name
        scraped |= {name} if "metrics" in ports else set()
    assert "kubenclave-node-agent" in scraped
