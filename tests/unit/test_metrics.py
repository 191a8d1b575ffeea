# SPDX-License-Identifier: Apache-2.0
"""Exposition of metrics, read back by the parser of prometheus_client."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kubenclave.errors import UsageError
from kubenclave.wire.metrics import Metrics


def parsed(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_exposition_is_the_documented_text() -> None:
    metrics = Metrics()
    asked = metrics.counter("kubenclave_allocations_total", "Allocate calls,\nby \\ answer", "resource", "answer")
    metrics.counter("kubenclave_restarts_total", "kubelet restarts seen")
    epc = metrics.gauge("kubenclave_epc_bytes", "EPC offered", "numa_node")
    asked.inc("sgx.intel.com/enclave", "granted")
    asked.inc("sgx.intel.com/enclave", "granted", by=2)
    asked.inc('a"b\\c\nd', "refused")
    epc.set(1.5, "0")
    epc.set(68178411520, "1")
    assert metrics.render().decode() == (
        "# HELP kubenclave_allocations_total Allocate calls,\\nby \\\\ answer\n"
        "# TYPE kubenclave_allocations_total counter\n"
        'kubenclave_allocations_total{resource="sgx.intel.com/enclave",answer="granted"} 3\n'
        'kubenclave_allocations_total{resource="a\\"b\\\\c\\nd",answer="refused"} 1\n'
        "# HELP kubenclave_restarts_total kubelet restarts seen\n"
        "# TYPE kubenclave_restarts_total counter\n"
        "kubenclave_restarts_total 0\n"
        "# HELP kubenclave_epc_bytes EPC offered\n"
        "# TYPE kubenclave_epc_bytes gauge\n"
        'kubenclave_epc_bytes{numa_node="0"} 1.5\n'
        'kubenclave_epc_bytes{numa_node="1"} 68178411520\n'
    )
    assert asked.get("sgx.intel.com/enclave", "granted") == 3
    assert asked.get("never", "seen") == 0


def test_nothing_declared_gives_nothing() -> None:
    assert Metrics().render() == b""


@given(
    label=st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\r\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e")
    ),
    value=st.floats(),
)
def test_parser_reads_back_what_was_set(label: str, value: float) -> None:
    metrics = Metrics()
    metrics.gauge("some_gauge", "text", "label").set(value, label)
    (found,) = parsed(metrics).items()
    assert found[0] == ("some_gauge", (("label", label),))
    assert found[1] == value or (math.isnan(found[1]) and math.isnan(value))


def test_gauges_forget() -> None:
    metrics = Metrics()
    by_label, alone = metrics.gauge("with_label", "", "label"), metrics.gauge("alone", "")
    by_label.set(1, "x")
    alone.set(7)
    by_label.clear()
    alone.clear()
    assert parsed(metrics) == {("alone", ()): 0}


@pytest.mark.parametrize(
    ("value", "text"), [(math.nan, "NaN"), (math.inf, "+Inf"), (-math.inf, "-Inf"), (1e300, str(int(1e300)))]
)
def test_numbers_that_are_none_have_their_names(value: float, text: str) -> None:
    metrics = Metrics()
    metrics.gauge("level", "a level").set(value)
    assert metrics.render().decode().splitlines()[-1] == f"level {text}"


@pytest.mark.parametrize("by", [-1, math.nan, -math.inf])
def test_counters_do_not_shrink(by: float) -> None:
    with pytest.raises(UsageError) as caught:
        Metrics().counter("some_total", "").inc(by=by)
    assert caught.value.code == "metrics.shrinks"


def test_label_values_are_counted() -> None:
    with pytest.raises(UsageError) as caught:
        Metrics().counter("some_total", "", "one").inc("a", "b")
    assert caught.value.code == "metrics.labels"


@pytest.mark.parametrize(
    "names", [("9x",), ("a-b",), ("",), ("good", "__reserved"), ("good", "le-ft"), ("good", "a", "a"), ("taken",)]
)
def test_bad_names_are_refused(names: tuple[str, ...]) -> None:
    metrics = Metrics()
    metrics.counter("taken", "")
    with pytest.raises(UsageError) as caught:
        metrics.gauge(names[0], "", *names[1:])
    assert caught.value.code == "metrics.name"


def test_a_histogram_counts_what_is_at_most_so_large() -> None:
    metrics = Metrics()
    seconds = metrics.histogram("kubenclave_seconds", "Time", (0.5, 1))
    for value in (0.1, 0.5, 0.7, 4):
        seconds.observe(value)
    assert metrics.render().decode() == (
        "# HELP kubenclave_seconds Time\n"
        "# TYPE kubenclave_seconds histogram\n"
        'kubenclave_seconds_bucket{le="0.5"} 2\n'
        'kubenclave_seconds_bucket{le="1"} 3\n'
        'kubenclave_seconds_bucket{le="+Inf"} 4\n'
        "kubenclave_seconds_sum 5.3\n"
        "kubenclave_seconds_count 4\n"
    )
    assert parsed(metrics)["kubenclave_seconds_count", ()] == 4


@pytest.mark.parametrize("buckets", [(1, 1), (2, 1), (1, math.inf)])
def test_bounds_that_do_not_ascend(buckets: tuple[float, ...]) -> None:
    with pytest.raises(UsageError) as caught:
        Metrics().histogram("kubenclave_seconds", "Time", buckets)
    assert caught.value.code == "metrics.buckets"
