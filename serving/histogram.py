"""A Prometheus histogram that costs a request little."""

from threading import Lock
from typing import Any

import numpy as np
import prometheus_client

NOTED = 1000
"""Values that are noted before they are counted."""


class Histogram(prometheus_client.Histogram):
    """Notes what it observes, and counts it together when there is much of it, or when it is read.

    One by one, in Python, that costs five times as much. There are no exemplars. It relies on
    methods and attributes of prometheus-client 0.26 that are not public.
    """

    def _metric_init(self) -> None:
        super()._metric_init()
        self._noted: list[float] = []
        self._counting = Lock()

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Note ``amount``."""
        self._noted.append(amount)
        if len(self._noted) >= NOTED:
            self._count()

    def _count(self) -> None:
        with self._counting:  # further values may be noted meanwhile
            noted = self._noted[:]
            del self._noted[: len(noted)]
            counts = np.bincount(np.searchsorted(self._upper_bounds, noted))
            for bucket, count in zip(self._buckets, counts.tolist(), strict=False):
                bucket.inc(count)
            self._sum.inc(sum(noted))

    def _child_samples(self) -> Any:
        self._count()
        return super()._child_samples()
