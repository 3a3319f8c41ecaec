"""The metric table, and the figures behind it.

Names, kinds and labels stand here once; ``actors/metrics.py`` hands them to Ray, the README shows them. Figures come
from the status that actors report anyway: nothing is counted per message for metrics.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: where its figure stands in a status, and what it means."""

    name: str
    kind: Literal["counter", "gauge"]
    labels: tuple[str, ...]
    field: str
    help: str


METRICS: tuple[Metric, ...] = (
    Metric("marketprism_frames", "counter", ("venue", "collector"), "frames", "messages received"),
    Metric("marketprism_records", "counter", ("venue", "collector"), "records", "rows handed to the sinks"),
    Metric("marketprism_decode_errors", "counter", ("venue", "collector"), "decode_errors", "frames not understood"),
    Metric("marketprism_rejected_rows", "counter", ("venue", "collector"), "rejected_rows", "rows that fit no column"),
    Metric("marketprism_duplicates", "counter", ("venue", "collector"), "duplicates", "trades received again"),
    Metric("marketprism_trades_missing", "counter", ("venue", "collector"), "trades_missing", "trades found missing"),
    Metric("marketprism_trades_repaired", "counter", ("venue", "collector"), "trades_repaired", "trades brought back"),
    Metric("marketprism_book_gaps", "counter", ("venue", "collector"), "book_gaps", "books that lost their chain"),
    Metric("marketprism_crashes", "counter", ("venue", "collector"), "crashes", "connections begun anew by our fault"),
    Metric("marketprism_books_live", "gauge", ("venue", "collector"), "books_live", "books that answer now"),
    Metric("marketprism_books", "gauge", ("venue", "collector"), "books", "books wanted"),
    Metric(
        "marketprism_retained_bytes", "gauge", ("venue", "collector"), "retained_bytes", "unacknowledged rows in memory"
    ),
    Metric(
        "marketprism_spilled_bytes",
        "gauge",
        ("venue", "collector"),
        "spilled_bytes",
        "unacknowledged rows on local disk",
    ),
    Metric(
        "marketprism_gaps_open",
        "gauge",
        ("venue", "collector", "data_type", "reason"),
        "open",
        "gaps that last or may still be repaired",
    ),
    Metric(
        "marketprism_gap_seconds",
        "counter",
        ("venue", "collector", "data_type", "reason"),
        "seconds",
        "time that ended gaps cover, over all symbols",
    ),
    Metric("marketprism_sink_rows", "counter", ("sink",), "rows", "rows written durably"),
    Metric("marketprism_sink_writes", "counter", ("sink",), "writes", "inserts or publishes of a batch"),
    Metric("marketprism_sink_retries", "counter", ("sink",), "retries", "writes tried again: the server was away"),
    Metric("marketprism_sink_dead_letters", "counter", ("sink",), "dead_letters", "rows the server refused for good"),
)


class Publisher(Protocol):
    """Where figures go."""

    def publish(self, statuses: Sequence[Mapping[str, Any]]) -> None:
        """Publish what these actors report."""


def figures(status: Mapping[str, Any]) -> Iterator[tuple[Metric, dict[str, str], float]]:
    """Give the metrics that a status contains, with their labels."""
    if "shard" in status:
        labels = {"venue": str(status["venue"]), "collector": str(status["shard"])}
    elif "kind" in status:
        labels = {"sink": str(status["kind"])}
    else:
        return
    yield from _of(status, labels)
    for row in status.get("gaps", ()):
        yield from _of(row, {**labels, "data_type": row["data_type"], "reason": row["reason"]})


def _of(values: Mapping[str, Any], labels: dict[str, str]) -> Iterator[tuple[Metric, dict[str, str], float]]:
    for metric in METRICS:
        if set(metric.labels) == set(labels) and metric.field in values:
            yield metric, labels, float(values[metric.field])


def reference() -> str:
    """Give the README's table."""
    rows = [f"| `{m.name}` | {m.kind} | {', '.join(m.labels)} | {m.help} |" for m in METRICS]
    return "\n".join(["| metric | kind | labels | meaning |", "|---|---|---|---|", *rows])
