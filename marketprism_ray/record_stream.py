"""Low-rate data that venues push: decoded straight to records, with a line of continuity for each of its streams.

A frame may hold rows of many instruments and several data types; each pair of them is a line of its own, because each
has its own holes (``continuity.py`` decides which). No I/O, time is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from marketprism_ray.bars import before_opening
from marketprism_ray.batching import Batcher
from marketprism_ray.continuity import Bars, Counted, Hole, Holes, Pushes
from marketprism_ray.errors import DECODE_ERRORS
from marketprism_ray.extents import Claim
from marketprism_ray.gaps import Filler, Place, write_gap
from marketprism_ray.instruments import Instrument
from marketprism_ray.records import Kline, Record
from marketprism_ray.sinks.inherited import Inherited, Way
from marketprism_ray.streams import FeedLink, Stream
from marketprism_ray.venue import Channel, RecordCodec, Venue
from marketprism_ray.venue_clock import VenueClock

EVENTS = ("liquidation",)
"""Data types each row of which is a thing of its own; other rows say how something is now."""


class Line:
    """The rows of one data type and instrument on one channel: their owner, and what is missing of them."""

    marked_by = ""
    since = 0

    def __init__(self, stream: RecordStream, channel: Channel, place: Place) -> None:
        self.instrument = stream.instrument
        self.place = place
        self.key = f"{place.exchange_name}/{place.data_type}/{place.channel or channel.name}/{place.symbol_name}"
        self.time: Bars | Pushes = (
            Bars(channel.interval, says_closed=channel.says_closed) if channel.interval else _pushes(channel)
        )
        self.way = Way(place.data_type, place.market_type, place.symbol_name, True, channel.interval or channel.content)
        self.begun = Way("instrument", place.market_type, place.symbol_name, False, "")
        """Rows that say since when the instrument is collected."""
        self._stream = stream

    def durable(self, claim: Claim, now: int) -> None:
        """Nothing waits for it."""

    def row(self, record: Record, received: int) -> Holes:
        """Take a row."""
        if isinstance(self.time, Pushes):
            return self.time.row(record.timestamp, received)
        assert isinstance(record, Kline)
        return self.time.row(record.open_time, record.close_time, record.is_closed)

    def interrupted(self, now: int, reason: str, heard: int) -> None:
        """Hear that nothing is pushed from now on."""
        if isinstance(self.time, Bars):
            self.time.interrupted(reason)
        else:
            self.time.interrupted(now, reason, heard)

    def rejected(self, sequence: int, error: str) -> None:
        """Write down that a row of this time arrived and could not be a record."""
        self._stream.rejected(sequence, error)
        if isinstance(self.time, Pushes):
            self._stream.write(self, Hole(sequence, sequence, "malformed", 1))


def _pushes(channel: Channel) -> Pushes:
    cadence, spacing = channel.cadence_s, channel.spacing_s
    return Pushes(
        None if cadence is None else int(cadence * 1e9),
        None if spacing is None else int(spacing * 1e9),
        repeats=channel.data_type not in EVENTS,
    )


class RecordStream(Stream):
    """Low-rate data, decoded straight to records.

    One of these serves all instruments and data types that come with one stream of the venue: the frame is decoded
    once, and what nobody asked for is left out.
    """

    def __init__(
        self, venue: Venue, channels: Sequence[Channel], instruments: Sequence[Instrument], batcher: Batcher
    ) -> None:
        super().__init__(venue, channels[0], instruments[0], batcher)
        assert isinstance(channels[0].codec, RecordCodec)
        self.codec = channels[0].codec
        self.key = f"{venue.name}/{self.wire_key}/{'+'.join(sorted({c.data_type for c in channels}))}"
        self.records = 0
        self.shedding = False
        """True while nothing is read because the sinks cannot take more."""
        self.filler: Filler | None = None
        self.clock = VenueClock()
        """Time at the venue; streams of a session share one."""
        self._newest = 0
        self._decode = self.codec.decode
        self.data_types = frozenset(channel.data_type for channel in channels)
        self._lookup = {instrument.venue_symbol: instrument for instrument in instruments}.get
        self._accepted: set[FeedLink] = set()
        self._lines: dict[tuple[str, str], Line] = {}
        self._channels = {channel.data_type: channel for channel in channels}
        for channel in channels:
            for instrument in filter(channel.applies, instruments):
                name = venue.gap_channel(channel, instrument)
                place = Place(venue.name, *venue.filed_under(channel.data_type, instrument), channel.data_type, name)
                self._lines.setdefault((channel.data_type, place.symbol_name), Line(self, channel, place))

    @property
    def lines(self) -> Iterator[Line]:
        """Give what has holes of its own."""
        return iter(self._lines.values())

    @property
    def newest(self) -> int:
        """The venue's time of the newest row, ns."""
        return self._newest

    def counted_by_trades(self) -> None:
        """Hear that its rows come with trades, and with past trades where those had a hole."""
        for line in self.lines:
            line.time = Counted()

    def frame(self, raw: bytes, received: int) -> None:
        """Decode and keep."""
        self.frames += 1
        lines, batcher = self._lines, self.batcher
        try:
            for record in self._decode(raw, self._lookup, received):
                line = lines.get((record.table, record.symbol_name)) or self._place(record)
                if line is not None:
                    self.records += 1
                    self.clock.row(record.timestamp, received)
                    if self._newest < record.timestamp != received:
                        self._newest = record.timestamp
                    batcher.record(line, record, received)
                    for hole in line.row(record, received):
                        self.write(line, hole, received)
        except DECODE_ERRORS as error:
            self.bad_frame(raw, error)
            for line in self.lines:
                if isinstance(line.time, Pushes):
                    line.time.malformed(received)

    def _place(self, record: Record) -> Line | None:
        """Give a line to a row that is filed under a name nobody foresaw; None if its data type is not wanted."""
        channel = self._channels.get(record.table)
        if channel is None:
            return None
        name = self.venue.gap_channel(channel, self.instrument)
        place = Place(record.exchange_name, record.market_type, record.symbol_name, record.table, name)
        return self._lines.setdefault((record.table, record.symbol_name), Line(self, channel, place))

    def standby_frame(self, raw: bytes, received: int) -> None:
        """Keep records of both connections: their natural keys make repeats one row."""
        self.frame(raw, received)

    def accepted(self, feed: FeedLink) -> None:
        """Hear that a feed's subscription stands."""
        self._accepted = (self._accepted & set(self.feeds)) | {feed}
        for line in self.lines:
            if isinstance(line.time, Pushes):
                line.time.accepted(feed.now, self.clock.delay)

    def unsubscribed(self, feed: FeedLink) -> None:
        """Hear that a feed subscribes anew: what the venue says meanwhile is lost, unless another feed has it."""
        self._interrupted(feed, "resubscribed")

    def closed(self, reason: str) -> None:
        """Hear that the last connection is gone."""
        self._interrupted(self.feed, reason)

    def cut_short(self, reason: str) -> None:
        """Hear that the feed that counts is gone before its replacement had caught up."""
        self._interrupted(self.feed, reason)

    def _interrupted(self, feed: FeedLink, reason: str) -> None:
        self._accepted.discard(feed)
        if self._accepted & set(self.feeds):
            return  # another connection has this stream
        cause = "shed" if self.shedding else reason
        heard, delay = feed.heard, self.clock.delay
        if delay is not None and feed.spoken:
            # What was still waiting in the socket is lost, however late we were: it was sent after what came last.
            heard = min(heard, feed.spoken + delay)
        for line in self.lines:
            line.interrupted(feed.now, cause, heard)

    def inherit(self, inherited: Inherited, now: int) -> None:
        """Go on where a predecessor ended."""
        for line in self.lines:
            holes, lasting = inherited.of(line.place)
            for hole in holes:
                if self.filler is not None:
                    self.filler.hole(line.place, hole, is_written=True)
            last = inherited.newest.get(line.way)
            if last is None and (begun := inherited.newest.get(line.begun)) is not None:
                # It was collected and nothing of it is stored: nothing is known since then, by our clock.
                begun = self.clock.at(begun) or begun
                last = begun if isinstance(line.time, Pushes) else before_opening(begun, line.time.interval)
            if last is not None:
                for hole in line.time.resume(last, *lasting):
                    self.write(line, hole, now)

    def tick(self, now: int) -> None:
        """Look at the time, also while there is no connection; call a few times a second."""
        if self.shedding:
            return  # what waits in the socket is late, not lost
        at_venue = self.clock.at(now)
        for line in self.lines:
            moment = at_venue if isinstance(line.time, Bars) else now
            if moment is None:
                continue  # nobody knows yet what time it is there
            for hole in line.time.tick(moment):
                self.write(line, hole, now)

    def clock_stepped(self, moved: int) -> None:
        """Move along with the clock."""
        for line in self.lines:
            line.time.clock_stepped(moved)

    def write(self, line: Line, hole: Hole, now: int = 0) -> None:
        """Write a hole down, and have it filled where the venue keeps its past."""
        place = line.place
        # Of what is pushed venues keep candles only: other histories are coarser than what was missed.
        has_past = isinstance(line.time, Bars) and self.venue.history(place.data_type, line.instrument) is not None
        is_written = not (hole.is_routine and has_past and self.filler is not None)
        if is_written:
            write_gap(self.batcher, line, place, hole, now or self.last_received, may_be_repaired=has_past)
        if has_past and self.filler is not None:
            self.filler.hole(place, hole, is_written=is_written)
