"""Prometheus metrics that take little of a request's time.

They note what they are told, and count it when it is much, or when they are read: one by one takes
three to five times as long. They rely on methods and attributes of prometheus-client 0.26 that are
not public, and ignore exemplars.
"""

from threading import Lock
from typing import Any

import numpy as np
import prometheus_client

NOTED = 1000
"""Amounts that are noted before they are counted."""


class _Noting(prometheus_client.metrics.MetricWrapperBase):
    """Notes amounts; a subclass counts them."""

    def _metric_init(self) -> None:
        super()._metric_init()  # type: ignore[no-untyped-call]
        self._noted: list[float] = []
        self._counting = Lock()

    def _note(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        self._noted.append(amount)
        if len(self._noted) >= NOTED:
            self._count_noted()

    def _count_noted(self) -> None:
        with self._counting:  # further amounts may be noted meanwhile
            noted = self._noted[:]
            del self._noted[: len(noted)]
            self._count(noted)

    def _count(self, amounts: list[float]) -> None:
        raise NotImplementedError

    def _child_samples(self) -> Any:
        self._count_noted()
        return super()._child_samples()


class Counter(_Noting, prometheus_client.Counter):
    """Prometheus's counter."""

    inc = _Noting._note

    def _count(self, amounts: list[float]) -> None:
        self._value.inc(sum(amounts))


class Histogram(_Noting, prometheus_client.Histogram):
    """Prometheus's histogram."""

    observe = _Noting._note

    def _count(self, amounts: list[float]) -> None:
        counts = np.bincount(np.searchsorted(self._upper_bounds, amounts))
        for bucket, count in zip(self._buckets, counts.tolist(), strict=False):
            bucket.inc(count)
        self._sum.inc(sum(amounts))
