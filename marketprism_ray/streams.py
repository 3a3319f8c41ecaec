"""Streams: what is remembered of one subscription across connections, and how its frames become rows.

A trade stream proves contiguity by the venue's sequence and writes down every hole; a book stream drives a `BookSync`;
a record stream decodes low-rate channels. Frames come from a `Feed`; rows go to a `Batcher`. No I/O, time is passed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from marketprism_ray.batching import Batcher, BookRow
from marketprism_ray.errors import BookError, FrameError, VenueError, shorten
from marketprism_ray.instruments import Instrument
from marketprism_ray.records import Gap
from marketprism_ray.sync import BookSync, State
from marketprism_ray.venue import BookCodec, Channel, Delta, RecordCodec, Request, TradeCodec, Venue

DECODE_ERRORS = (msgspec.DecodeError, VenueError, ValueError, TypeError, OverflowError, KeyError, IndexError)
"""What a venue's decoder may raise on a frame that is not what its documentation says."""

HELD_TRADES = 20_000
OPEN_GAPS = 200
RESET_AFTER_NS = 60_000_000_000
"""An id below the last one, on a trade this much newer, means that the venue started its ids afresh."""


class FeedLink(Protocol):
    """What a stream asks of the feed that carries it."""

    now: int

    def fetch_snapshot(self, stream: BookStream, attempt: int) -> None:
        """Ask for a REST snapshot."""

    def fetch_trades(self, stream: TradeStream, request: Request) -> None:
        """Ask for past trades."""

    def resubscribe(self, stream: Stream, reason: str) -> None:
        """Unsubscribe and subscribe."""

    def promote(self, now: int) -> None:
        """Count from now on: the feed that did is closed."""


class Stream:
    """One venue, data type and symbol."""

    def __init__(self, venue: Venue, channel: Channel, instrument: Instrument, batcher: Batcher) -> None:
        self.venue = venue
        self.channel = channel
        self.instrument = instrument
        self.batcher = batcher
        self.key = f"{venue.name}/{channel.data_type}/{instrument.symbol_name}"
        self.wire_key = channel.key(instrument)
        self.frames = 0
        self.decode_errors = 0
        self.last_error = ""
        self.last_received = 0
        self.feeds: list[FeedLink] = []
        """The feeds that carry it: the one that counts first, then its planned replacement."""

    @property
    def feed(self) -> FeedLink:
        """The feed that counts."""
        return self.feeds[0]

    @property
    def watermark(self) -> tuple[int, int] | None:
        """Last accepted sequence and its time, ns."""
        return None

    @property
    def is_ready(self) -> bool:
        """True when this stream delivers what it should."""
        return self.frames > 0

    @property
    def handler(self) -> Callable[[bytes, int], None]:
        """What takes data frames while this stream's feed counts."""
        return self.frame

    def frame(self, raw: bytes, received: int) -> None:
        """Take one data frame from the feed that counts."""
        raise NotImplementedError

    def standby_frame(self, raw: bytes, received: int) -> None:
        """Take one data frame from a replacement that does not count yet."""
        raise NotImplementedError

    def rejected(self, sequence: int, error: str) -> None:
        """Hear that an accepted row could not be a record."""
        self._failed(error)

    def closed(self, reason: str) -> None:
        """Hear that the last connection is gone."""

    def promoted(self) -> None:
        """Hear that the planned replacement counts from now on."""

    def bad_frame(self, raw: bytes, error: Exception) -> None:
        """Count a frame that could not be understood."""
        self._failed(f"{type(error).__name__}: {error} in {shorten(raw)}")

    def _failed(self, error: str) -> None:
        self.decode_errors += 1
        self.last_error = f"{self.key}: {error}"

    def _gap(self, received: int, **fields: Any) -> None:
        record = Gap(
            exchange_name=self.instrument.exchange_name,
            market_type=self.instrument.market_type,
            symbol_name=self.instrument.symbol_name,
            timestamp=fields["opened_at"],
            receive_timestamp=received,
            source="stream",
            collector=self.batcher.collector,
            epoch=self.batcher.epoch,
            **fields,
        )
        self.batcher.record(self, record, received)


@dataclass(slots=True)
class TradeGap:
    """A hole in a trade stream that may still be filled: what is left of it is ``low`` to ``high``."""

    opened_at: int
    closed_at: int
    first: int
    last: int
    reason: str
    low: int
    high: int
    repaired: int = 0


class TradeStream(Stream):
    """Trades with a contiguous sequence."""

    def __init__(self, venue: Venue, channel: Channel, instrument: Instrument, batcher: Batcher) -> None:
        super().__init__(venue, channel, instrument, batcher)
        assert isinstance(channel.codec, TradeCodec)
        self.codec = channel.codec
        self.last: int | None = None
        self.duplicates = 0
        self.missing = 0
        self.repaired = 0
        self.gaps: deque[TradeGap] = deque()
        self._held: deque[tuple[Any, int]] = deque()
        self._break = "sequence"
        self._covers = channel.codec.covers
        self._resumed_time = 0
        self._resume_from: int | None = None
        self._last_trade: Any = None
        self._decode = channel.codec.decode
        self._decode_one: Callable[[bytes], Any] = channel.codec.decode_one or channel.codec.decode
        # The lists of a buffer are emptied in place, so their methods can be kept.
        buffer = batcher.trades(channel.codec)
        self._add_owner = buffer.owners.append
        self._add_row = buffer.rows.append
        self._add_received = buffer.received.append

    @property
    def last_time(self) -> int:
        """Time of the last accepted trade, venue units."""
        return self._resumed_time if self._last_trade is None else int(self._last_trade.time)

    @property
    def handler(self) -> Callable[[bytes, int], None]:
        """What takes data frames while this stream's feed counts."""
        return self.frame if self.codec.decode_one is None else self.frame_of_one

    @property
    def watermark(self) -> tuple[int, int] | None:
        """Last accepted sequence and its time, ns."""
        return None if self.last is None else (self.last, self.last_time * self.codec.time_ns)

    @property
    def is_ready(self) -> bool:
        """A quiet instrument has no trades: an accepted subscription is enough."""
        return True

    def resume(self, last: int, time: int) -> None:
        """Continue after a predecessor whose last durable trade was ``last`` (at ``time`` ns)."""
        self._resume_from = last
        self._resumed_time = time // self.codec.time_ns
        self._break = "collector_lost"

    def frame(self, raw: bytes, received: int) -> None:
        """Decode, check the sequence, keep."""
        self.frames += 1
        try:
            trades = self._decode(raw)
        except DECODE_ERRORS as error:
            self._break = "malformed"
            self.bad_frame(raw, error)
            return
        for trade in trades:
            self._take(trade, received)

    def frame_of_one(self, raw: bytes, received: int) -> None:
        """Do what `frame` does, for channels that send one trade a frame: the hot path."""
        self.frames += 1
        try:
            trade = self._decode_one(raw).data
        except DECODE_ERRORS as error:
            self._break = "malformed"
            self.bad_frame(raw, error)
            return
        sequence = trade.sequence
        if sequence - 1 != self.last and not self._out_of_step(trade, received):
            return
        self.last = sequence
        self._last_trade = trade
        self._add_owner(self)
        self._add_row(trade)
        self._add_received(received)

    def standby_frame(self, raw: bytes, received: int) -> None:
        """Hold trades until the feed that counts has delivered up to them."""
        try:
            trades = self._decode(raw)
        except DECODE_ERRORS as error:
            self.bad_frame(raw, error)
            return
        self._held.extend((trade, received) for trade in trades)
        self.release_held()
        while len(self._held) > HELD_TRADES:
            self._take(*self._held.popleft())

    def release_held(self) -> bool:
        """Take held trades that follow; True if none is left."""
        while self._held:
            trade, received = self._held[0]
            if self.last is not None and self._first(trade) > self.last + 1:
                return False
            self._held.popleft()
            self._take(trade, received)
        return True

    def promoted(self) -> None:
        """Let the replacement count: what is still missing before held trades is a gap."""
        while self._held:
            self._take(*self._held.popleft())

    def closed(self, reason: str) -> None:
        """Remember why the next trade may not follow."""
        self._break = reason

    def _first(self, trade: Any) -> int:
        covers = self._covers
        return int(trade.sequence if covers is None else trade.sequence - covers(trade) + 1)

    def _take(self, trade: Any, received: int) -> None:
        if trade.sequence - 1 != self.last and not self._out_of_step(trade, received):
            return
        self.last = trade.sequence
        self._last_trade = trade
        self._add_owner(self)
        self._add_row(trade)
        self._add_received(received)

    def _out_of_step(self, trade: Any, received: int) -> bool:
        """Deal with a trade that does not simply follow; True if it is to be taken."""
        last = self.last
        first = self._first(trade)
        if last is None:
            if self._resume_from is None:
                return True
            last, self._resume_from = self._resume_from, None
            self.last = last
            if first == last + 1:
                # The coordinator has written down a hole that turns out to be none.
                moment = self.last_time * self.codec.time_ns
                self._write(
                    TradeGap(moment, trade.time * self.codec.time_ns, first, last, self._break, 0, 0),
                    "repaired",
                    received,
                )
                self._break = "sequence"
        if first == last + 1:
            return True
        if trade.sequence <= last:
            if (trade.time - self.last_time) * self.codec.time_ns < RESET_AFTER_NS:
                self.duplicates += 1
                return False
            self._gap(
                received,
                data_type="trade",
                reason="sequence_reset",
                opened_at=self.last_time * self.codec.time_ns,
                closed_at=trade.time * self.codec.time_ns,
                first_missing=last + 1,
                status="unrepairable",
            )
            return True
        reason, self._break = self._break, "sequence"
        self._open(
            TradeGap(
                self.last_time * self.codec.time_ns,
                trade.time * self.codec.time_ns,
                last + 1,
                first - 1,
                reason,
                last + 1,
                first - 1,
            ),
            received,
        )
        return True

    def rejected(self, sequence: int, error: str) -> None:
        """Write down that a trade arrived and could not be kept."""
        self._failed(error)
        moment = self.last_time * self.codec.time_ns
        self._open(TradeGap(moment, moment, sequence, sequence, "malformed", sequence, sequence), self.last_received)

    # --- gaps ---

    def _open(self, gap: TradeGap, received: int) -> None:
        self.missing += gap.last - gap.first + 1
        self._write(gap, "open", received)
        history = self.venue.trade_history
        if history is None:
            return
        if len(self.gaps) >= OPEN_GAPS:
            return  # it stays open in the store, where a later repair finds it
        self.gaps.append(gap)
        if len(self.gaps) == 1:
            self._fetch()

    def _fetch(self) -> None:
        history = self.venue.trade_history
        if self.gaps and history is not None and self.feeds:
            gap = self.gaps[0]
            self.feed.fetch_trades(self, history.request(self.instrument, gap.low, gap.high))

    def history(self, body: bytes, received: int) -> None:
        """Take one page of past trades.

        Raises
        ------
        VenueError
            If the page cannot be understood.
        """
        history = self.venue.trade_history
        if not self.gaps or history is None:
            return
        gap = self.gaps[0]
        try:
            page = sorted(history.decode(body), key=lambda trade: int(trade.sequence))
        except DECODE_ERRORS as error:
            raise FrameError(f"{self.key}: history page: {error} in {shorten(body)}") from error
        wanted = [trade for trade in page if gap.low <= trade.sequence <= gap.high]
        buffer = self.batcher.trades(self.codec, "backfill")
        for trade in wanted:
            buffer.owners.append(self)
            buffer.rows.append(trade)
            buffer.received.append(received)
        buffer.bytes += 150 * len(wanted)
        gap.repaired += len(wanted)
        self.repaired += len(wanted)
        if wanted and history.newest_first:
            gap.high = wanted[0].sequence - 1
        elif wanted:
            gap.low = wanted[-1].sequence + 1
        if not wanted or gap.low > gap.high:
            self.gaps.popleft()
            # What the venue does not give back stays open and visible.
            whole = gap.repaired == gap.last - gap.first + 1
            self._write(gap, "repaired" if whole else "open", received)
        self._fetch()

    def history_failed(self, error: str) -> None:
        """Leave the gap open; it is in the store for a later repair."""
        self.last_error = f"{self.key}: history: {error}"
        if self.gaps:
            self.gaps.popleft()
        self._fetch()

    def _write(self, gap: TradeGap, status: Any, received: int) -> None:
        self._gap(
            received,
            data_type="trade",
            reason=gap.reason,
            opened_at=gap.opened_at,
            closed_at=gap.closed_at,
            first_missing=gap.first,
            last_missing=gap.last,
            missing_count=gap.last - gap.first + 1,
            repaired_count=gap.repaired,
            status=status,
        )


class BookStream(Stream):
    """An order book and its changes."""

    def __init__(
        self,
        venue: Venue,
        channel: Channel,
        instrument: Instrument,
        batcher: Batcher,
        *,
        keep: int | None,
        depth: int = 400,
        interval_s: float = 1.0,
        keep_deltas: bool = True,
    ) -> None:
        super().__init__(venue, channel, instrument, batcher)
        assert isinstance(channel.codec, BookCodec)
        self.codec = channel.codec
        self.depth = depth
        self.interval_ns = int(interval_s * 1e9)
        self.next_publish = 0
        self.published = 0
        self.gaps_opened = 0
        self._keep = keep
        self._keep_deltas = keep_deltas
        self._deltas = batcher.deltas
        self._books = batcher.books
        self._open: tuple[str, int, int] | None = None
        self._decode = channel.codec.decode
        self.sync = BookSync(self.codec, self, keep)
        self._standby: BookSync | None = None

    @property
    def watermark(self) -> tuple[int, int] | None:
        """Update id and time of the book."""
        return (self.sync.last, self._ns(self.sync.last_time)) if self.sync.is_live else None

    def _ns(self, time: int) -> int:
        return time * self.codec.time_ns

    @property
    def is_ready(self) -> bool:
        """True when the book is live."""
        return self.sync.state is State.LIVE

    def resume(self, last: int, time: int) -> None:
        """Write down what a lost predecessor left open."""
        self.sync.resume(last, time)

    def frame(self, raw: bytes, received: int) -> None:
        """Decode and hand to the state machine."""
        self.frames += 1
        try:
            for delta in self._decode(raw):
                self.sync.delta(delta, received)
        except DECODE_ERRORS as error:
            self.bad_frame(raw, error)
            self.sync.broken("malformed", shorten(str(error)))

    # --- planned replacement: the new connection builds a book of its own and takes over when it is live ---

    def start_standby(self, link: FeedLink) -> None:
        """Begin a second book on a replacement connection."""
        self._standby = BookSync(self.codec, _StandbyOutputs(self, link), self._keep)
        if not self.codec.pushes_snapshot:
            self._standby.subscribed()

    def standby_frame(self, raw: bytes, received: int) -> None:
        """Feed the second book."""
        if self._standby is None:
            return
        try:
            for delta in self._decode(raw):
                self._standby.delta(delta, received)
        except DECODE_ERRORS as error:
            self.bad_frame(raw, error)
            self._standby.broken("malformed", shorten(str(error)))

    @property
    def standby_is_live(self) -> bool:
        """True when the second book could take over."""
        return self._standby is not None and self._standby.state is State.LIVE

    def of(self, link: FeedLink) -> BookSync:
        """Give the book that a feed drives."""
        return self._standby if self._standby is not None and link is not self.feeds[0] else self.sync

    def promoted(self) -> None:
        """Let the second book take over; what the first one had lost stays lost."""
        if self._standby is not None:
            if self.sync.state is State.LIVE and self._standby.state is not State.LIVE:
                self.gap_opened("disconnected", self.sync.last, self.sync.last_time)
            self.sync, self._standby = self._standby, None
            if self._open is not None and self.sync.is_live:
                self.gap_closed(self.sync.last, self.sync.last_time, self.feed.now)
            self.sync.hand_over(self, gap_is_open=self._open is not None)

    def closed(self, reason: str) -> None:
        """Hear that the connection is gone."""
        self.sync.closed(reason)

    def rejected(self, sequence: int, error: str) -> None:
        """Throw the book away: a level of an applied change was no number after all."""
        self._failed(error)
        self.sync.broken("malformed", shorten(error))

    # --- outputs of the state machine ---

    def delta(self, delta: Delta, previous: int, received: int) -> None:
        """Keep an applied change."""
        if self._keep_deltas:
            buffer = self._deltas
            buffer.owners.append(self)
            buffer.rows.append((previous, delta, self.codec.time_ns))
            buffer.received.append(received)
            buffer.bytes += 100 + 50 * (len(delta.bids) + len(delta.asks))

    def fetch_snapshot(self, attempt: int) -> None:
        """Ask for a snapshot."""
        self.feed.fetch_snapshot(self, attempt)

    def resubscribe(self) -> None:
        """Ask the venue for a new snapshot."""
        self.feed.resubscribe(self, "book")

    def gap_opened(self, reason: str, last: int, time: int) -> None:
        """Write down that the chain broke."""
        self.gaps_opened += 1
        self._open = (reason, last, time)
        self._gap(
            self.feed.now if self.feeds else self._ns(time),
            data_type="orderbook_delta",
            reason=reason,
            opened_at=self._ns(time),
            first_missing=last + 1,
        )

    def gap_closed(self, first: int, time: int, received: int) -> None:
        """Write down that the book is live again; venues do not give back lost changes."""
        if self._open is None:
            return
        reason, last, opened_at = self._open
        self._open = None
        self._gap(
            received,
            data_type="orderbook_delta",
            reason=reason,
            opened_at=self._ns(opened_at),
            closed_at=self._ns(time),
            first_missing=last + 1,
            last_missing=first,
            status="unrepairable",
        )

    def publish(self, now: int) -> None:
        """Publish the book if it is live, due and changed."""
        if now < self.next_publish:
            return
        sync = self.sync
        if sync.state is not State.LIVE or not sync.changed:
            return
        sync.changed = False
        self.next_publish = now + self.interval_ns
        bids, asks = sync.book.top(self.depth)
        buffer = self._books
        buffer.owners.append(self)
        buffer.rows.append(BookRow(sync.last, self._ns(sync.last_time), bids, asks, self.depth))
        buffer.received.append(now)
        buffer.bytes += 50 * (len(bids) + len(asks))
        self.published += 1


class _StandbyOutputs:
    """Outputs of a second book: its changes are kept, its troubles are not gaps of the stream."""

    def __init__(self, stream: BookStream, link: FeedLink) -> None:
        self._stream = stream
        self._link = link

    def delta(self, delta: Delta, previous: int, received: int) -> None:
        self._stream.delta(delta, previous, received)

    def fetch_snapshot(self, attempt: int) -> None:
        self._link.fetch_snapshot(self._stream, attempt)

    def resubscribe(self) -> None:
        self._link.resubscribe(self._stream, "book")

    def gap_opened(self, reason: str, last: int, time: int) -> None:
        """Nothing is lost: the first book still counts."""

    def gap_closed(self, first: int, time: int, received: int) -> None:
        """Nothing was open."""


class RecordStream(Stream):
    """A low-rate data type, decoded straight to records."""

    def __init__(self, venue: Venue, channel: Channel, instrument: Instrument, batcher: Batcher) -> None:
        super().__init__(venue, channel, instrument, batcher)
        assert isinstance(channel.codec, RecordCodec)
        self._decode: Callable[[bytes, Instrument, int], Any] = channel.codec.decode

    def frame(self, raw: bytes, received: int) -> None:
        """Decode and keep."""
        self.frames += 1
        try:
            for record in self._decode(raw, self.instrument, received):
                self.batcher.record(self, record, received)
        except DECODE_ERRORS as error:
            self.bad_frame(raw, error)

    def standby_frame(self, raw: bytes, received: int) -> None:
        """Keep records of both connections: their natural keys make repeats one row."""
        self.frame(raw, received)


__all__ = ["BookError", "BookStream", "FeedLink", "RecordStream", "Stream", "TradeStream"]
