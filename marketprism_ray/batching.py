"""Accepted messages to Arrow record batches, closed by rows, bytes or age, each with an id.

The hot path appends references to three lists and nothing else; columns are made in bulk when a batch is closed. A row
that cannot be a record (a number that does not fit, a price of 0) is found then: it is taken out, counted and reported
to its stream, and the rest of the batch goes on.

This module does no I/O and does not know who takes the batches.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketprism_ray.errors import FrameError, shorten
from marketprism_ray.extents import Claim, Extents, runs_of
from marketprism_ray.hot import delta_columns, level_columns, trade_columns
from marketprism_ray.instruments import Instrument
from marketprism_ray.records import Gap, Record
from marketprism_ray.schemas import (
    DECIMAL,
    DECIMAL_BYTES,
    TIME,
    arrow_schema,
    batch_from_records,
    decimal_array,
    fields_of,
    levels_from_columns,
)
from marketprism_ray.tally import GapTally
from marketprism_ray.units import multiply, to_base
from marketprism_ray.venue import Delta, TradeCodec, WireLevel

_ZERO = pa.scalar("0").cast(DECIMAL)
EARLIEST_NS = 1_230_768_000 * 10**9
"""2009-01-01. What a venue dates before it, it does not date in the unit that its decoder takes it for ..."""
AHEAD_NS = 86_400 * 10**9
"""... and neither what happens more than a day after we hear of it."""
FORESEEN_NS = 400 * 86_400 * 10**9
"""Ends of candles and times of funding lie ahead, but no more than this."""
_FAR_AHEAD = {"expiry"}
_LARGEST = 2**63 - 1


class Owner(Protocol):
    """The stream a row belongs to."""

    instrument: Instrument
    key: str
    marked_by: str
    """Data type whose batches carry the sequences of this stream; empty if it has none."""
    since: int
    """When the venue began to count as it does now, ns, see `Claim`."""

    def durable(self, claim: Claim, now: int) -> None:
        """Hear that rows of this stream are stored by every sink."""

    def rejected(self, sequence: int, error: str) -> None:
        """Hear that an accepted row was refused when its batch was closed.

        ``sequence`` is its time in ns where it has none.
        """


class Awaiting:
    """An owner of records that wants to know when they are durable."""

    def stored(self, rows: int) -> None:
        """Hear that so many more of its rows are stored by every sink."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is closed: whichever comes first."""

    rows: int = 2_000
    bytes: int = 1 << 18
    """Estimated. Larger batches of books fall out of the processor's cache before they are closed."""
    age_s: float = 0.01


@dataclass(frozen=True, slots=True)
class Batch:
    """An Arrow record batch of one data type, with the id that stays the same over retries."""

    batch_id: str
    data_type: str
    data: pa.RecordBatch
    claims: dict[str, Claim] = field(default_factory=dict)
    """Stream key -> sequences whose rows are in this batch, and nothing else: what is durable of a stream once this
    batch is. Rows that say of sequences that they will never come claim these."""
    receipts: tuple[tuple[Awaiting, int], ...] = ()
    """Owners that wait until their rows are durable, and how many are in this batch."""


class _Buffer:
    """Rows of one kind, waiting to be closed."""

    data_type: str

    def __init__(self) -> None:
        self.owners: list[Owner] = []
        self.rows: list[Any] = []
        self.received: list[int] = []
        self.first_ns = 0
        self.bytes = 0

    def take(self) -> tuple[list[Owner], list[Any], list[int]]:
        """Give the rows and empty the lists in place: streams hold on to their ``append``."""
        taken = (self.owners[:], self.rows[:], self.received[:])
        self.owners.clear()
        self.rows.clear()
        self.received.clear()
        self.bytes = 0
        return taken

    def build(self, owners: list[Owner], rows: list[Any], received: list[int]) -> pa.RecordBatch:
        raise NotImplementedError

    def claims(self, owners: list[Owner], rows: list[Any], data: pa.RecordBatch) -> dict[str, Claim]:
        """Give the sequences of each stream that are in a batch: what is not in it is not claimed."""
        wanted = [owner for owner in set(owners) if owner.marked_by == self.data_type]
        if not wanted:
            return {}
        firsts, lasts = self.edges(rows, data)
        times = data.column("timestamp").cast(pa.int64()).to_numpy()
        if len(wanted) == 1:
            return {wanted[0].key: _claim(wanted[0], firsts, lasts, times)}
        places = np.fromiter(map(id, owners), np.int64, len(owners))
        order = np.argsort(places, kind="stable")
        ends = np.flatnonzero(np.diff(places[order])) + 1
        found = {}
        for rows_of in np.split(order, ends):
            owner = owners[rows_of[0]]
            found[owner.key] = _claim(owner, firsts[rows_of], lasts[rows_of], times[rows_of])
        return found

    def receipts(self, owners: list[Owner]) -> tuple[tuple[Awaiting, int], ...]:
        """Give the owners that wait for their rows, with the number of these."""
        return ()

    def edges(self, rows: list[Any], data: pa.RecordBatch) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give the first and the last sequence of each row, int64, shape (n,) each."""
        raise NotImplementedError


def _claim(
    owner: Owner, firsts: npt.NDArray[np.int64], lasts: npt.NDArray[np.int64], times: npt.NDArray[np.int64]
) -> Claim:
    """Give the ranges of rows of one stream: first and last sequence and time, shape (n,) each."""
    back = np.flatnonzero(firsts > lasts + 1)
    if len(back):
        # A change that goes back: the venue counts afresh from here on.
        at = int(back[-1])
        owner.since = int(times[at])
        firsts, lasts, times = firsts[at:].copy(), lasts[at:], times[at:]
        firsts[0] = lasts[0]
    elif owner.since:
        now = times >= owner.since
        firsts, lasts, times = firsts[now], lasts[now], times[now]
    if not len(firsts):
        return Claim((), owner.since)
    breaks = np.flatnonzero(firsts[1:] != lasts[:-1] + 1)
    starts, ends = [0, *(breaks + 1)], [*breaks, len(firsts) - 1]
    runs = Extents(
        (int(firsts[i]), int(lasts[j]), int(times[i]), int(times[j])) for i, j in zip(starts, ends, strict=True)
    )
    return Claim(runs.runs(), owner.since)


class TradeBuffer(_Buffer):
    """Trades of one channel."""

    data_type = "trade"

    def __init__(self, codec: TradeCodec, source: str = "stream") -> None:
        super().__init__()
        self._codec = codec
        self._source = source

    def edges(self, rows: list[Any], data: pa.RecordBatch) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give what trades cover."""
        covers, lasts = self._codec.covers, data.column("sequence").to_numpy()
        if covers is None:
            return lasts, lasts
        return lasts - np.array([covers(row) for row in rows], np.int64) + 1, lasts

    def build(self, owners: list[Owner], rows: list[Any], received: list[int]) -> pa.RecordBatch:
        """Make columns of wire structs."""
        codec = self._codec
        n = len(rows)
        instruments, index = _instruments(owners)
        all_base = all(i.is_base for i in instruments)
        sequence, times, price, raw, quote = self._columns(rows, codec.time_ns)
        maker = pa.array(codec.is_buyer_maker(rows), pa.bool_())
        count = pa.array(codec.trade_count(rows), pa.int64()) if codec.trade_count else pa.nulls(n, pa.int64())
        if not all_base:
            quantity, quote = to_base(raw, price, instruments, index)
        else:
            quantity, quote = raw, multiply(price, raw) if quote is None else quote
        unit = _text([i.quantity_unit for i in instruments], index)
        return pa.RecordBatch.from_arrays(
            [
                *_common(instruments, index, times, received, self._source),
                pa.array(codec.trade_id(rows), pa.string()) if codec.trade_id else sequence.cast(pa.string()),
                sequence,
                price,
                quantity,
                quote,
                pc.if_else(maker, "sell", "buy"),
                maker,
                count,
                pa.nulls(n, DECIMAL) if all_base else pc.if_else(pc.equal(unit, "base"), pa.scalar(None, DECIMAL), raw),
                unit,
            ],
            schema=arrow_schema("trade"),
        )

    @staticmethod
    def _columns(rows: list[Any], time_ns: int) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array, pa.Array | None]:
        """Make the columns sequence, time, price, quantity and, if it is known, price times quantity."""
        buffers = trade_columns(rows, time_ns)
        if buffers is not None:
            sequence, times, price, quantity, product = buffers
            n = len(rows)
            return (
                pa.Array.from_buffers(pa.int64(), n, [None, pa.py_buffer(sequence)]),
                pa.Array.from_buffers(TIME, n, [None, pa.py_buffer(times)]),
                decimal_array(price, n),
                decimal_array(quantity, n),
                None if product is None else decimal_array(product, n),
            )
        sequences = pa.array([row.sequence for row in rows], pa.int64())
        wire_times = np.array([row.time for row in rows], np.int64)
        if wire_times.max() > _LARGEST // time_ns:
            raise FrameError(f"time {wire_times.max()} of a trade does not fit: its unit is not {time_ns:,} ns")
        nanoseconds = wire_times * time_ns
        prices = pa.array([row.price for row in rows], pa.string()).cast(DECIMAL)
        quantities = pa.array([row.quantity for row in rows], pa.string()).cast(DECIMAL)
        _require_positive(prices, "price")
        _require_positive(quantities, "quantity")
        if nanoseconds.min() <= 0:
            raise FrameError("time is not positive")
        return sequences, pa.array(nanoseconds).cast(TIME), prices, quantities, None


class BookRow:
    """A book state to publish."""

    __slots__ = ("asks", "bids", "depth", "last", "time")

    def __init__(self, last: int, time: int, bids: list[WireLevel], asks: list[WireLevel], depth: int) -> None:
        self.last = last
        self.time = time
        self.bids = bids
        self.asks = asks
        self.depth = depth

    @property
    def sequence(self) -> int:
        """The update id."""
        return self.last


class BookBuffer(_Buffer):
    """Published books."""

    data_type = "orderbook"

    def edges(self, rows: list[Any], data: pa.RecordBatch) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give the update ids of books."""
        lasts = data.column("last_update_id").to_numpy()
        return lasts, lasts

    def build(self, owners: list[Owner], rows: list[Any], received: list[int]) -> pa.RecordBatch:
        """Make columns of book rows."""
        n = len(rows)
        instruments, index = _instruments(owners)
        times = pa.array([row.time for row in rows], pa.int64()).cast(TIME)
        return pa.RecordBatch.from_arrays(
            [
                *_common(instruments, index, times, received, "stream"),
                pa.array([row.last for row in rows], pa.int64()),
                _levels([row.bids for row in rows], instruments, index),
                _levels([row.asks for row in rows], instruments, index),
                pa.array([row.depth for row in rows], pa.int64()) if n else pa.nulls(0, pa.int64()),
            ],
            schema=arrow_schema("orderbook"),
        )


class DeltaBuffer(_Buffer):
    """Book changes, with the id of the book that each continues."""

    data_type = "orderbook_delta"

    def edges(self, rows: list[Any], data: pa.RecordBatch) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Give the update ids that changes go through; a snapshot stands for itself.

        A change that continues a snapshot may have begun before it.
        """
        names = ("first_update_id", "last_update_id", "previous_update_id")
        firsts, lasts, previous = (data.column(name).to_numpy() for name in names)
        begun = np.where(lasts >= previous, np.minimum(firsts, previous + 1), previous + 1)
        return np.where(data.column("is_snapshot").to_numpy(zero_copy_only=False), lasts, begun), lasts

    def build(self, owners: list[Owner], rows: list[Any], received: list[int]) -> pa.RecordBatch:
        """Make columns of (previous id, delta, nanoseconds of its time unit)."""
        instruments, index = _instruments(owners)
        times, first, last, previous, is_snapshot, bids, asks = self._columns(rows)
        return pa.RecordBatch.from_arrays(
            [
                *_common(instruments, index, times, received, "stream"),
                first,
                last,
                previous,
                is_snapshot,
                _levels(bids, instruments, index),
                _levels(asks, instruments, index),
            ],
            schema=arrow_schema("orderbook_delta"),
        )

    @staticmethod
    def _columns(rows: list[Any]) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array, pa.Array, list[Any], list[Any]]:
        """Make the columns time, first, last and previous id, snapshot; then the levels of each row's bids and asks."""
        buffers = delta_columns(rows)
        if buffers is not None:
            *numbers, bits, bids, asks = buffers
            types = (TIME, pa.int64(), pa.int64(), pa.int64(), pa.bool_())
            return (
                *(
                    pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(buffer)])
                    for kind, buffer in zip(types, (*numbers, bits), strict=True)
                ),
                bids,
                asks,
            )
        deltas: list[Delta] = [row[1] for row in rows]
        return (
            pa.array([delta.time * unit for _, delta, unit in rows], pa.int64()).cast(TIME),
            pa.array([delta.first for delta in deltas], pa.int64()),
            pa.array([delta.last for delta in deltas], pa.int64()),
            pa.array([row[0] for row in rows], pa.int64()),
            pa.array([delta.is_snapshot for delta in deltas], pa.bool_()),
            [delta.bids for delta in deltas],
            [delta.asks for delta in deltas],
        )


class RecordBuffer(_Buffer):
    """Records of a low-rate data type."""

    def __init__(self, data_type: str) -> None:
        super().__init__()
        self.data_type = data_type

    def build(self, owners: list[Owner], rows: list[Any], received: list[int]) -> pa.RecordBatch:
        """Make columns of record structs."""
        return batch_from_records(rows)

    def receipts(self, owners: list[Owner]) -> tuple[tuple[Awaiting, int], ...]:
        """Count the rows of those who wait."""
        return tuple(Counter(owner for owner in owners if isinstance(owner, Awaiting)).items())

    def claims(self, owners: list[Owner], rows: list[Any], data: pa.RecordBatch) -> dict[str, Claim]:
        """Give the sequences that rows about holes say will never come, or that there are none."""
        edges: dict[Owner, list[tuple[int, int, int]]] = {}
        for owner, row in zip(owners, rows, strict=True):
            if not isinstance(row, Gap) or not owner.marked_by:
                continue
            if row.status == "unrepairable" or (row.status == "repaired" and row.missing_count == 0):
                first, last = row.first_missing, row.last_missing
                if first is not None and last is not None and first <= last:
                    time = row.closed_at or row.opened_at
                    if not EARLIEST_NS <= time <= row.receive_timestamp + AHEAD_NS:
                        time = row.receive_timestamp
                    edges.setdefault(owner, []).append((first, last, time))
        return {owner.key: Claim(runs_of(found), owner.since) for owner, found in edges.items()}


def revision(epoch: int, count: int) -> int:
    """Give the revision of a gap row: later epochs come after earlier ones, whatever the clocks say."""
    return epoch << 32 | count


class Batcher:
    """The open batches of one collector.

    Parameters
    ----------
    collector, epoch : make the ids of batches: ``collector/epoch/number``
    on_rejected : called with (data type, error) for each row taken out, after its stream has been told
    knows_receipt : False for messages without a receive time, whose times cannot be judged
    confirmed : somebody will say which batches are durable (`delivered`); else a batch counts as soon as it is closed
    """

    def __init__(
        self,
        collector: str,
        epoch: int,
        limits: BatchLimits | None = None,
        on_rejected: Callable[[str, str], None] | None = None,
        *,
        knows_receipt: bool = True,
        confirmed: bool = False,
    ) -> None:
        self.collector = collector
        self.epoch = epoch
        self.limits = limits or BatchLimits()
        self.records_total = 0
        self.rejected_total = 0
        self._on_rejected = on_rejected
        self._knows_receipt = knows_receipt
        self._confirmed = confirmed
        self._claimants: dict[str, Owner] = {}
        self._number = 0
        self._revision = 0
        self.gaps = GapTally()
        self._buffers: list[_Buffer] = []
        self._trades: dict[tuple[int, str], TradeBuffer] = {}
        self._records: dict[str, RecordBuffer] = {}
        self.books = self._add(BookBuffer())
        self.deltas = self._add(DeltaBuffer())

    def _add(self, buffer: Any) -> Any:
        self._buffers.append(buffer)
        return buffer

    def trades(self, codec: TradeCodec, source: str = "stream") -> TradeBuffer:
        """Give the buffer of a trade channel."""
        place = (id(codec), source)
        if place not in self._trades:
            self._trades[place] = self._add(TradeBuffer(codec, source))
        return self._trades[place]

    def record(self, owner: Owner, record: Record, received: int) -> None:
        """Add a record of a low-rate data type."""
        data_type = type(record).table
        if isinstance(record, Gap):
            self.gaps.note(record)
        if data_type not in self._records:
            self._records[data_type] = self._add(RecordBuffer(data_type))
        buffer = self._records[data_type]
        buffer.owners.append(owner)
        buffer.rows.append(record)
        buffer.received.append(received)
        buffer.bytes += 200

    def revision(self) -> int:
        """Give the next revision of a gap row: larger than any before, also of earlier epochs."""
        self._revision += 1
        return revision(self.epoch, self._revision)

    @property
    def pending_rows(self) -> int:
        """Rows not yet in a batch."""
        return sum(len(buffer.rows) for buffer in self._buffers)

    def waiting(self, data_type: str) -> Iterator[tuple[Owner, Any]]:
        """Give the rows of a data type that are not yet in a batch, as the venue sent them, with their streams."""
        for buffer in self._buffers:
            if buffer.data_type == data_type:
                yield from zip(buffer.owners, buffer.rows, strict=True)

    def drain(self, now: int, *, force: bool = False) -> list[Batch]:
        """Close the buffers that are due.

        Parameters
        ----------
        now : ns since the epoch
        force : close everything that has rows
        """
        limits = self.limits
        oldest = now - int(limits.age_s * 1e9)
        closed = []
        for buffer in self._buffers:
            rows = len(buffer.rows)
            if rows and (force or rows >= limits.rows or buffer.bytes >= limits.bytes or buffer.received[0] <= oldest):
                batch = self._close(buffer)
                if batch is not None:
                    closed.append(batch)
                    if not self._confirmed:
                        self.delivered(batch.claims, now)
                        for owner, count in batch.receipts:
                            owner.stored(count)
        return closed

    def delivered(self, claims: Mapping[str, Claim], now: int) -> None:
        """Tell the streams that a batch with these claims is durable everywhere."""
        for key, claim in claims.items():
            self._claimants[key].durable(claim, now)

    def _close(self, buffer: _Buffer) -> Batch | None:
        owners, rows, received = buffer.take()
        try:
            data = self._build(buffer, owners, rows, received)
        except (pa.ArrowInvalid, FrameError, ValueError, OverflowError, TypeError):
            good = self._sift(buffer, owners, rows, received)
            if not good:
                return None
            owners, rows = [owners[i] for i in good], [rows[i] for i in good]
            data = buffer.build(owners, rows, [received[i] for i in good])
        claims = buffer.claims(owners, rows, data)
        if claims:
            self._claimants.update((owner.key, owner) for owner in set(owners))
        self._number += 1
        self.records_total += data.num_rows
        return Batch(
            f"{self.collector}/{self.epoch}/{self._number}",
            buffer.data_type,
            data,
            claims,
            buffer.receipts(owners),
        )

    def _build(self, buffer: _Buffer, owners: list[Owner], rows: list[Any], received: list[int]) -> pa.RecordBatch:
        data = buffer.build(owners, rows, received)
        if self._knows_receipt and buffer.data_type != "gap":
            _require_sane_times(data)
        return data

    def _sift(self, buffer: _Buffer, owners: list[Owner], rows: list[Any], received: list[int]) -> list[int]:
        """Give the positions of rows that can be records; report the others."""
        good = []
        for i in range(len(rows)):
            try:
                self._build(buffer, owners[i : i + 1], rows[i : i + 1], received[i : i + 1])
            except (pa.ArrowInvalid, FrameError, ValueError, OverflowError, TypeError) as error:
                text = f"{owners[i].key}: {shorten(str(error))} in {shorten(repr(rows[i]))}"
                self.rejected_total += 1
                owners[i].rejected(_sequence(rows[i]), text)
                if self._on_rejected is not None:
                    self._on_rejected(buffer.data_type, text)
            else:
                good.append(i)
        return good


def _require_sane_times(data: pa.RecordBatch) -> None:
    """Look at the least and the largest time of each column.

    Raises
    ------
    FrameError
        That names the first column with a time that cannot be one, and what its unit may be.
    """
    data_type = (data.schema.metadata or {})[b"data_type"].decode()
    received = data.column("receive_timestamp")
    for name in _times(data_type):
        column = data.column(name)
        limit = AHEAD_NS if name == "timestamp" else FORESEEN_NS
        low, high = (end.value for end in pc.min_max(column).values())
        if low is None or (low >= EARLIEST_NS and high <= received[0].value + limit):
            continue
        # Received at different times, as rows that waited are: each against its own.
        for time, heard in zip(column.cast(pa.int64()).to_pylist(), received.cast(pa.int64()).to_pylist(), strict=True):
            if time is not None and not EARLIEST_NS <= time <= heard + limit:
                raise FrameError(f"{name} {time} ns is {_unit_of(time, heard)}, received at {heard} ns")


@functools.cache
def _times(data_type: str) -> tuple[str, ...]:
    """Give the columns that hold a venue's times."""
    names = (field.name for field in fields_of(data_type) if field.arrow == TIME)
    return tuple(name for name in names if name != "receive_timestamp" and name not in _FAR_AHEAD)


def _unit_of(time: int, heard: int) -> str:
    """Say by how much a time is wrong, as far as that tells which unit was taken for which."""
    year = 365 * 86_400 * 10**9
    for power in (3, 6, 9):
        if abs(time // 10**power - heard) < year:
            return f"10^{power} times too large: its unit is smaller than it was taken for"
        if abs(time * 10**power - heard) < 30 * year:
            return f"10^{power} times too small: its unit is larger than it was taken for"
    return "before 2009" if time < EARLIEST_NS else "too far ahead"


def _sequence(row: Any) -> int:
    """Give a row's sequence; its time, ns, where there is none."""
    if isinstance(row, Record):
        return row.timestamp
    delta = row[1] if isinstance(row, tuple) else row
    return int(getattr(delta, "sequence", getattr(delta, "last", -1)))


def _instruments(owners: Sequence[Owner]) -> tuple[list[Instrument], npt.NDArray[np.int64]]:
    """Give the distinct instruments of the rows and the position of each row's."""
    number: dict[int, int] = {}
    instruments: list[Instrument] = []
    for owner in set(owners):
        number[id(owner)] = len(instruments)
        instruments.append(owner.instrument)
    if len(instruments) == 1:
        return instruments, np.zeros(len(owners), np.int64)
    return instruments, np.fromiter(map(number.__getitem__, map(id, owners)), np.int64, len(owners))


def _common(
    instruments: list[Instrument], index: npt.NDArray[np.int64], times: pa.Array, received: list[int], source: str
) -> list[pa.Array]:
    return [
        _text([i.exchange_name for i in instruments], index),
        _text([i.market_type for i in instruments], index),
        _text([i.symbol_name for i in instruments], index),
        times,
        pa.array(received, pa.int64()).cast(TIME),
        pa.repeat(pa.scalar(source), len(received)),
    ]


def _text(values: list[str], index: npt.NDArray[np.int64]) -> pa.Array:
    """Give the text of each row's instrument."""
    if len(set(values)) == 1:
        return pa.repeat(pa.scalar(values[0]), len(index))
    return pa.array(values, pa.string()).take(pa.array(index))


def _levels(sides: list[list[WireLevel]], instruments: list[Instrument], index: npt.NDArray[np.int64]) -> pa.Array:
    """Make the list column of one side, quantities in base."""
    all_base = all(i.is_base for i in instruments)
    buffers = level_columns(sides)
    if buffers is not None:
        size = len(buffers[1]) // DECIMAL_BYTES
        price, quantity = (decimal_array(buffer, size) for buffer in buffers[1:])
        if not all_base:
            quantity = _quantity_in_base(price, quantity, np.frombuffer(buffers[0], np.int32), instruments, index)
        return levels_from_columns(
            pa.Array.from_buffers(pa.int32(), len(sides) + 1, [None, pa.py_buffer(buffers[0])]), price, quantity
        )
    flat: list[WireLevel] = []
    offsets = [0]
    for side in sides:
        flat += side
        offsets.append(len(flat))
    price = pa.array([level.price for level in flat], pa.string()).cast(DECIMAL)
    quantity = pa.array([level.quantity for level in flat], pa.string()).cast(DECIMAL)
    if flat:
        _require_positive(price, "price")
        if pc.any(pc.less(quantity, _ZERO)).as_py():
            raise FrameError("quantity is negative")
        if not all_base:
            quantity = _quantity_in_base(price, quantity, np.array(offsets), instruments, index)
    return levels_from_columns(pa.array(offsets, pa.int32()), price, quantity)


def _quantity_in_base(
    price: pa.Array,
    quantity: pa.Array,
    offsets: npt.NDArray[Any],
    instruments: list[Instrument],
    index: npt.NDArray[np.int64],
) -> pa.Array:
    return to_base(quantity, price, instruments, np.repeat(index, np.diff(offsets)))[0]


def _require_positive(column: pa.Array, what: str) -> None:
    if len(column) and pc.any(pc.less_equal(column, _ZERO)).as_py():
        raise FrameError(f"{what} is not positive")
