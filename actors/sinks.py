"""The sink actor: takes batches, writes them durably, acknowledges, remembers how far each stream is.

A plain class; ``cluster.py`` makes it an actor. Calls come from several collectors; writes of one data type go one
after the other. While its server is away a call waits, and the collector that waits holds its batches back.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from marketprism_ray.errors import BadBatch, SinkUnavailable
from marketprism_ray.logs import configure
from marketprism_ray.session import Watermark
from marketprism_ray.sinks import Sink
from marketprism_ray.sinks.clickhouse import ClickHouseSettings, ClickHouseSink
from marketprism_ray.sinks.nats import NatsSettings, NatsSink

Delivery = tuple[str, str, pa.RecordBatch, dict[str, Watermark]]
"""(batch id, data type, rows, watermarks)."""

RECENT_IDS = 20_000
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)


class Refused(Exception):
    """The collector's epoch is over; another owns its shard."""


def make_sink(settings: ClickHouseSettings | NatsSettings | Sink) -> Sink:
    """Give the sink that belongs to settings."""
    if isinstance(settings, ClickHouseSettings):
        return ClickHouseSink(settings)
    if isinstance(settings, NatsSettings):
        return NatsSink(settings)
    return settings


class SinkActor:
    """One sink.

    Parameters
    ----------
    dead_letters : folder for rows that the server refuses for good
    """

    def __init__(
        self, kind: str, settings: ClickHouseSettings | NatsSettings | Sink, dead_letters: Path, log_level: str = "info"
    ) -> None:
        configure(log_level)
        self.kind = kind
        self._sink = make_sink(settings)
        self._dead_letters = dead_letters
        self._log = structlog.get_logger("sink").bind(sink=kind)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._recent: OrderedDict[str, None] = OrderedDict()
        self._epochs: dict[str, int] = {}
        self._watermarks: dict[str, dict[str, Watermark]] = defaultdict(dict)
        self._opened = asyncio.Lock()
        self._is_open = False
        self.counts = dict.fromkeys(("rows", "batches", "repeats", "retries", "refused", "dead_letters", "writes"), 0)
        self.last_error = ""
        self._pending = 0

    def __repr__(self) -> str:
        return f"Sink({self.kind})"

    async def ready(self) -> bool:
        """Connect and prepare; waits for the server."""
        async with self._opened:
            attempt = 0
            while not self._is_open:
                try:
                    await self._sink.open()
                    self._is_open = True
                except SinkUnavailable as error:
                    await self._wait(error, attempt)
                    attempt += 1
        return True

    async def take(self, collector: str, epoch: int, deliveries: list[Delivery]) -> list[str]:
        """Write batches; gives the ids that are durable now: all of them.

        Raises
        ------
        Refused
            If a successor of this collector exists.
        """
        await self.ready()
        self._admit(collector, epoch)
        self._pending += 1
        try:
            by_type: dict[str, list[Delivery]] = {}
            for delivery in deliveries:
                if delivery[0] in self._recent:
                    self.counts["repeats"] += 1
                else:
                    by_type.setdefault(delivery[1], []).append(delivery)
            for data_type, group in by_type.items():
                async with self._locks[data_type]:
                    self._admit(collector, epoch)
                    await self._write([d[2] for d in group], _token([d[0] for d in group]))
                    self._remember(collector, group)
        finally:
            self._pending -= 1
        return [delivery[0] for delivery in deliveries]

    def _admit(self, collector: str, epoch: int) -> None:
        if epoch < self._epochs.get(collector, 0):
            self.counts["refused"] += 1
            raise Refused(f"{collector}: epoch {epoch} is over, {self._epochs[collector]} owns the shard")
        self._epochs[collector] = epoch

    async def _write(self, batches: list[pa.RecordBatch], token: str) -> None:
        attempt = 0
        while True:
            try:
                await self._sink.write(batches, token)
                self.counts["writes"] += 1
                self.counts["rows"] += sum(batch.num_rows for batch in batches)
                self.counts["batches"] += len(batches)
                return
            except SinkUnavailable as error:
                self.counts["retries"] += 1
                await self._wait(error, attempt)
                attempt += 1
            except BadBatch as error:
                await self._isolate(batches, token, error)
                return

    async def _isolate(self, batches: list[pa.RecordBatch], token: str, error: BadBatch) -> None:
        """Halve refused data until the rows that cannot be written stand alone; those go to a file."""
        rows = sum(batch.num_rows for batch in batches)
        if rows > 1:
            table = pa.Table.from_batches(batches)
            for name, part in (("a", table.slice(0, rows // 2)), ("b", table.slice(rows // 2))):
                await self._write(part.combine_chunks().to_batches(), f"{token}/{name}")
            return
        self._dead_letters.mkdir(parents=True, exist_ok=True)
        path = self._dead_letters / f"{self.kind}-{time.time_ns()}.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batches[0].schema) as writer:
            writer.write_batch(batches[0])
        self.counts["dead_letters"] += 1
        self.last_error = str(error)
        self._log.error("row_refused", error=str(error), kept_in=str(path))

    async def _wait(self, error: SinkUnavailable, attempt: int) -> None:
        if str(error) != self.last_error:
            self._log.warning("sink_unavailable", error=str(error))
        self.last_error = str(error)
        await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])

    def _remember(self, collector: str, group: list[Delivery]) -> None:
        marks = self._watermarks[collector]
        for batch_id, _, _, watermarks in group:
            self._recent[batch_id] = None
            for key, mark in watermarks.items():
                marks[key] = max((mark[0], mark[1]), marks.get(key, (0, 0)))
        while len(self._recent) > RECENT_IDS:
            self._recent.popitem(last=False)

    async def fence(self, collector: str, epoch: int) -> dict[str, Watermark]:
        """Refuse older epochs from now on; gives how far each stream of this collector is durable."""
        self._epochs[collector] = max(epoch, self._epochs.get(collector, 0))
        # A write under way holds its lock: once all have been had, nothing of the old epoch can follow.
        for lock in list(self._locks.values()):
            async with lock:
                pass
        return dict(self._watermarks[collector])

    async def status(self) -> dict[str, Any]:
        """Give counts and watermarks."""
        return {
            "kind": self.kind,
            "pid": os.getpid(),
            "open": self._is_open,
            "pending": self._pending,
            "last_error": self.last_error,
            **self.counts,
            "watermarks": {name: dict(marks) for name, marks in self._watermarks.items()},
        }

    async def stop(self) -> None:
        """Disconnect."""
        await self._sink.close()


def _token(ids: list[str]) -> str:
    return ids[0] if len(ids) == 1 else hashlib.sha256("\n".join(ids).encode()).hexdigest()
