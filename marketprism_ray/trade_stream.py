"""Trades with a contiguous sequence: every hole is written down, fetched from the venue's history and closed."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

from marketprism_ray.batching import Batcher
from marketprism_ray.errors import DECODE_ERRORS, FrameError, shorten
from marketprism_ray.hot import TradeIntake
from marketprism_ray.instruments import Instrument
from marketprism_ray.streams import Stream
from marketprism_ray.venue import Channel, TradeCodec, Venue, items

HELD_TRADES = 20_000
OPEN_GAPS = 200
LARGEST_REPAIR = 500_000
"""Trades of a hole that is fetched by itself; more would take the venue's limits from everything else for hours."""
HISTORY_ATTEMPTS = 5
HISTORY_RETRY_S = 10.0
PROBE_TRADES = 100
"""Trades a probe asks for: a stream with more than that will soon say itself what is missing."""
_LARGEST = 2**63 - 1
RESET_AFTER_NS = 60_000_000_000
"""An id below the last one, on a trade this much newer, means that the venue started its ids afresh."""


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
    failures: int = 0
    is_probe: bool = False
    """A question, not yet a hole: has anything happened after the last trade?"""


class TradeStream(TradeIntake, Stream):
    """Trades with a contiguous sequence."""

    marked_by = "trade"

    def __init__(self, venue: Venue, channel: Channel, instrument: Instrument, batcher: Batcher) -> None:
        super().__init__(venue, channel, instrument, batcher)
        assert isinstance(channel.codec, TradeCodec)
        self.codec = channel.codec
        self.last = None
        self.duplicates = 0
        self.missing = 0
        self.repaired = 0
        self.gaps: deque[TradeGap] = deque()
        self._held: deque[tuple[Any, int]] = deque()
        self._break = "sequence"
        self._covers = channel.codec.covers
        self._resumed_time = 0
        self._resume_from: int | None = None
        self._last_trade = None
        self._decode = channel.codec.decode
        # The lists of a buffer are emptied in place, so they can be kept.
        buffer = batcher.trades(channel.codec)
        self._owners, self._rows, self._received = buffer.owners, buffer.rows, buffer.received

    @property
    def last_time(self) -> int:
        """Time of the last accepted trade, venue units."""
        return self._resumed_time if self._last_trade is None else int(self._last_trade.time)

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

    def _malformed(self, raw: bytes, error: Exception) -> None:
        self._break = "malformed"
        self.bad_frame(raw, error)

    def standby_frame(self, raw: bytes, received: int) -> None:
        """Hold trades until the feed that counts has delivered up to them."""
        try:
            data = self._decode(raw).data
        except DECODE_ERRORS as error:
            self.bad_frame(raw, error)
            return
        self._held.extend((trade, received) for trade in items(data))
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

    def cut_short(self, reason: str) -> None:
        """Remember why trades may be missing before the replacement's first."""
        self._break = reason

    def _first(self, trade: Any) -> int:
        covers = self._covers
        return int(trade.sequence if covers is None else trade.sequence - covers(trade) + 1)

    def _out_of_step(self, trade: Any, received: int) -> bool:
        """Deal with a trade that does not simply follow; True if it is to be taken."""
        if not 0 <= trade.sequence <= _LARGEST:
            self._break = "malformed"
            self._failed(f"sequence {trade.sequence} is out of range")
            return False
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

    def attached(self) -> None:
        """Go on with repairs: a fetch dies with the connection that had it."""
        self._fetch()

    def probe(self) -> None:
        """Ask the history what came after the last trade.

        On a quiet stream the next trade, which would show a hole, may be far away. Called when a new connection has
        not brought one for a while.
        """
        last = self._resume_from if self.last is None else self.last
        if last is None or self.venue.trade_history is None or self._break == "sequence":
            return
        if not any(gap.is_probe for gap in self.gaps):
            moment = self.last_time * self.codec.time_ns
            high = last + PROBE_TRADES
            self.gaps.append(TradeGap(moment, moment, last + 1, high, self._break, last + 1, high, is_probe=True))
            if len(self.gaps) == 1:
                self._fetch()

    def _probed(self, gap: TradeGap, page: list[Any], received: int) -> None:
        """Take what the history has after the last trade, as far as it is without a hole."""
        self.gaps.popleft()
        known = self._resume_from if self.last is None else self.last
        if known is None or known + 1 != gap.first:
            return  # a trade has come meanwhile and has said what is missing
        found: list[Any] = []
        for trade in page:
            if self._first(trade) == known + 1:
                found.append(trade)
                known = trade.sequence
        if not found and any(trade.sequence > known for trade in page):
            return  # more than a page is missing: the next trade will say what
        if found:
            self._backfill(found, received)
            self._last_trade = found[-1]
        count = known + 1 - gap.first
        self.missing += count
        self.repaired += count
        self.last, self._resume_from, self._break = known, None, "sequence"
        if count or gap.reason == "collector_lost":
            closed_at = self.last_time * self.codec.time_ns
            self._write(
                TradeGap(gap.opened_at, closed_at, gap.first, known, gap.reason, 0, 0, count), "repaired", received
            )

    def _backfill(self, trades: list[Any], received: int) -> None:
        buffer = self.batcher.trades(self.codec, "backfill")
        for trade in trades:
            buffer.owners.append(self)
            buffer.rows.append(trade)
            buffer.received.append(received)
        buffer.bytes += 150 * len(trades)

    # --- gaps ---

    def _open(self, gap: TradeGap, received: int) -> None:
        self.missing += gap.last - gap.first + 1
        self._write(gap, "open", received)
        history = self.venue.trade_history
        if history is None:
            return
        if len(self.gaps) >= OPEN_GAPS or gap.last - gap.first >= LARGEST_REPAIR:
            return  # it stays open in the store, where a later repair finds it
        self.gaps.append(gap)
        if len(self.gaps) == 1:
            self._fetch()

    def _fetch(self, delay_s: float = 0.0) -> None:
        history = self.venue.trade_history
        if self.gaps and history is not None and self.feeds:
            gap = self.gaps[0]
            self.feed.fetch_trades(self, history.request(self.instrument, gap.low, gap.high), delay_s)

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
        if gap.is_probe:
            self._probed(gap, page, received)
            self._fetch()
            return
        wanted = [trade for trade in page if gap.low <= trade.sequence <= gap.high]
        self._backfill(wanted, received)
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
        """Try again later, the other gaps first; one that keeps failing stays open and visible in the store."""
        self.last_error = f"{self.key}: history: {error}"
        if self.gaps:
            gap = self.gaps.popleft()
            gap.failures += 1
            if gap.failures < HISTORY_ATTEMPTS:
                self.gaps.append(gap)
        self._fetch(HISTORY_RETRY_S)

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
