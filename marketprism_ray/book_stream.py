"""An order book and its changes: drives a `BookSync`, publishes its best levels, writes down what is lost."""

from __future__ import annotations

from marketprism_ray.batching import Batcher, BookRow
from marketprism_ray.errors import DECODE_ERRORS, shorten
from marketprism_ray.hot import BookIntake
from marketprism_ray.instruments import Instrument
from marketprism_ray.resume import Resume
from marketprism_ray.streams import FeedLink, Stream
from marketprism_ray.sync import BookSync, State
from marketprism_ray.venue import BookCodec, Channel, Delta, Venue, items


class BookStream(BookIntake, Stream):
    """An order book and its changes."""

    sync: BookSync

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
        # A published book may be durable before the changes that made it.
        self.marked_by = "orderbook_delta" if keep_deltas else "orderbook"
        self._deltas = batcher.deltas
        self._owners = batcher.deltas.owners
        self._rows = batcher.deltas.rows
        self._received = batcher.deltas.received
        self._books = batcher.books
        self._open: tuple[str, int, int] | None = None
        self._decode = channel.codec.decode
        self._time_ns = channel.codec.time_ns
        self.sync = BookSync(self.codec, self, keep)
        self._standby: BookSync | None = None

    def _ns(self, time: int) -> int:
        return time * self.codec.time_ns

    @property
    def is_ready(self) -> bool:
        """True when the book is live."""
        return self.sync.state is State.LIVE

    def resume(self, resume: Resume) -> None:
        """Write down what a lost predecessor left open; venues do not give back lost changes."""
        self.since = resume.stored.since
        self.sync.resume(resume.last, resume.time)
        for gap in resume.gaps:
            if gap.last is not None:
                self._gap(
                    gap.closed_at or gap.opened_at,
                    data_type="orderbook_delta",
                    reason=gap.reason,
                    opened_at=gap.opened_at,
                    closed_at=gap.closed_at,
                    first_missing=gap.first,
                    last_missing=gap.last,
                    status="unrepairable",
                )

    def _malformed(self, raw: bytes, error: Exception) -> None:
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
            for delta in items(self._decode(raw).data):
                self._standby.delta(delta, received)
        except DECODE_ERRORS as error:
            self.bad_frame(raw, error)
            self._standby.broken("malformed", shorten(str(error)))

    @property
    def newest(self) -> int:
        """The venue's time of the last change, ns."""
        return self._ns(self.sync.last_time)

    @property
    def standby_is_live(self) -> bool:
        """True when the second book could take over: it is not known to be behind the first."""
        new, old = self._standby, self.sync
        if new is None or new.state is not State.LIVE:
            return False
        return not (new.is_doubtful and old.is_live and new.last < old.last)

    def of(self, link: FeedLink) -> BookSync:
        """Give the book that a feed drives."""
        return self._standby if self._standby is not None and link is not self.feeds[0] else self.sync

    def promoted(self) -> None:
        """Let the second book take over; what the first one had lost stays lost."""
        if self._standby is not None:
            old, new = self.sync, self._standby
            self.sync, self._standby = new, None
            if old.is_live and not (new.is_live and new.begun <= old.last):
                self.gap_opened("disconnected", old.last, old.last_time)
            new.hand_over(self, lost=None if self._open is None else self._open[1])

    def attached(self) -> None:
        """Ask again for a snapshot that an earlier connection was fetching."""
        self.sync.interrupted()

    def closed(self, reason: str) -> None:
        """Hear that the connection is gone."""
        self.sync.closed(reason)

    def rejected(self, sequence: int, error: str) -> None:
        """Throw the book away: an applied change could not be a row, for one of its levels or its time."""
        self._failed(error)
        moment = self._ns(self.sync.last_time)
        self._gap(
            self.feed.now if self.feeds else moment,
            data_type="orderbook_delta",
            reason="malformed",
            opened_at=moment,
            closed_at=moment,
            first_missing=sequence,
            last_missing=sequence,
            missing_count=1,
            status="unrepairable",
        )
        self.sync.broken("malformed", shorten(error))

    # --- outputs of the state machine ---

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

    def gap_closed(self, last: int, time: int, received: int, *, is_whole: bool) -> None:
        """Write down that the book is live again; venues do not give back lost changes."""
        if self._open is None:
            return
        reason, before, opened_at = self._open
        self._open = None
        if last < before:
            self.since = self._ns(time)  # the venue counts afresh
        self._gap(
            received,
            data_type="orderbook_delta",
            reason=reason,
            opened_at=self._ns(opened_at),
            closed_at=self._ns(time),
            first_missing=before + 1,
            last_missing=last,
            missing_count=0 if is_whole else None,
            status="repaired" if is_whole else "unrepairable",
        )

    def clock_stepped(self, moved: int) -> None:
        """Publish, and look again, when it would have been due."""
        self.next_publish += moved
        self.sync.clock_stepped(moved)
        if self._standby is not None:
            self._standby.clock_stepped(moved)

    def unsubscribed(self, feed: FeedLink) -> None:
        """Look for changes that are missed meanwhile."""
        self.of(feed).doubt(feed.now)

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

    def gap_closed(self, last: int, time: int, received: int, *, is_whole: bool) -> None:
        """Nothing was open."""
