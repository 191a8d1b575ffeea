# SPDX-License-Identifier: Apache-2.0
"""Counters, gauges and histograms, and the Prometheus text format 0.0.4 for them. Values are kept, nothing is sent."""

import re
from collections.abc import Sequence
from math import inf, isinf, isnan
from typing import Final, TypeVar

from kubenclave.errors import UsageError

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_METRIC_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")


class _Metric:
    """Values by label values, in the order in which they were first set."""

    kind = ""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self.name: Final = name
        self._text: Final = text
        self._labels: Final = labels
        self._values: dict[tuple[str, ...], float] = {}
        if not labels:
            self._values[()] = 0  # a metric without labels exists from the start, so that rates see its first step

    def get(self, *labels: str) -> float:
        """Return a value, 0 if it was never set."""
        return self._values.get(self._key(labels), 0)

    def _key(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        if len(labels) != len(self._labels):
            raise UsageError(
                f"{self.name} has other labels",
                code="metrics.labels",
                expected=f"{len(self._labels)} label values",
                found=f"{len(labels)}",
            )
        return labels

    def lines(self) -> list[str]:
        """Return the text lines of this metric."""
        text = self._text.replace("\\", "\\\\").replace("\n", "\\n")
        lines = [f"# HELP {self.name} {text}", f"# TYPE {self.name} {self.kind}"]
        for values, value in self._values.items():
            pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in zip(self._labels, values, strict=True))
            lines.append(f"{self.name}{{{pairs}}} {_number(value)}" if pairs else f"{self.name} {_number(value)}")
        return lines


class Counter(_Metric):
    """Something that only grows."""

    kind = "counter"

    def inc(self, *labels: str, by: float = 1) -> None:
        """Add ``by`` >= 0 to the value for these label values. Raises UsageError for anything that would shrink it."""
        if not by >= 0:
            raise UsageError(f"{self.name} can only grow", code="metrics.shrinks", found=f"{by}")
        key = self._key(labels)
        self._values[key] = self._values.get(key, 0) + by


class Gauge(_Metric):
    """Something that goes up and down."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Replace the value for these label values."""
        self._values[self._key(labels)] = value

    def clear(self) -> None:
        """Forget all values, for label values that may not come back."""
        self._values = {} if self._labels else {(): 0}


class Histogram(_Metric):
    """How many of the values seen were at most so large; ``buckets`` are those bounds, ascending and finite."""

    kind = "histogram"

    def __init__(self, name: str, text: str, buckets: Sequence[float]) -> None:
        super().__init__(name, text, ())
        self._buckets: Final = tuple(buckets)
        self._counts = [0] * (len(self._buckets) + 1)  # the last for what is larger than every bound
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[sum(bound < value for bound in self._buckets)] += 1  # a dozen; bisect is two modules more
        self._sum += value

    def lines(self) -> list[str]:
        """Return the text lines of this metric: cumulative counts, sum and count."""
        lines = super().lines()[:2]
        total = 0
        for bound, count in zip((*self._buckets, inf), self._counts, strict=True):
            total += count
            lines.append(f'{self.name}_bucket{{le="{_number(bound)}"}} {total}')
        return [*lines, f"{self.name}_sum {_number(self._sum)}", f"{self.name}_count {total}"]


_AnyMetric = TypeVar("_AnyMetric", bound=_Metric)


class Metrics:
    """The metrics of one process, in the order in which they were declared."""

    def __init__(self) -> None:
        self._metrics: dict[str, _Metric] = {}

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """Declare a counter; by convention its name ends in ``_total``. Raises UsageError for a bad or taken name."""
        return self._add(Counter(name, text, labels), labels)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Declare a gauge. Raises UsageError for a bad or taken name."""
        return self._add(Gauge(name, text, labels), labels)

    def histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        """Declare a histogram without labels. Raises UsageError for a bad or taken name, or bounds not ascending."""
        if any(isinf(bound) for bound in buckets) or list(buckets) != sorted(set(buckets)):
            raise UsageError("bounds of buckets ascend", code="metrics.buckets", field=name, found=f"{buckets}")
        return self._add(Histogram(name, text, buckets), ())

    def render(self) -> bytes:
        """Return all values in the text format, to be served as CONTENT_TYPE."""
        lines = [line for metric in self._metrics.values() for line in metric.lines()]
        return "".join(f"{line}\n" for line in lines).encode()

    def _add(self, metric: _AnyMetric, labels: tuple[str, ...]) -> _AnyMetric:
        good = _METRIC_NAME.fullmatch(metric.name) and all(_LABEL_NAME.fullmatch(label) for label in labels)
        if not good or metric.name in self._metrics or len(set(labels)) != len(labels):
            raise UsageError("not a new metric with proper names", code="metrics.name", found=f"{metric.name} {labels}")
        self._metrics[metric.name] = metric
        return metric


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if isnan(value):
        return "NaN"
    if isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)
