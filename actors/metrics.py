"""Metrics through Ray: the table of ``marketprism_ray.metrics``, once a control step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge

from marketprism_ray.metrics import METRICS, figures


class RayMetrics:
    """Publishes figures on the node's metrics port as ``ray_marketprism_...``."""

    def __init__(self) -> None:
        self._metrics: dict[str, Any] = {
            m.name: (Counter if m.kind == "counter" else Gauge)(m.name, m.help, m.labels) for m in METRICS
        }
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}

    def publish(self, statuses: Sequence[Mapping[str, Any]]) -> None:
        """Publish; counters by what was added since the last time, also over restarts of their actor."""
        for status in statuses:
            for metric, labels, value in figures(status):
                target = self._metrics[metric.name]
                if metric.kind == "gauge":
                    target.set(value, labels)
                    continue
                place = (metric.name, tuple(labels.values()))
                before = self._last.get(place, 0.0)
                added = value - before if value >= before else value
                self._last[place] = value
                if added > 0:
                    target.inc(added, labels)
