"""The sink actor: takes batches, writes them durably, acknowledges, remembers how far each stream is.

A plain class; ``cluster.py`` makes it an actor. Calls come from several collectors. Each data type has a queue and one
writer: what has come while it wrote, from whoever, is the next write, so that inserts grow with the load and not with
the number of collectors. While the server is away calls wait, and the collectors that wait hold their batches back.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import structlog

from marketprism_ray.dead_letters import DeadLetters, gap_of
from marketprism_ray.encoding import data_type_of
from marketprism_ray.errors import BadBatch, SchemaRefused, SinkUnavailable
from marketprism_ray.extents import NOTHING, Claim, Extents
from marketprism_ray.logs import LogSettings, configure_actor
from marketprism_ray.records import Gap
from marketprism_ray.resume import OpenGap, Stored
from marketprism_ray.sinks import Sink, StreamId
from marketprism_ray.sinks.clickhouse import ClickHouseSettings, ClickHouseSink
from marketprism_ray.sinks.inherited import Inherited, Way
from marketprism_ray.sinks.nats import NatsSettings, NatsSink

Delivery = tuple[str, str, pa.RecordBatch, dict[str, Claim]]
"""(batch id, data type, rows, stream key -> sequences in it)."""

Refusals = Mapping[str, list[tuple[int, int]]]
"""Stream key -> first and last sequence of each trade or change that the server refused for good."""

RECENT_IDS = 20_000
FENCE_S = 5.0
"""A fence waits this long for a write under way; then the server is away, and what it may still write is written twice
at worst, under the same keys."""
ASK_S = 15.0
"""The store is asked this long how far streams came; collecting then goes on without, and says so in gap rows."""
RETRY_S = (0.1, 0.2, 0.5, 1.0, 2.0)


COORDINATOR = "coordinator"
"""Who brings its own rows and owns no shard."""


class NotFenced(Exception):
    """Nobody has told this actor yet who owns the shard."""


class Refused(Exception):
    """The collector's epoch is over; another owns its shard."""


def make_sink(settings: ClickHouseSettings | NatsSettings | Sink) -> Sink:
    """Give the sink that belongs to settings."""
    if isinstance(settings, ClickHouseSettings):
        return ClickHouseSink(settings)
    if isinstance(settings, NatsSettings):
        return NatsSink(settings)
    return settings


class Waiting:
    """A batch on its way to the server, and who waits for it."""

    def __init__(self, delivery: Delivery, collector: str, epoch: int) -> None:
        self.delivery = delivery
        self.collector = collector
        self.epoch = epoch
        self.written: asyncio.Future[Refusals] = asyncio.get_running_loop().create_future()
        """Set when it is durable: stream key -> what of it the server refused for good."""


class SinkActor:
    """One sink.

    Parameters
    ----------
    dead_letters : folder for rows that the server refuses for good
    linger_s : a write waits this long for more rows, unless there are ``linger_rows``
    """

    def __init__(
        self,
        kind: str,
        settings: ClickHouseSettings | NatsSettings | Sink,
        dead_letters: Path,
        logs: LogSettings | None = None,
        linger_s: float = 0.0,
        linger_rows: int = 10_000,
    ) -> None:
        configure_actor(logs or LogSettings(), f"sink-{kind}")
        self.kind = kind
        self._sink = make_sink(settings)
        self._dead_letters = DeadLetters(dead_letters, kind)
        self._log = structlog.get_logger("sink").bind(sink=kind)
        self._linger_s = linger_s
        self._linger_rows = linger_rows
        self._queues: dict[str, deque[Waiting]] = defaultdict(deque)
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._waiting: dict[str, Waiting] = {}
        self._recent: OrderedDict[str, Refusals] = OrderedDict()
        """Batch id -> what was refused of it, see `take`."""
        self._epochs: dict[str, int] = {}
        self._stored: dict[str, Stored] = {}
        """Stream key -> what is durable of it."""
        self._opened = asyncio.Lock()
        self._is_open = False
        self.counts = dict.fromkeys(
            ("rows", "batches", "repeats", "repeated_rows", "retries", "refused", "dead_letters", "writes"), 0
        )
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
                except (SinkUnavailable, SchemaRefused) as error:
                    await self._wait(error, attempt)
                    attempt += 1
        return True

    async def take(self, collector: str, epoch: int, deliveries: list[Delivery]) -> dict[str, Refusals]:
        """Write batches; returns when all of them are durable.

        Returns
        -------
        dict
            Of batches with trades that the server refused for good: batch id -> stream key -> their sequences.

        Raises
        ------
        Refused
            If a successor of this collector exists.
        NotFenced
            If this actor is new and has not been told of the collector: an older one might write.
        """
        self._admit(collector, epoch)
        await self.ready()
        self._pending += 1
        try:
            written = [self._queue(delivery, collector, epoch) for delivery in deliveries]
            found = await asyncio.gather(*(waiting.written for waiting in written if waiting is not None))
            left = [waiting.delivery[0] for waiting in written if waiting is not None]
            known = {delivery[0]: self._recent.get(delivery[0], {}) for delivery in deliveries}
            return {
                batch_id: refused
                for batch_id, refused in (known | dict(zip(left, found, strict=True))).items()
                if refused
            }
        finally:
            self._pending -= 1

    def _queue(self, delivery: Delivery, collector: str, epoch: int) -> Waiting | None:
        """Queue a batch; one that is written already needs nothing, one that waits already waits once."""
        batch_id, data_type = delivery[:2]
        if batch_id in self._recent:
            self.counts["repeats"] += 1
            return None
        waiting = self._waiting.get(batch_id)
        if waiting is not None:
            self.counts["repeats"] += 1
            return waiting
        waiting = self._waiting[batch_id] = Waiting(delivery, collector, epoch)
        waiting.written.add_done_callback(lambda _: self._waiting.pop(batch_id, None))
        self._queues[data_type].append(waiting)
        writer = self._writers.get(data_type)
        if writer is None or writer.done():
            self._writers[data_type] = asyncio.get_running_loop().create_task(self._write_queue(data_type))
        return waiting

    async def _write_queue(self, data_type: str) -> None:
        """Write what is queued of a data type, until nothing is."""
        queue = self._queues[data_type]
        while queue:
            if self._linger_s:
                await self._linger(queue)
            group = []
            while queue:
                waiting = queue.popleft()
                if waiting.epoch < self._epochs.get(waiting.collector, 0):
                    self.counts["refused"] += 1
                    _fail(waiting, Refused(f"{waiting.collector}: epoch {waiting.epoch} is over"))
                else:
                    group.append(waiting)
            if not group:
                continue
            rows = [self._new_rows(w.delivery) for w in group]
            refused: dict[str, list[tuple[int, int]]] = {}
            try:
                if kept := [batch for batch in rows if batch.num_rows]:
                    refused = _ranges(await self._write(kept, _token([w.delivery[0] for w in group])))
            except Exception as error:  # noqa: BLE001 - handed to everyone who waits for this write
                for waiting in group:
                    _fail(waiting, error)
                continue
            for waiting in group:
                of_this = {key: refused[key] for key in waiting.delivery[3].keys() & refused.keys()}
                self._remember(waiting.delivery, of_this)
                if not waiting.written.done():
                    waiting.written.set_result(of_this)

    async def _linger(self, queue: deque[Waiting]) -> None:
        """Wait for more rows."""
        until = time.monotonic() + self._linger_s
        while (left := until - time.monotonic()) > 0:
            if sum(waiting.delivery[2].num_rows for waiting in queue) >= self._linger_rows:
                return
            await asyncio.sleep(min(left, 0.02))

    def _new_rows(self, delivery: Delivery) -> pa.RecordBatch:
        """Leave out rows that are durable here: what a predecessor had sent, or another sink had lacked."""
        _, data_type, data, claims = delivery
        if data_type != "trade":
            return data
        known: dict[str, Extents] = {}
        for key, claim in claims.items():
            stored = self._stored.get(key, Stored()).claim
            if stored.since == claim.since:
                there = Extents(stored.runs)
                if any(there.touches(run.low, run.high) for run in claim.runs):
                    known[key] = there
        if not known:
            return data
        columns = (data.column(name).to_pylist() for name in ("exchange_name", "symbol_name", "sequence"))
        mask = []
        for exchange_name, symbol_name, sequence in zip(*columns, strict=True):
            there_too = known.get(f"{exchange_name}/{data_type}/{symbol_name}")
            mask.append(there_too is None or not there_too.covers(sequence, sequence))
        self.counts["repeated_rows"] += len(mask) - sum(mask)
        return data.filter(pa.array(mask, pa.bool_()))

    def _admit(self, collector: str, epoch: int) -> None:
        if collector == COORDINATOR:
            return
        if collector not in self._epochs:
            raise NotFenced(f"{collector}: not known here yet")
        if epoch < self._epochs.get(collector, 0):
            self.counts["refused"] += 1
            raise Refused(f"{collector}: epoch {epoch} is over, {self._epochs[collector]} owns the shard")

    async def _write(self, batches: list[pa.RecordBatch], token: str) -> list[pa.RecordBatch]:
        """Write until it is done; gives the rows that were refused for good, one each."""
        attempt = 0
        while True:
            try:
                await self._sink.write(batches, token)
                self.counts["writes"] += 1
                self.counts["rows"] += sum(batch.num_rows for batch in batches)
                self.counts["batches"] += len(batches)
                return []
            except SinkUnavailable as error:
                self.counts["retries"] += 1
                await self._wait(error, attempt)
                attempt += 1
            except BadBatch as error:
                return await self._isolate(batches, token, error)

    async def _isolate(self, batches: list[pa.RecordBatch], token: str, error: BadBatch) -> list[pa.RecordBatch]:
        """Halve refused data until the rows that cannot be written stand alone; those go to a file, and are given."""
        rows = sum(batch.num_rows for batch in batches)
        if rows > 1:
            table = pa.Table.from_batches(batches)
            refused = []
            for name, part in (("a", table.slice(0, rows // 2)), ("b", table.slice(rows // 2))):
                refused += await self._write(part.combine_chunks().to_batches(), f"{token}/{name}")
            return refused
        path = self._dead_letters.keep(batches[0], str(error))
        self.counts["dead_letters"] += 1
        self.last_error = str(error)
        self._log.error("row_refused", error=str(error), kept_in=str(path))
        return batches

    async def dead_letters_to_note(self) -> tuple[list[str], list[Gap]]:
        """Give the dead letters that no gap row names yet, and those rows."""
        return self._dead_letters.to_note()

    async def dead_letters_noted(self, names: list[str]) -> None:
        """Hear that the gap rows of these dead letters are durable."""
        self._dead_letters.noted(names)

    async def redeliver(self) -> tuple[list[str], list[Gap], list[Gap]]:
        """Try all dead letters again; gives the names of those taken, their gap rows, and those of the refused."""
        await self.ready()
        taken, done, left = [], [], []
        for name, row in self._dead_letters.rows():
            try:
                await self._sink.write([row], f"dead/{name}")
            except BadBatch as error:
                self.last_error = str(error)
                left.append(gap_of(row))
            else:
                self._dead_letters.delivered(name)
                taken.append(name)
                done.append(gap_of(row, repaired=True))
        return taken, done, left

    async def _wait(self, error: SinkUnavailable | SchemaRefused, attempt: int) -> None:
        if str(error) != self.last_error:
            self._log.warning("sink_unavailable", error=str(error))
        self.last_error = str(error)
        await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])

    def _remember(self, delivery: Delivery, refused: Refusals) -> None:
        batch_id, _, _, claims = delivery
        self._recent[batch_id] = refused
        for key, claim in claims.items():
            self._stored[key] = self._stored.get(key, Stored()).merged(claim.without(refused.get(key, ())))
        while len(self._recent) > RECENT_IDS:
            self._recent.popitem(last=False)

    async def fence(
        self,
        collector: str,
        epoch: int,
        streams: Mapping[str, StreamId] | None = None,
        remembered: Mapping[str, Claim] | None = None,
    ) -> tuple[dict[str, Stored], list[str]]:
        """Refuse older epochs from now on; gives what is durable of the streams.

        Parameters
        ----------
        streams : stream key -> its rows in the store; the store is asked for those that this actor knows nothing of
        remembered : what an earlier actor of this sink was known to have written; the store is asked for the rest

        Returns
        -------
        tuple
            Stream key -> what is stored; then the keys of those of which it is not known, because the server could not
            be asked in ``ASK_S``.
        """
        self._epochs[collector] = max(epoch, self._epochs.get(collector, 0))
        # What is queued of an older epoch is refused by the writer; what is being written is waited for.
        under_way = [w.written for w in self._waiting.values() if w.collector == collector and w.epoch < epoch]
        if under_way:
            await asyncio.wait(under_way, timeout=FENCE_S)
        streams, remembered = streams or {}, remembered or {}
        asked = {key: place for key, place in streams.items() if key not in self._stored}
        unknown: list[str] = []
        if asked:
            found = await self._ask(asked, remembered)
            for key in asked:
                written = self._stored.get(key, Stored()).claim
                if found is not None:
                    self._stored[key] = found[key].merged(written) if written.runs else found[key]
                elif key in remembered:
                    self._stored[key] = Stored(remembered[key]).merged(written)
                else:
                    unknown.append(key)
        return {key: self._stored.get(key, Stored()) for key in streams if key not in unknown}, unknown

    async def inherited(self, exchange_name: str, ways: Sequence[Way], before: int) -> Inherited:
        """Ask the store how far streams without a sequence are durable, and which of their holes are open.

        Raises
        ------
        SinkUnavailable
            If the server is away.
        """
        await self.ready()
        return await self._sink.inherited(exchange_name, ways, before)

    async def _ask(self, streams: Mapping[str, StreamId], remembered: Mapping[str, Claim]) -> dict[str, Stored] | None:
        """Ask the store what was written by earlier actors; None if it cannot be asked."""
        after = {
            place: (claim.runs[-1] if (claim := remembered.get(key, NOTHING)).runs else None)
            for key, place in streams.items()
        }

        async def ask() -> dict[str, Stored]:
            stored = await self._sink.stored(after)
            found = {}
            for key, place in streams.items():
                there = stored.get(place, Stored())
                is_new = there.begin is not None or after[place] is None or place not in stored
                found[key] = there if is_new else Stored(remembered[key]).merged(there.claim)
            return found

        answer: dict[str, Stored] | None = await self._patiently(ask, len(streams))
        return answer

    async def open_gaps(self, streams: Mapping[str, StreamId]) -> dict[str, tuple[OpenGap, ...]] | None:
        """Give the rows about holes in trades that are open, by stream key; None if the store cannot be asked."""

        async def ask() -> dict[str, tuple[OpenGap, ...]]:
            rows = await self._sink.open_gaps(list(streams.values()))
            return {key: rows[place] for key, place in streams.items() if place in rows}

        answer: dict[str, tuple[OpenGap, ...]] | None = await self._patiently(ask, len(streams))
        return answer

    async def _patiently(self, ask: Callable[[], Awaitable[Any]], count: int) -> Any:
        """Ask the store until it answers; None if it does not in ``ASK_S``."""
        attempt = 0
        try:
            async with asyncio.timeout(ASK_S):
                while True:
                    try:
                        return await ask()
                    except SinkUnavailable as error:
                        await self._wait(error, attempt)
                        attempt += 1
        except TimeoutError:
            self._log.warning("store_not_asked", error=self.last_error, streams=count)
            return None

    async def status(self) -> dict[str, Any]:
        """Give counts, who owns which shard, and what is durable of which stream."""
        return {
            "kind": self.kind,
            "pid": os.getpid(),
            "open": self._is_open,
            "pending": self._pending,
            "last_error": self.last_error,
            "dead_letters_unnoted": self._dead_letters.unnoted,
            **self.counts,
            "epochs": dict(self._epochs),
            "claims": {key: stored.claim for key, stored in self._stored.items()},
        }

    async def stop(self) -> None:
        """Disconnect."""
        for writer in self._writers.values():
            writer.cancel()
        await asyncio.gather(*self._writers.values(), return_exceptions=True)
        await self._sink.close()


def _ranges(rows: list[pa.RecordBatch]) -> dict[str, list[tuple[int, int]]]:
    """Give the first and last sequence of single trades and changes of books by stream key."""
    found: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        data_type, values = data_type_of(row), {name: row.column(name)[0] for name in row.schema.names}
        exchange_name, symbol_name = values["exchange_name"].as_py(), values["symbol_name"].as_py()
        if data_type == "trade":
            last = values["sequence"].as_py()
            found.setdefault(f"{exchange_name}/trade/{symbol_name}", []).append((last, last))
        elif data_type == "orderbook_delta":
            last = values["last_update_id"].as_py()
            first = last if values["is_snapshot"].as_py() else min(last, values["previous_update_id"].as_py() + 1)
            found.setdefault(f"{exchange_name}/orderbook/{symbol_name}", []).append((first, last))
    return found


def _token(ids: list[str]) -> str:
    return ids[0] if len(ids) == 1 else hashlib.sha256("\n".join(ids).encode()).hexdigest()


def _fail(waiting: Waiting, error: Exception) -> None:
    if not waiting.written.done():
        waiting.written.set_exception(error)
        waiting.written.exception()  # it may be that nobody waits any more
