"""A sink that is a list: for tests and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from marketprism_ray.encoding import data_type_of
from marketprism_ray.records import SEQUENCE_COLUMNS
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

    async def last(self, streams: Sequence[StreamId]) -> dict[StreamId, tuple[int, int]]:
        """Look through the rows."""
        found: dict[StreamId, tuple[int, int]] = {}
        for batch in self.batches:
            data_type = data_type_of(batch)
            name = SEQUENCE_COLUMNS.get(data_type)
            if name is None:
                continue
            columns = [batch.column(c) for c in ("exchange_name", "market_type", "symbol_name", name)]
            times = batch.column("timestamp").cast(pa.int64()).to_pylist()
            for *place, sequence, at in zip(*(column.to_pylist() for column in columns), times, strict=True):
                stream = (data_type, *place)
                if stream in streams and at >= found.get(stream, (0, 0))[1]:
                    found[stream] = (sequence, at)
        return found

    async def inherited(self, exchange_name: str, ways: Sequence[Way]) -> Inherited:
        """Give nothing: memory is not inherited."""
        return Inherited()

    async def close(self) -> None:
        """Do nothing."""
