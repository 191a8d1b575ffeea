# SPDX-License-Identifier: Apache-2.0
"""Whatever clients do: buckets never give more than they hold, merged metrics parse, garbage is no credential."""

import datetime as dt
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from kubenclave.errors import FormatError, TrustError
from kubenclave.services.database import Database
from kubenclave.services.web.credentials import Credentials, Role, adopt_file
from kubenclave.services.web.gather import merged
from kubenclave.services.web.limits import Buckets, Rate, TooFastError, client_of
from kubenclave.wire.metrics import Metrics

LABELS = st.text(max_size=8)


@given(
    per_second=st.floats(0.01, 100),
    burst=st.integers(1, 20),
    pauses=st.lists(st.floats(0, 5), min_size=1, max_size=60),
)
def test_a_bucket_lets_no_more_through_than_its_burst_and_its_rate(per_second, burst, pauses):
    time, passed, waits = 0.0, 0, []

    def clock():
        return time

    buckets = Buckets(Rate(per_second, burst), clock)
    for pause in pauses:
        time += pause
        try:
            buckets.take("a")
        except TooFastError as error:
            waits.append(error.retry_after)
        else:
            passed += 1
        assert passed <= burst + time * per_second + 1e-6
    assert all(1 <= wait <= math.ceil(1 / per_second) for wait in waits)


@given(values=st.lists(st.tuples(LABELS, st.integers(0, 99)), max_size=6), workers=st.integers(1, 4))
def test_metrics_of_workers_parse_as_those_of_one_and_nothing_is_lost(values, workers):
    metrics = Metrics()
    counter = metrics.counter("a_total", "A.", "label")
    metrics.histogram("b_seconds", "B.", [0.1, 1]).observe(0.5)
    for label, value in values:
        counter.inc(label, by=value)
    text = metrics.render()
    families = {
        each.name: each for each in text_string_to_metric_families(merged(enumerate([text] * workers)).decode())
    }
    assert set(families) == {"a", "b_seconds"}
    samples = [each for each in families["a"].samples if each.name == "a_total"]
    assert sum(each.value for each in samples) == workers * sum(value for _, value in values)
    assert {each.labels["label"] for each in samples} == {label for label, _ in values}


@given(content=st.binary(max_size=200), presented=st.text(max_size=120))
def test_garbage_is_neither_a_list_of_credentials_nor_a_token(tmp_path_factory, content, presented):
    database = Database(tmp_path_factory.mktemp("c") / "c.db")
    credentials = Credentials(database, lambda: dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    try:
        adopt_file(credentials, content)
    except FormatError:
        assert credentials.list() == []
    with pytest.raises(TrustError) as caught:
        credentials.check(Role.ATTEST, presented)
    database.close()
    assert caught.value.code in {"credentials.unknown", "credentials.missing"}


@given(host=st.one_of(st.ip_addresses().map(str), st.text(max_size=20)))
def test_every_client_has_a_name_of_bounded_length(host):
    assert len(client_of({"client": (host, 1)})) <= len("ffff:ffff:ffff:ffff::/64")
