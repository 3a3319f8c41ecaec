"""A sink that is a list: for tests and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from marketprism_ray.encoding import data_type_of
from marketprism_ray.extents import Claim, Extents, Run
from marketprism_ray.records import SEQUENCE_COLUMNS
from marketprism_ray.resume import OpenGap, Stored
from marketprism_ray.sinks import StreamId
from marketprism_ray.sinks.inherited import Inherited, Way


class MemorySink:
    """Keeps what it is given; a token seen before is a repeat."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []
        self._tokens: set[str] = set()

    async def open(self) -> None:
        """Do nothing."""

    async def write(self, batches: Sequence[pa.RecordBatch], token: str) -> int:
        """Keep the batches."""
        if token in self._tokens:
            return 0
        self._tokens.add(token)
        self.batches.extend(batches)
        return sum(batch.num_rows for batch in batches)

    async def stored(self, streams: Mapping[StreamId, Run | None]) -> dict[StreamId, Stored]:
        """Look through the rows."""
        found: dict[StreamId, Extents] = {}
        for batch in self.batches:
            data_type = data_type_of(batch)
            name = SEQUENCE_COLUMNS.get(data_type)
            if name is None:
                continue
            columns = [batch.column(c) for c in ("exchange_name", "market_type", "symbol_name", name)]
            times = batch.column("timestamp").cast(pa.int64()).to_pylist()
            for *place, sequence, at in zip(*(column.to_pylist() for column in columns), times, strict=True):
                stream = (data_type, *place)
                if stream in streams:
                    found.setdefault(stream, Extents()).add(sequence, sequence, at, at)
        return {stream: Stored(Claim(extents.runs())) for stream, extents in found.items()}

    async def open_gaps(self, streams: Sequence[StreamId]) -> dict[StreamId, tuple[OpenGap, ...]]:
        """Look through the rows about holes."""
        newest: dict[tuple[Any, ...], dict[str, Any]] = {}
        for batch in self.batches:
            if data_type_of(batch) != "gap":
                continue
            times = {n: batch.column(n).cast(pa.int64()).to_pylist() for n in ("opened_at", "closed_at")}
            for i, row in enumerate(batch.to_pylist()):
                row |= {name: values[i] for name, values in times.items()}
                place = (row["data_type"], row["exchange_name"], row["market_type"], row["symbol_name"])
                key = (place, row["opened_at"], row["first_missing"])
                if place in streams and row["revision"] >= newest.get(key, row)["revision"]:
                    newest[key] = row
        found: dict[StreamId, tuple[OpenGap, ...]] = {}
        for (place, *_), row in newest.items():
            if row["status"] == "open" and row["first_missing"] is not None:
                fields = ("opened_at", "closed_at", "first_missing", "last_missing", "reason", "revision")
                found[place] = (*found.get(place, ()), OpenGap(*(row[field] for field in fields)))
        return found

    async def inherited(self, exchange_name: str, ways: Sequence[Way], before: int) -> Inherited:
        """Give nothing: memory is not inherited."""
        return Inherited()

    async def close(self) -> None:
        """Do nothing."""
