"""Streams: what is remembered of one subscription across connections, and how its frames become rows.

A trade stream proves contiguity by the venue's sequence and writes down every hole; a book stream drives a `BookSync`;
a record stream decodes low-rate channels, each in a module of its own.
Frames come from a `Feed`; rows go to a `Batcher`. No I/O, time is passed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from marketprism_ray.batching import AHEAD_NS, Batcher
from marketprism_ray.errors import shorten
from marketprism_ray.extents import Claim
from marketprism_ray.instruments import Instrument
from marketprism_ray.records import Gap
from marketprism_ray.venue import Channel, Request, Venue

if TYPE_CHECKING:
    from marketprism_ray.book_stream import BookStream
    from marketprism_ray.trade_stream import TradeStream


_CAUSES = ("resubscribed", "silent", "cancelled")


def cause_of(reason: str) -> str:
    """Give the word for a gap row: why a connection ended is told in many words, and those belong into the log."""
    return next((word for word in _CAUSES if word in reason), "disconnected")


class FeedLink(Protocol):
    """What a stream asks of the feed that carries it."""

    now: int
    caught_up: bool
    """True once a replacement lacks nothing that the feed before it has."""

    @property
    def heard(self) -> int:
        """When anything last came over its socket, ns; not later than it was."""

    @property
    def spoken(self) -> int:
        """The venue's time of the newest row that came over its socket, ns; 0 if none has a time."""

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

    marked_by = ""
    """Data type whose batches carry the sequences of this stream."""
    since = 0
    """When the venue began to count as it does now, ns."""

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

    def durable(self, claim: Claim, now: int) -> None:
        """Hear that rows of this stream are stored by every sink."""

    @property
    def newest(self) -> int:
        """The venue's time of the newest row, ns; 0 before there is one."""
        return 0

    @property
    def is_ready(self) -> bool:
        """True when this stream delivers what it should."""
        return self.frames > 0

    def frame(self, raw: bytes, received: int) -> None:
        """Take one data frame from the feed that counts."""
        raise NotImplementedError

    def standby_frame(self, raw: bytes, received: int) -> None:
        """Take one data frame from a replacement that does not count yet."""
        raise NotImplementedError

    def rejected(self, sequence: int, error: str) -> None:
        """Hear that an accepted row could not be a record."""
        self._failed(error)

    def clock_stepped(self, moved: int) -> None:
        """Hear that the wall clock has stepped by so many ns: deadlines move along."""

    def accepted(self, feed: FeedLink) -> None:
        """Hear that the venue has accepted a feed's subscription."""

    def unsubscribed(self, feed: FeedLink) -> None:
        """Hear that a feed has asked to end its subscription, to begin it anew."""

    def closed(self, reason: str) -> None:
        """Hear that the last connection is gone; it still is ``feed``."""

    def attached(self) -> None:
        """Hear that a feed counts from now on; what an earlier one was still fetching will not come."""

    def cut_short(self, reason: str) -> None:
        """Hear that the feed that counts is gone before its replacement had caught up; it still is ``feed``."""

    def promoted(self) -> None:
        """Hear that the planned replacement counts from now on."""

    def bad_frame(self, raw: bytes, error: Exception) -> None:
        """Count a frame that could not be understood."""
        self._failed(f"{type(error).__name__}: {error} in {shorten(raw)}")

    def _failed(self, error: str) -> None:
        self.decode_errors += 1
        self.last_error = f"{self.key}: {error}"

    def _gap(self, received: int, **fields: Any) -> None:
        for name in ("opened_at", "closed_at"):
            # A time that no venue can have meant would make a row that no store takes.
            if fields.get(name) is not None and fields[name] > received + AHEAD_NS:
                fields[name] = received
        record = Gap(
            exchange_name=self.instrument.exchange_name,
            market_type=self.instrument.market_type,
            symbol_name=self.instrument.symbol_name,
            timestamp=fields["opened_at"],
            receive_timestamp=received,
            source="stream",
            collector=self.batcher.collector,
            epoch=self.batcher.epoch,
            revision=self.batcher.revision(),
            **fields,
        )
        self.batcher.record(self, record, received)
