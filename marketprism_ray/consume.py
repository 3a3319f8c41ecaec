"""The consumer's side of the stream: every row once, the newest word on it, from a position that can be kept.

What JetStream gives is every row at least once: a row that was sent again within the duplicate window is dropped by the
server, after an outage longer than that it can come a second time, under the same ``Nats-Msg-Id``. `Once` drops those
repeats with bounded memory; `Consumer` reads the stream through it, in order, and resumes where a kept `Position` says.

Trades are known by their sequences, as ranges, so no repeat of one passes however late it comes; changes of a book by
the chain they continue; rows that are updated by their revision; everything else by the last ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import nats.errors
import nats.js.errors
import pyarrow as pa
import structlog
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from marketprism_ray.encoding import decode_json, nanoseconds
from marketprism_ray.errors import MarketPrismError
from marketprism_ray.records import RECORDS
from marketprism_ray.schemas import DECIMAL, LEVELS, TIME, arrow_schema, sorting_key
from marketprism_ray.sinks.nats import NatsSettings, connect

log = structlog.get_logger("consume")

REMEMBERED = 50_000
"""Ids, and keys of updated rows, that are remembered: at 1,000 rows a second the last 50 s of them."""
RANGES = 1_000
"""Ranges of trades that are remembered of a stream; with more holes than that the oldest are taken for filled."""
IDLE_S = 1.0
"""A reader that has given nothing for so long is looked after."""
RETRY_S = 0.5


class PositionLost(MarketPrismError):
    """The stream no longer holds what comes after a position: its limits have dropped it. The store may have it."""


class Ranges:
    """Numbers that were seen, as ranges: memory grows with the holes, not with the numbers."""

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        self._first: list[int] = []
        self._last: list[int] = []
        for first, last in ranges:
            self._first.append(first)
            self._last.append(last)

    def add(self, number: int) -> bool:
        """Remember a number; False if it was seen before."""
        at = bisect_right(self._first, number) - 1
        if at >= 0 and number <= self._last[at]:
            return False
        joins_left = at >= 0 and self._last[at] == number - 1
        joins_right = at + 1 < len(self._first) and self._first[at + 1] == number + 1
        if joins_left and joins_right:
            self._last[at] = self._last.pop(at + 1)
            del self._first[at + 1]
        elif joins_left:
            self._last[at] = number
        elif joins_right:
            self._first[at + 1] = number
        else:
            self._first.insert(at + 1, number)
            self._last.insert(at + 1, number)
        if len(self._first) > RANGES:
            del self._first[1], self._last[0]
        return True

    def list(self) -> list[tuple[int, int]]:
        """Give the ranges, ascending, both ends seen."""
        return list(zip(self._first, self._last, strict=True))


class _Recent:
    """The last so many keys with a value each."""

    def __init__(self, size: int, items: Iterable[Sequence[Any]] = ()) -> None:
        self._size = size
        self.items: OrderedDict[str, Any] = OrderedDict((key, value) for key, value in items)

    def get(self, key: str) -> Any:
        return self.items.get(key)

    def put(self, key: str, value: Any = 0) -> None:
        self.items[key] = value
        self.items.move_to_end(key)
        while len(self.items) > self._size:
            self.items.popitem(last=False)


class Once:
    """Tells rows that are new from repeats and from older words. Pure; its state is plain JSON.

    Parameters
    ----------
    state : what `state` gave before; None begins with nothing
    remembered : ids and keys of updated rows that are remembered
    """

    def __init__(self, state: Mapping[str, Any] | None = None, remembered: int = REMEMBERED) -> None:
        state = state or {}
        self._ids = _Recent(remembered, ((identity, 0) for identity in state.get("ids", ())))
        # Of each key the revision and the digest that were heard last.
        self._revisions = _Recent(remembered, ((key, tuple(said)) for key, said in state.get("revisions", ())))
        self._trades = {name: Ranges(ranges) for name, ranges in state.get("trades", {}).items()}
        self._newest: dict[str, str] = dict(state.get("newest", {}))
        """Stream of trades -> time of its newest one, RFC 3339."""
        self._chains: dict[str, tuple[int, str]] = {
            name: (last, time) for name, (last, time) in state.get("chains", {}).items()
        }
        self.dropped = int(state.get("dropped", 0))

    def state(self) -> dict[str, Any]:
        """Give everything that is remembered."""
        return {
            "ids": list(self._ids.items),
            "revisions": list(self._revisions.items.items()),
            "trades": {name: ranges.list() for name, ranges in self._trades.items()},
            "newest": self._newest,
            "chains": dict(self._chains),
            "dropped": self.dropped,
        }

    def is_new_id(self, identity: str) -> bool:
        """Remember an id; False if it is among the last ones."""
        if self._ids.get(identity) is not None:
            self.dropped += 1
            return False
        self._ids.put(identity)
        return True

    def is_new(self, data_type: str, identity: str, record: Mapping[str, Any]) -> bool:
        """Tell whether a row says something that was not said before.

        Parameters
        ----------
        identity : the message's ``Nats-Msg-Id``
        record : as `encoding.decode_json` gives it
        """
        stream = f"{record['exchange_name']}/{record['symbol_name']}"
        if data_type == "trade" and record["sequence"] is not None:
            is_new = self._is_new_trade(stream, record["sequence"], record["timestamp"])
            self.dropped += not is_new
            return is_new
        if not self.is_new_id(identity):
            return False
        if data_type == "orderbook_delta":
            is_new = self._continues(stream, record)
        elif RECORDS[data_type].version:
            is_new = self._is_newest(data_type, record)
        else:
            return True
        self.dropped += not is_new
        return is_new

    def _is_new_trade(self, stream: str, sequence: int, time: str) -> bool:
        newest = self._newest.get(stream, "")
        self._newest[stream] = max(time, newest)
        seen = self._trades.setdefault(stream, Ranges())
        if seen.add(sequence):
            return True
        if time <= newest:
            return False
        # Newer than all that was seen under an id that was seen: the venue has begun to count afresh.
        self._trades[stream] = Ranges([(sequence, sequence)])
        return True

    def _continues(self, stream: str, record: Mapping[str, Any]) -> bool:
        last, time = self._chains.get(stream, (-1, ""))
        is_older = record["last_update_id"] <= last and record["timestamp"] <= time
        if is_older and (record["is_snapshot"] or record["previous_update_id"] != last):
            return False
        self._chains[stream] = (record["last_update_id"], record["timestamp"])
        return True

    def _is_newest(self, data_type: str, record: Mapping[str, Any]) -> bool:
        kind = RECORDS[data_type]
        names = list(sorting_key(data_type))
        if kind.asked_is_updated:
            if record["source"] == "stream":
                return True
            names.remove("digest")
        key = ":".join((data_type, *(str(record[name]) for name in names)))
        known = self._revisions.get(key)
        said = (record[kind.version], record["digest"] if "digest" in kind.__struct_fields__ else 0)
        if known is not None and (said[0] < known[0] or said == known):
            return False
        self._revisions.put(key, said)
        return True


@dataclass
class Position:
    """How far a consumer has come. Keep it together with what was made of the rows: then they count once."""

    sequence: int = 0
    """Of the stream: the last message that was given, or dropped as a repeat."""
    memory: dict[str, Any] = field(default_factory=dict)
    """What `Once` remembers."""

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all."""
        draft = path.with_name(path.name + ".new")
        draft.write_text(json.dumps({"sequence": self.sequence, "memory": self.memory}))
        draft.replace(path)

    @classmethod
    def load(cls, path: Path) -> Position | None:
        """Read it; None if there is no such file."""
        return cls(**json.loads(path.read_text())) if path.exists() else None


@dataclass(frozen=True)
class Row:
    """One row of the stream."""

    data_type: str
    record: dict[str, Any]
    """Field -> value; numbers with a point are `Decimal`, times RFC 3339 text (`encoding.nanoseconds` reads them)."""
    subject: str
    sequence: int
    """Of the stream."""
    identity: str
    """``Nats-Msg-Id``."""


class Consumer:
    """Rows of the stream, once each, in the stream's order: those of one subject are in the venue's order.

    A row that was fetched later, for a hole, comes when it was fetched (``source`` is ``backfill``). Servers that go
    away are waited for. ::

        async with Consumer(settings, "trades-data.>", Position.load(path)) as rows:
            async for row in rows:
                ...
                rows.position.save(path)

    Parameters
    ----------
    subject : which rows, ``*`` is any word and ``>`` any rest
    start : a position to go on from; ``all`` (or None) begins with the oldest row that the stream holds, ``new`` with
        the next one
    """

    def __init__(
        self,
        settings: NatsSettings,
        subject: str = ">",
        start: Position | Literal["all", "new"] | None = "all",
        remembered: int = REMEMBERED,
    ) -> None:
        self._settings = settings
        self._subject = subject
        self._start = start or "all"
        position = self._start if isinstance(self._start, Position) else Position()
        self._sequence = position.sequence
        self._once = Once(position.memory, remembered)
        self._client: Any = None
        self._reading: Any = None
        self._delivered = 0

    @property
    def position(self) -> Position:
        """Give how far this consumer has come."""
        return Position(self._sequence, self._once.state())

    @property
    def dropped(self) -> int:
        """Repeats and older words that were left out."""
        return self._once.dropped

    async def __aenter__(self) -> Consumer:
        self._client = await connect(self._settings)
        try:
            await self._begin()
        except BaseException:
            await self._client.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.close()

    async def _begin(self) -> None:
        """Open a server-side reader behind our position; it needs no acknowledgements, we know what we have."""
        stream = self._client.jetstream(timeout=10)
        state = (await stream.stream_info(self._settings.stream)).state
        if self._sequence == 0 and self._start == "new":
            self._sequence = state.last_seq
        if self._sequence > state.last_seq or (self._sequence and self._sequence + 1 < state.first_seq):
            raise PositionLost(
                f"NATS: stream {self._settings.stream} holds {state.first_seq:,} to {state.last_seq:,}, the position "
                f"is {self._sequence:,}: read what is between from the store and begin with 'all'"
            )
        where: dict[str, Any] = {"deliver_policy": DeliverPolicy.ALL}
        if self._sequence:
            where = {"deliver_policy": DeliverPolicy.BY_START_SEQUENCE, "opt_start_seq": self._sequence + 1}
        reading = ConsumerConfig(
            ack_policy=AckPolicy.NONE, flow_control=True, idle_heartbeat=5, inactive_threshold=60, **where
        )
        if self._reading is not None:
            with contextlib.suppress(OSError, nats.errors.Error, nats.js.errors.Error):
                await self._reading.unsubscribe()
        self._delivered = 0
        self._reading = await stream.subscribe(self._subject, stream=self._settings.stream, config=reading)

    async def __aiter__(self) -> AsyncIterator[Row]:
        """Give rows as they come, until the caller stops."""
        while True:
            row = await self._next()
            if row is not None:
                yield row

    async def _next(self) -> Row | None:
        """Wait for a row; None if there was none for a while, or one that is not new."""
        try:
            message = await self._reading.next_msg(timeout=IDLE_S)
        except nats.errors.TimeoutError:
            # Nothing new, or a reader that the server has forgotten: it would say nothing either.
            if not await self._is_there():
                await self._begin_again("the reader is gone")
            return None
        except (OSError, nats.errors.Error, nats.js.errors.Error) as error:
            await self._begin_again(f"{type(error).__name__}: {error}")
            return None
        place = message.metadata.sequence
        if place.consumer != self._delivered + 1:
            # What was on its way to us and is lost does not come again by itself: read from our position anew.
            await self._begin_again(f"message {place.consumer} after {self._delivered}")
            return None
        self._delivered, self._sequence = place.consumer, place.stream
        row = _row(message)
        return row if self._once.is_new(row.data_type, row.identity, row.record) else None

    async def _is_there(self) -> bool:
        try:
            await self._reading.consumer_info()
        except (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error):
            return False
        return True

    async def _begin_again(self, why: str) -> None:
        log.debug("reads_anew", why=why, sequence=self._sequence)
        while True:
            try:
                await self._begin()
                return
            except (OSError, TimeoutError, nats.errors.Error, nats.js.errors.Error) as error:
                log.debug("waits_for_server", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(RETRY_S)

    async def batches(self, rows: int = 1_000, wait_s: float = 1.0) -> AsyncIterator[list[pa.RecordBatch]]:
        """Give what came as Arrow batches, one a data type: exact decimals and ns; ``to_pandas`` makes frames of them.

        Parameters
        ----------
        rows : so many rows are given together ...
        wait_s : ... or what came in this time, looked at whenever a row comes or none has come for a while
        """
        loop = asyncio.get_running_loop()
        waiting: dict[str, list[dict[str, Any]]] = {}
        count, until = 0, loop.time() + wait_s
        while True:
            row = await self._next()
            if row is not None:
                waiting.setdefault(row.data_type, []).append(row.record)
                count += 1
            if count >= rows or (count and loop.time() >= until):
                # All of them together: the position says that they were given.
                yield [to_arrow(data_type, found) for data_type, found in waiting.items()]
                waiting, count, until = {}, 0, loop.time() + wait_s


def _row(message: Any) -> Row:
    identity = message.headers["Nats-Msg-Id"]
    return Row(
        data_type=identity.partition(":")[0],
        record=decode_json(message.data),
        subject=message.subject,
        sequence=message.metadata.sequence.stream,
        identity=identity,
    )


def to_arrow(data_type: str, records: Sequence[Mapping[str, Any]]) -> pa.RecordBatch:
    """Make an Arrow batch of decoded rows: the one that the sink was given.

    Raises
    ------
    KeyError
        If a row lacks a field: it was written by an older version.
    """
    schema = arrow_schema(data_type)
    return pa.RecordBatch.from_arrays(
        [_column([record[f.name] for record in records], f.type) for f in schema], schema=schema
    )


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    if kind == DECIMAL:
        return pa.array([None if value is None else Decimal(value) for value in values], DECIMAL)
    if kind == TIME:
        return pa.array([None if value is None else nanoseconds(value) for value in values], pa.int64()).cast(TIME)
    if kind == LEVELS:
        return pa.array(
            [[{name: Decimal(number) for name, number in level.items()} for level in side] for side in values], LEVELS
        )
    return pa.array(values, kind)
