"""Trades with a contiguous sequence: every hole is written down, and closed when what was missing is stored.

This module takes what the venue pushes; ``trade_repair.py`` remembers the holes and decides what to fetch for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from marketprism_ray.batching import Batcher
from marketprism_ray.errors import DECODE_ERRORS, FrameError, shorten
from marketprism_ray.extents import Claim
from marketprism_ray.hot import TradeIntake
from marketprism_ray.instruments import Instrument
from marketprism_ray.resume import OpenGap, Resume, end_of
from marketprism_ray.streams import FeedLink, Stream
from marketprism_ray.trade_repair import PROGRESS_PAGES, Repairs, TradeGap, Wanted
from marketprism_ray.venue import Channel, Priority, TradeCodec, Venue, items

HELD_TRADES = 20_000
_LARGEST = 2**63 - 1
MARGIN_NS = 1_000_000_000
"""Trades a little older than the acceptance of a subscription may have been meant for it."""
QUESTIONS = 3
"""So often a history that ends before the first trade that came is asked again: it may lag."""
RESET_AFTER_NS = 60_000_000_000
"""An id below the last one, on a trade this much newer, means that the venue started its ids afresh."""


class TradeStream(TradeIntake, Stream):
    """Trades with a contiguous sequence.

    Parameters
    ----------
    also : data types wanted besides trades, of what the venue's history yields with them
    """

    marked_by = "trade"

    def __init__(
        self,
        venue: Venue,
        channel: Channel,
        instrument: Instrument,
        batcher: Batcher,
        *,
        also: frozenset[str] = frozenset(),
    ) -> None:
        super().__init__(venue, channel, instrument, batcher)
        assert isinstance(channel.codec, TradeCodec)
        self.codec = channel.codec
        self.last = None
        self.duplicates = 0
        self.missing = 0
        self.repaired = 0
        self.repairs = Repairs(venue.trade_history, self._first)
        self._also = also
        self._held: deque[tuple[Any, int]] = deque()
        self._break = "sequence"
        self._covers = channel.codec.covers
        self._resumed_time = 0
        self._resume_from: int | None = None
        self._is_resumed = False
        self._unended: list[OpenGap] = []
        """Rows about holes that end before the next trade, wherever that is."""
        self._last_trade = None
        self._accepted_at: int | None = None
        """When the subscription was first accepted, ns."""
        self._unheard_since: int | None = None
        """What was traded after this, before the first trade that came, may be lost; None if nothing can be."""
        self._chain_first: int | None = None
        """First trade of the run that goes on of which the repairs do not know yet; None before the first."""
        self._decode = channel.codec.decode
        # The lists of a buffer are emptied in place, so they can be kept.
        buffer = batcher.trades(channel.codec)
        self._owners, self._rows, self._received = buffer.owners, buffer.rows, buffer.received

    @property
    def last_time(self) -> int:
        """Time of the last accepted trade, venue units."""
        return self._resumed_time if self._last_trade is None else int(self._last_trade.time)

    @property
    def _moment(self) -> int:
        """Time of the last accepted trade, ns."""
        return self.last_time * self.codec.time_ns

    @property
    def newest(self) -> int:
        """The venue's time of the last accepted trade, ns."""
        return self._moment

    @property
    def gaps(self) -> Sequence[TradeGap]:
        """Holes that may still be filled."""
        return self.repairs.gaps

    @property
    def is_ready(self) -> bool:
        """A quiet instrument has no trades: an accepted subscription is enough."""
        return True

    def durable(self, claim: Claim, now: int) -> None:
        """Close the holes of which everything is stored."""
        self.repairs.durable(claim)
        if self.repairs.gaps:
            self._settle(now)

    def _begin_chain(self, first: int) -> None:
        """Note that what comes now does not continue what came last."""
        self._note_taken()
        self._chain_first = first

    def _note_taken(self) -> None:
        """Tell the repairs what was accepted: on the usual way nobody does."""
        if self._chain_first is not None and self.last is not None and self._chain_first <= self.last:
            self.repairs.taken.add(self._chain_first, self.last, 0, 0)
            self._chain_first = self.last + 1

    # --- going on after another collector ---

    def resume(self, resume: Resume) -> None:
        """Continue after a predecessor."""
        self.since = resume.stored.since
        self.repairs.resume(resume.stored)
        self._resume_from = resume.last
        self._is_resumed = True
        self._resumed_time = resume.time // self.codec.time_ns
        self._break = "collector_lost"
        self.take_up(resume.gaps)

    def take_up(self, rows: Iterable[OpenGap]) -> None:
        """Care for holes that others have written down."""
        stored = self.repairs.stored
        for row in rows:
            if row in self._unended or self.repairs.find(row) is not None:
                continue
            last, closed_at = row.last, row.closed_at
            if last is None:
                last = end_of(row.first, stored)
                if last is None:
                    self._unended.append(row)
                    continue
                after = stored.after(last)
                closed_at = self._resumed_time * self.codec.time_ns if after is None else after.began
            self.repairs.open(TradeGap(row.opened_at, closed_at, row.first, last, row.reason))

    def _end(self, last: int, closed_at: int, received: int) -> None:
        """Note where the holes end of which it was not known: before the first trade of ours."""
        rows, self._unended = self._unended, []
        for row in rows:
            if row.first > last:
                # What was written down turns out to be no hole.
                gap = TradeGap(row.opened_at, closed_at, row.first, row.first - 1, row.reason)
                self._write(gap, "repaired", received)
            else:
                self._open(TradeGap(row.opened_at, closed_at, row.first, last, row.reason), received)

    # --- a planned replacement ---

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

    def accepted(self, feed: FeedLink) -> None:
        """Remember since when nothing may be missed; say so if something may have been before the first trade."""
        if self.last is not None or self._resume_from is not None:
            return
        if self._unheard_since is not None:
            self._write_before(self._unheard_since, None, "open", feed.now)
        elif self._accepted_at is None:
            self._accepted_at = feed.now

    def closed(self, reason: str) -> None:
        """Remember why the next trade may not follow."""
        self._break = reason
        if self.last is None and self._resume_from is None and self._accepted_at is not None:
            self._unheard_since = self._accepted_at - MARGIN_NS

    def cut_short(self, reason: str) -> None:
        """Remember why trades may be missing before the replacement's first."""
        self.closed(reason)

    # --- what does not simply follow ---

    def _malformed(self, raw: bytes, error: Exception) -> None:
        self._break = "malformed"
        self.bad_frame(raw, error)

    def _first(self, trade: Any) -> int:
        covers = self._covers
        return int(trade.sequence if covers is None else trade.sequence - covers(trade) + 1)

    def _out_of_step(self, trade: Any, received: int) -> bool:
        """Deal with a trade that does not simply follow; True if it is to be taken."""
        if not 0 <= trade.sequence <= _LARGEST:
            self._break = "malformed"
            self._failed(f"sequence {trade.sequence} is out of range")
            return False
        first = self._first(trade)
        began = trade.time * self.codec.time_ns
        last = self._resume_from if self.last is None else self.last
        if last is None:
            self._begin_chain(first)
            if self._unheard_since is not None:
                self._ask_before(first, began, received)
            return True
        if first == last + 1 and not self._unended and self._chain_first is not None:
            return True
        if trade.sequence <= last:
            return self._is_older(trade, first, last, received)
        reason, self._break = self._break, "sequence"
        is_told = any(row.first <= last + 1 for row in self._unended)
        self._end(first - 1, began, received)
        if first > last + 1 and not is_told:
            self._open(TradeGap(self._moment, began, last + 1, first - 1, reason), received)
        self._begin_chain(first)
        self._resume_from = None
        return True

    def _is_older(self, trade: Any, first: int, last: int, received: int) -> bool:
        """Deal with a trade that comes again or late; True if the venue counts afresh."""
        if (trade.time - self.last_time) * self.codec.time_ns >= RESET_AFTER_NS:
            self._count_afresh(trade, first, last, received)
            return True
        self._note_taken()
        taken = self.repairs.taken
        if taken.covers(first, trade.sequence) or not self._is_ours(trade.sequence):
            self.duplicates += 1
            return False
        lowest = taken.first
        taken.add(first, trade.sequence, 0, 0)
        self._owners.append(self)
        self._rows.append(trade)
        self._received.append(received)
        if lowest is not None and trade.sequence < lowest.low - 1:
            # It came before what we took for the beginning.
            moment = trade.time * self.codec.time_ns
            self._open(TradeGap(moment, self._moment, trade.sequence + 1, lowest.low - 1, "sequence"), received)
        return False

    def _is_ours(self, sequence: int) -> bool:
        """Tell whether a late trade belongs to this stream: it does not begin before its predecessors' did."""
        lowest = self.repairs.stored.first if self._is_resumed else None
        return lowest is None or sequence > lowest.low or any(gap.holds(sequence) for gap in self.repairs.gaps)

    def _count_afresh(self, trade: Any, first: int, last: int, received: int) -> None:
        began = trade.time * self.codec.time_ns
        self._gap(
            received,
            data_type="trade",
            reason="sequence_reset",
            opened_at=self._moment,
            closed_at=began,
            first_missing=last + 1,
            status="unrepairable",
        )
        self.since = began
        lost = self.repairs.start_over(began)
        lost += [TradeGap(row.opened_at, began, row.first, None, row.reason) for row in self._unended]
        for gap in lost:
            self._write(gap, "unrepairable", received)
        self._unended.clear()
        self._chain_first = self._resume_from = None
        self._is_resumed = False
        self._begin_chain(first)

    def rejected(self, sequence: int, error: str) -> None:
        """Write down that a trade arrived and could not be kept."""
        self._failed(error)
        self._note_taken()
        if not self.repairs.rejected(sequence):
            moment = self._moment
            self._open(TradeGap(moment, moment, sequence, sequence, "malformed"), self.last_received)

    # --- asking the history ---

    def attached(self) -> None:
        """Go on with repairs: a fetch dies with the connection that had it."""
        self.repairs.interrupted()
        self._settle(self.feed.now)
        self._fetch()

    def tick(self, now: int) -> None:
        """Ask for what is due."""
        if self.repairs.gaps:
            self._fetch(now)

    def clock_stepped(self, moved: int) -> None:
        """Ask when it would have been due."""
        self.repairs.clock_stepped(moved)

    def probe(self) -> None:
        """Ask the history what came after the last trade.

        On a quiet stream the next trade, which would show a hole, may be far away. Called when a new connection has
        not brought one for a while.
        """
        last = self._resume_from if self.last is None else self.last
        if last is None or self.venue.trade_history is None or self._break == "sequence":
            return
        if self.repairs.question() is None:
            self.repairs.open(TradeGap(self._moment, None, last + 1, None, self._break))
            self._fetch()

    def _fetch(self, now: int | None = None) -> None:
        history = self.venue.trade_history
        if not self.feeds or history is None:
            return
        wanted = self.repairs.next(self.feed.now if now is None else now)
        if wanted is not None:
            request = history.request(self.instrument, wanted.hole.low, wanted.hole.high)
            if wanted.is_large:
                request = replace(request, priority=Priority.HISTORY)
            self.feed.fetch_trades(self, request)

    def history(self, body: bytes, received: int) -> None:
        """Take one page of past trades.

        Raises
        ------
        VenueError
            If the page cannot be understood.
        """
        history = self.venue.trade_history
        asked = self.repairs.answered()
        if asked is None or history is None:
            return
        try:
            page = sorted(history.decode(body), key=lambda trade: int(trade.sequence))
        except DECODE_ERRORS as error:
            self.repairs.failed(received, asked)
            raise FrameError(f"{self.key}: history page: {error} in {shorten(body)}") from error
        self._note_taken()
        if asked.gap.last is None:
            self._answered(asked.gap, page, asked.hole.high, received)
        elif asked.gap.since is not None:
            self._answered_before(asked, page, received)
        else:
            self._backfill(self.repairs.wanted(page, asked, received), received)
            if asked.gap.pages % PROGRESS_PAGES == 0:
                self._write(asked.gap, "open", received)
        self._settle(received)
        self._fetch(received)

    def _answered(self, question: TradeGap, page: list[Any], high: int, received: int) -> None:
        """Take what the history has after the last trade. What it skips is a hole like any other."""
        self.repairs.close(question)
        known = self._resume_from if self.last is None else self.last
        if known is None or known + 1 != question.first:
            return  # a trade has come meanwhile and has said what is missing
        found = [trade for trade in page if trade.sequence > known]
        if found:
            closed_at = found[-1].time * self.codec.time_ns
            self.last, self._resume_from = known, None
            self._begin_chain(found[-1].sequence + 1)
            self.last, self._last_trade = int(found[-1].sequence), found[-1]
            told, self._unended = self._unended, []
            rows = told or [OpenGap(question.opened_at, None, question.first, None, question.reason)]
            for row in rows:
                gap = TradeGap(row.opened_at, closed_at, row.first, self.last, row.reason)
                self._note_missing(gap, received)
            fresh = []
            for trade in found:  # a page may repeat itself, and a hole may have brought some of it
                first, last = self._first(trade), int(trade.sequence)
                if not self.repairs.taken.covers(first, last):
                    self.repairs.taken.add(first, last, 0, 0)
                    fresh.append(trade)
            self._backfill(fresh, received)
            if self.last >= high:
                # There may be more: ask on. A question of its own, so that what was found is closed by itself.
                self.repairs.open(TradeGap(self._moment, None, self.last + 1, None, question.reason))
                return
        else:
            self.last, self._resume_from = known, None
            self._end(known, self._moment, received)
            self._begin_chain(known + 1)
        self._break = "sequence"

    # --- what came before the first trade: no sequence tells, so the history is asked by time ---

    def _ask_before(self, first: int, began: int, received: int) -> None:
        """Ask what was traded while nobody listened, before the first trade that came."""
        opened_at, self._unheard_since = self._unheard_since, None
        assert opened_at is not None
        self._write_before(opened_at, began, "open", received)
        reason, self._break = self._break, "sequence"
        history = self.venue.trade_history
        if history is not None and first > 0:
            low = max(0, first - history.page)
            since = opened_at - (received - began)
            self.repairs.open(TradeGap(opened_at, began, low, first - 1, reason, since=since))
            self._fetch(received)

    def _answered_before(self, asked: Wanted, page: list[Any], received: int) -> None:
        """Make a hole of what the history has of that time, and ask on while it has more."""
        gap, history = asked.gap, self.venue.trade_history
        assert gap.last is not None
        assert gap.since is not None
        assert history is not None
        found = [trade for trade in page if gap.first <= trade.sequence <= gap.last]
        if (not found or found[-1].sequence < gap.last) and gap.failures < QUESTIONS:
            self.repairs.failed(received, asked)  # it lags behind what it pushes
            return
        self.repairs.close(gap)
        ours = [trade for trade in found if trade.time * self.codec.time_ns >= gap.since]
        if ours:
            low = self._first(ours[0])
            self._note_missing(TradeGap(gap.opened_at, gap.closed_at, low, gap.last, gap.reason), received)
            if 0 < low <= gap.first:
                below = max(0, low - history.page)
                self.repairs.open(replace(gap, first=below, last=low - 1, failures=0, due=0))
                return
        self._write_before(gap.opened_at, gap.closed_at, "repaired", received)

    def _write_before(self, opened_at: int, closed_at: int | None, status: Any, received: int) -> None:
        """Write the row about a time of which no sequence is known; what is found of it has rows of its own."""
        self._gap(
            received,
            data_type="trade",
            reason=self._break if self._break != "sequence" else "disconnected",
            opened_at=opened_at,
            closed_at=closed_at,
            missing_count=0 if status == "repaired" else None,
            status=status,
        )

    def history_failed(self, error: str) -> None:
        """Try again later; the other holes first."""
        self.last_error = f"{self.key}: history: {error}"
        self.repairs.failed(self.feed.now if self.feeds else self.last_received)
        self._fetch()

    def _backfill(self, trades: list[Any], received: int) -> None:
        buffer = self.batcher.trades(self.codec, "backfill")
        for trade in trades:
            buffer.owners.append(self)
            buffer.rows.append(trade)
            buffer.received.append(received)
        buffer.bytes += 150 * len(trades)
        history = self.venue.trade_history
        if trades and self._also and history is not None and history.also is not None:
            for record in history.also(trades, self.instrument, received):
                if record.table in self._also:
                    self.batcher.record(self, record, received)

    # --- rows about holes ---

    def _note_missing(self, gap: TradeGap, received: int) -> None:
        assert gap.last is not None
        self.missing += gap.size - self.repairs.taken.count(gap.first, gap.last)
        self._write(gap, "open", received)
        self.repairs.open(gap)

    def _open(self, gap: TradeGap, received: int) -> None:
        self._note_missing(gap, received)
        self._settle(received)
        self._fetch(received)

    def _settle(self, now: int) -> None:
        """Write down which holes are closed."""
        for gap, status in self.repairs.finished():
            if status == "repaired":
                self.repaired += gap.size
            self._write(gap, status, now)

    def _write(self, gap: TradeGap, status: Any, received: int) -> None:
        self._gap(
            received,
            data_type="trade",
            reason=gap.reason,
            opened_at=gap.opened_at,
            closed_at=gap.closed_at,
            first_missing=gap.first,
            last_missing=gap.last,
            missing_count=None if gap.last is None else gap.size,
            repaired_count=self.repairs.repaired(gap),
            status=status,
        )
