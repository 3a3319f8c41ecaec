"""Where batches go. A sink writes Arrow batches durably and drops repeats by natural key.

A sink raises `SinkUnavailable` when another try with the same batches may succeed, `BadBatch` when it cannot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import pyarrow as pa

from marketprism_ray.extents import Claim, Run
from marketprism_ray.resume import OpenGap, Stored
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

    async def stored(self, streams: Mapping[StreamId, Run | None]) -> dict[StreamId, Stored]:
        """Give what is stored of streams of trades and books; those of which nothing is are left out.

        Parameters
        ----------
        streams : stream -> what is known to be stored up to a sequence: only what comes after it is looked at. Where
            nothing is known, or the store has lost it, the newest rows are looked at and the first one is given.

        Raises
        ------
        SinkUnavailable
            If the server is away.
        """

    async def open_gaps(self, streams: Sequence[StreamId]) -> dict[StreamId, tuple[OpenGap, ...]]:
        """Give the rows about holes of trades that are open; a sink that cannot look for them gives none.

        Raises
        ------
        SinkUnavailable
            If the server is away.
        """

    async def inherited(self, exchange_name: str, ways: Sequence[Way], before: int) -> Inherited:
        """Give what a collector inherits: how far streams without a sequence are stored, and their open holes.

        Parameters
        ----------
        before : only rows that were received before this, ns, count

        Raises
        ------
        SinkUnavailable
            If the server is away.
        """

    async def close(self) -> None:
        """Disconnect."""


def counted_on(after: Run | None, newest: tuple[int, int]) -> Run | None:
    """Give what is known to be stored, if the newest row (sequence, time ns) does not belie it."""
    return after if after is not None and newest[0] >= after.high else None


def counted_afresh(after: Run | None, newest: tuple[int, int]) -> Stored | None:
    """Give what is stored where the venue has begun to count anew since: nothing but the newest row is certain."""
    if after is not None and newest[0] < after.high and newest[1] > after.ended:
        return Stored(Claim((Run(newest[0], newest[0], newest[1], newest[1]),), newest[1]))
    return None
