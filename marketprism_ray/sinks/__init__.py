"""Where batches go. A sink writes Arrow batches durably and drops repeats by natural key.

A sink raises `SinkUnavailable` when another try with the same batches may succeed, `BadBatch` when it cannot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import pyarrow as pa

from marketprism_ray.sinks.inherited import Inherited, Way

StreamId = tuple[str, str, str, str]
"""Data type (one of ``SEQUENCE_COLUMNS``), exchange name, market type, symbol name."""


class Sink(Protocol):
    """What a sink must do."""

    async def open(self) -> None:
        """Connect and prepare tables or streams.

        Raises
        ------
        SinkUnavailable
            If the server is away.
        """

    async def write(self, batches: Sequence[pa.RecordBatch], token: str) -> int:
        """Write batches of one data type durably; gives the rows that were new.

        Parameters
        ----------
        token : names these batches in this order; the same over retries

        Raises
        ------
        SinkUnavailable
            Nothing is known to be written; write the same again.
        BadBatch
            The server refuses the data.
        """

    async def last(self, streams: Sequence[StreamId]) -> dict[StreamId, tuple[int, int]]:
        """Give how far streams of trades and books are stored: sequence and time (ns) of the newest row.

        Streams of which nothing is known are left out.

        Raises
        ------
        SinkUnavailable
            If the server is away.
        """

    async def inherited(self, exchange_name: str, ways: Sequence[Way]) -> Inherited:
        """Give what a collector inherits: how far streams without a sequence are stored, and their open holes.

        Raises
        ------
        SinkUnavailable
            If the server is away.
        """

    async def close(self) -> None:
        """Disconnect."""
