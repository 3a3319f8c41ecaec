"""A sink that is a list: for tests and notebooks."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa


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

    async def close(self) -> None:
        """Do nothing."""
