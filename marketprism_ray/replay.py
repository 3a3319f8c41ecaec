"""Recordings through the same feed core as live: what a reader gets from them, figure by figure.

The figures have the names and shape of the ``expected.json`` that lies beside recordings: file, segment, instrument,
channel. They are in the venue's own units. There is no I/O here but reading files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal, localcontext
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from marketprism_ray.batching import Batch, Batcher, BatchLimits
from marketprism_ray.book_stream import BookStream
from marketprism_ray.errors import DECODE_ERRORS, MarketPrismError, RecordingError
from marketprism_ray.feed import Feed, FetchSnapshot
from marketprism_ray.instruments import Instrument
from marketprism_ray.messages import kind_of
from marketprism_ray.record_stream import RecordStream
from marketprism_ray.recording import (
    SUFFIXES,
    Line,
    Segment,
    examples,
    read_expected,
    read_lines,
    recordings,
    segments_of,
    stem_of,
)
from marketprism_ray.records import FundingRate, Kline, OptionGreeks
from marketprism_ray.streams import Stream
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import (
    MS,
    BookCodec,
    Channel,
    Data,
    Delta,
    Follows,
    RecordCodec,
    Snapshot,
    TradeCodec,
    Venue,
    WireLevel,
    items,
)


class Replay:
    """One segment of one recording on its way through a feed."""

    def __init__(self, venues: Sequence[Venue], instruments: Mapping[str, Instrument]) -> None:
        self.venues = venues
        self.batcher = Batcher("replay", 0, BatchLimits())
        self.streams: dict[tuple[str, str], Stream] = {}
        self.unread: dict[str, int] = {}
        self.errors: list[str] = []
        self.messages: dict[tuple[str, str], int] = {}
        self.sums: dict[tuple[str, str], TradeSums] = {}
        self._digits: dict[str, tuple[int, int]] = {}
        """Stream key -> most digits after the point of a quantity, and of price and quantity together."""
        self.shown: dict[tuple[str, str], Shown] = {}
        self._instruments = instruments
        self._feeds: dict[tuple[str, str], Feed] = {}
        self._by_key: dict[bytes, tuple[str, str] | None] = {}
        self._waiting: dict[str, list[tuple[int, bytes]]] = {}
        self._asked: dict[str, BookStream] = {}
        self._chains: dict[tuple[str, str], Chain] = {}
        self._snapshots: dict[str, Snapshot] = {}

    def frame(self, raw: bytes, received: int) -> None:
        """Take one recorded frame."""
        venue = self.venues[0]
        key = venue.route(raw)
        if key not in self._by_key:
            try:
                control = venue.control(raw)
            except DECODE_ERRORS as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                return
            if not isinstance(control, Data):
                return
            key = control.key.encode()
        if key not in self._by_key:
            self._by_key[key] = self._start(key.decode(), received)
        place = self._by_key[key]
        if place is None:
            channel = venue.parse_key(key.decode())[0]
            self.unread[channel] = self.unread.get(channel, 0) + 1
            return
        self.messages[place] = self.messages.get(place, 0) + 1
        if place in self.shown:
            self.shown[place].frame(raw, received)
        feed = self._feeds[place]
        feed.frame(raw, received)
        if place in self._chains:
            self._chains[place].frame(raw)
        if feed.actions:
            self._act(feed, received)
        if self.batcher.pending_rows >= 2_000:
            self._drain(received)

    def _start(self, key: str, received: int) -> tuple[str, str] | None:
        name, symbol = self.venues[0].parse_key(key)
        channels, venue = self._channels(name, symbol)
        if not channels:
            return None
        instrument = self._instruments.get(symbol) or unknown_instrument(venue, symbol)
        channel = channels[0]
        place = (symbol, name)
        streams: list[Stream] = []
        records = [c for c in channels if isinstance(c.codec, RecordCodec)]
        if isinstance(channel.codec, TradeCodec):
            streams.append(TradeStream(venue, channel, instrument, self.batcher))
        elif isinstance(channel.codec, BookCodec):
            streams.append(BookStream(venue, channel, instrument, self.batcher, keep=None))
            self._chains[place] = Chain(channel.codec)
        else:
            self.shown[place] = Shown(channel.codec, instrument)
        for codec in {id(c.codec): c.codec for c in records}.values():
            sharing = [c for c in records if c.codec is codec]
            streams.append(RecordStream(venue, sharing, [instrument], self.batcher))
        feed = Feed(venue, channel.endpoint, streams)
        self.streams[place] = streams[0]
        self._feeds[place] = feed
        feed.opened(received)
        return place

    def _channels(self, name: str, symbol: str) -> tuple[list[Channel], Venue]:
        """Give the channels of a name, trades and books before what comes along with them."""
        instrument = self._instruments.get(symbol)
        venue = next((v for v in self.venues if instrument and v.name == instrument.exchange_name), self.venues[0])
        found = [channel for channel in (*venue.channels, *venue.recorded_channels) if channel.name == name]
        return sorted(found, key=lambda channel: isinstance(channel.codec, RecordCodec)), venue

    def _act(self, feed: Feed, received: int) -> None:
        while feed.actions:
            action = feed.actions.popleft()
            if isinstance(action, FetchSnapshot):
                symbol = action.stream.instrument.venue_symbol
                self._asked[symbol] = action.stream
                self._answer(symbol, received)

    def rest(self, url: str, raw: bytes, received: int) -> None:
        """Take one recorded REST answer: book snapshots go where they are asked for."""
        query = parse_qs(urlsplit(url).query)
        symbol = (query.get("symbol") or query.get("instId") or [""])[0]
        if "depth" in urlsplit(url).path or urlsplit(url).path.endswith("/books"):
            self._waiting.setdefault(symbol, []).append((received, raw))
            self._answer(symbol, received)

    def _answer(self, symbol: str, received: int) -> None:
        while symbol in self._asked and self._waiting.get(symbol):
            stream = self._asked.pop(symbol)
            at, body = self._waiting[symbol].pop(0)
            feed = next(f for place, f in self._feeds.items() if self.streams[place] is stream)
            feed.snapshot(stream, body, max(at, received))
            if stream.sync.is_live and stream.codec.decode_snapshot is not None:
                self._snapshots[symbol] = stream.codec.decode_snapshot(body)
            self._act(feed, received)

    def finish(self, now: int) -> None:
        """Close the last batches."""
        self._drain(now)

    def _drain(self, now: int) -> None:
        for owner, trade in self.batcher.waiting("trade"):
            price, quantity = _digits(trade.price), _digits(trade.quantity)
            most = self._digits.get(owner.key, (0, 0))
            if quantity > most[0] or price + quantity > most[1]:
                self._digits[owner.key] = (max(quantity, most[0]), max(price + quantity, most[1]))
        for batch in self.batcher.drain(now, force=True):
            if batch.data_type == "trade":
                self._add(batch)

    def _add(self, batch: Batch) -> None:
        columns = {
            name: batch.data.column(name).to_pylist()
            for name in (
                "symbol_name",
                "sequence",
                "price",
                "quantity",
                "raw_quantity",
                "is_buyer_maker",
                "trade_count",
            )
        }
        venue_symbol = {
            stream.instrument.symbol_name: stream.instrument.venue_symbol for stream in self.streams.values()
        }
        channel = {p[0]: p[1] for p, stream in self.streams.items() if isinstance(stream, TradeStream)}
        with localcontext() as context:
            context.prec = 100
            for symbol, sequence, price, quantity, raw, maker, count in zip(*columns.values(), strict=True):
                name = venue_symbol[symbol]
                place = (name, channel[name])
                sums = self.sums.setdefault(place, TradeSums())
                sums.add(sequence, price, quantity if raw is None else raw, maker, count)

    def figures(self) -> dict[str, dict[str, Any]]:
        """Give instrument -> channel -> figures."""
        found: dict[str, dict[str, Any]] = {}
        for (symbol, name), stream in sorted(self.streams.items()):
            if isinstance(stream, TradeStream):
                sums = self.sums.get((symbol, name), TradeSums())
                figures = sums.figures(stream, self.messages[symbol, name], self._digits.get(stream.key, (0, 0)))
            elif isinstance(stream, RecordStream):
                figures = self.shown[symbol, name].figures() | {"errors": stream.decode_errors}
            else:
                assert isinstance(stream, BookStream)
                figures = book_figures(stream, self.messages[symbol, name])
                if not stream.codec.pushes_snapshot:
                    figures |= self._chains[symbol, name].figures(self._snapshots.get(symbol))
            found.setdefault(symbol, {})[name] = figures
        return found


class Chain:
    """The deltas of one book as they follow each other, whether or not there is a snapshot."""

    def __init__(self, codec: BookCodec) -> None:
        self._codec = codec
        self._deltas: list[Delta] = []

    def frame(self, raw: bytes) -> None:
        """Note the ids of a frame; one that cannot be read has been counted by its stream."""
        try:
            deltas = items(self._codec.decode(raw).data)
        except DECODE_ERRORS:
            return
        for delta in deltas:
            self._deltas.append(Delta(delta.first, delta.last, delta.previous, delta.time, [], []))

    def figures(self, snapshot: Snapshot | None) -> dict[str, Any]:
        """Give what the chain says by itself and against the snapshot that made the book live."""
        follows = self._codec.follows
        gaps = sum(follows(a.last, b) is Follows.GAP for a, b in pairwise(self._deltas))
        found: dict[str, Any] = {"gaps_between_deltas": gaps}
        if snapshot is not None:
            later = (delta for delta in self._deltas if self._codec.splices(snapshot.last, delta) is not Follows.STALE)
            first = next(later, None)
            found |= {
                "snapshot_last_update_id": snapshot.last,
                "snapshot_levels": [len(snapshot.bids), len(snapshot.asks)],
                "first_applied_overlaps_snapshot": (
                    first is not None and self._codec.splices(snapshot.last, first) is Follows.NEXT
                ),
            }
        return found


class Shown:
    """What is shown of a channel of low-rate data: the venue's own figures, and what is said by the records."""

    def __init__(self, codec: RecordCodec, instrument: Instrument) -> None:
        self._codec = codec
        self._instrument = instrument
        self._count = 0
        self._times: list[int] = []
        self._rows: list[dict[str, Any]] = []
        self._last = b""
        self._rates: dict[str, None] = {}
        self._with_greeks = 0
        self._is_funding = self._is_kline = False

    def frame(self, raw: bytes, received: int) -> None:
        """Note a frame; one that cannot be read has been counted by its stream."""
        try:
            records = self._codec.decode(raw, lambda _: self._instrument, received)
        except DECODE_ERRORS:
            return
        self._count += 1
        self._last = raw
        for record in records:
            if isinstance(record, Kline):
                self._is_kline = True
                self._rows.append(self._shown(raw))
            elif isinstance(record, FundingRate):
                self._is_funding = len(records) == 1
                self._times.append(record.timestamp)
                if record.funding_rate is not None:
                    self._rates[record.funding_rate] = None
            elif isinstance(record, OptionGreeks):
                self._with_greeks += record.delta is not None

    def _shown(self, raw: bytes) -> dict[str, Any]:
        return {} if self._codec.shown is None else self._codec.shown(raw)

    def figures(self) -> dict[str, Any]:
        """Give the figures under their names."""
        found: dict[str, Any] = {"count": self._count, "last": self._shown(self._last) if self._count else {}}
        if self._is_kline:
            closed = [list(row.values())[:7] for row in self._rows if row.get("x")]
            opened = dict.fromkeys(row["t"] for row in self._rows if "t" in row)
            found |= {"closed": len(closed), "closed_candles": closed, "open_times": list(opened)}
        if self._is_funding:
            found |= {
                "first_E": self._times[0] // MS,
                "last_E": self._times[-1] // MS,
                "funding_rates": list(self._rates),
            }
        if self._with_greeks:
            found["with_greeks"] = self._with_greeks
        return found


class TradeSums:
    """Exact sums over the trades of one instrument."""

    def __init__(self) -> None:
        self.count = 0
        self.first: int | None = None
        self.last: int | None = None
        self.steps = 0
        self.quantity = Decimal(0)
        self.value = Decimal(0)
        self.sells = 0

    def add(self, sequence: int, price: Decimal, quantity: Decimal, maker: bool, count: int | None) -> None:
        """Add one trade; quantities in the venue's units."""
        if self.last is None:
            self.first = sequence
        elif sequence != self.last + 1:
            self.steps += 1
        self.last = sequence
        self.count += 1
        self.quantity += quantity
        self.value += price * quantity
        self.sells += maker

    def figures(self, stream: TradeStream, messages: int, digits: tuple[int, int]) -> dict[str, Any]:
        """Give the figures under their names; ``digits`` after the point is what the venue's texts add up to."""
        text = stream.codec.id_is_text

        def identity(value: int | None) -> int | str | None:
            return str(value) if text and value is not None else value

        found: dict[str, Any] = {
            "count": self.count,
            "first_id": identity(self.first),
            "last_id": identity(self.last),
            "id_steps_other_than_one": self.steps,
            "quantity_sum": _with_digits(self.quantity, digits[0]),
            "price_times_quantity_sum": _with_digits(self.value, digits[1]),
            "taker_sell_count": self.sells,
            "messages": messages,
            "missing": stream.missing,
            "duplicates": stream.duplicates,
            "errors": stream.decode_errors,
        }
        return found


def book_figures(stream: BookStream, messages: int) -> dict[str, Any]:
    """Give the figures of a book under their names."""
    sync = stream.sync
    counts = sync.counts
    found: dict[str, Any] = {"state": sync.state.value, "gaps": counts["gaps"], "errors": stream.decode_errors}
    if stream.codec.pushes_snapshot:
        found |= {
            "snapshots": counts["snapshots"],
            "updates": messages - counts["snapshots"] - stream.decode_errors,
            "changes": messages - counts["snapshots"] - stream.decode_errors,
            "last_change_id": sync.last,
            "unknown_level": sync.book.unknown_deletes,
            "applied": sync.applied,
            "dropped": counts["dropped"] + counts["stale"],
            "updates_before_snapshot": counts["dropped"],
            "checksum_matches": counts["checksums"],
            "checksum_mismatches": counts["checksum_mismatches"],
            "deletes_of_unknown_level": sync.book.unknown_deletes,
            "crossed": counts["crossed"],
            "crossed_after_message": counts["crossed"],
            "last_ts": str(sync.last_time),
        }
        if stream.codec.checksum is not None and sync.is_live:
            found["last_checksum"] = stream.codec.checksum(*sync.book.top(stream.codec.checksum_depth))
    else:
        found |= {
            "deltas": messages,
            "applied": sync.applied,
            "dropped": counts["dropped"] + counts["stale"],
            "dropped_as_older_than_snapshot": counts["dropped"] + counts["stale"],
            "crossed": counts["crossed"],
            "crossed_after_delta": counts["crossed"],
        }
        if not counts["snapshots"]:
            return found | {"snapshot": None}
    bids, asks = sync.book.levels()
    with localcontext() as context:
        context.prec = 100
        found |= {
            "last_update_id": sync.last,
            "best_bid": _level(bids),
            "best_ask": _level(asks),
            "bid_levels": len(bids),
            "ask_levels": len(asks),
            "bid_quantity_sum": _plain(sum((Decimal(level.quantity) for level in bids), Decimal(0))),
            "ask_quantity_sum": _plain(sum((Decimal(level.quantity) for level in asks), Decimal(0))),
            "top5": {"bids": _pairs(bids[:5]), "asks": _pairs(asks[:5])},
        }
    return found


def _plain(value: Decimal) -> str:
    return format(value, "f")


def _digits(text: str) -> int:
    return len(text.partition(".")[2])


def _with_digits(value: Decimal, digits: int) -> str:
    """Write so many digits after the point, and those beyond that are not 0."""
    whole, _, fraction = _plain(value).partition(".")
    fraction = fraction.rstrip("0").ljust(digits, "0")
    return f"{whole}.{fraction}" if fraction else whole


def _pairs(levels: Sequence[WireLevel]) -> list[list[str]]:
    return [[level.price, level.quantity] for level in levels]


def _level(levels: Sequence[WireLevel]) -> list[str] | None:
    return [levels[0].price, levels[0].quantity] if levels else None


def unknown_instrument(venue: Venue, symbol: str) -> Instrument:
    """Stand in for an instrument whose metadata was not recorded: the venue's own name and units."""
    return Instrument(
        exchange_name=venue.name,
        market_type=venue.market_types[0],
        symbol_name=symbol,
        venue_symbol=symbol,
        base=symbol,
        quote="",
        settle="",
        quantity_unit="base",
    )


def replay_file(path: Path, venues: Sequence[Venue], segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Replay a recording, segment by segment: nothing is carried over a border."""
    stem = stem_of(path)
    siblings = [path.with_name(f"{stem}.rest{suffix}") for suffix in SUFFIXES]
    rest_path = next((sibling for sibling in siblings if sibling.exists()), None)
    rest = list(read_lines(rest_path)) if rest_path is not None else []
    cut: list[str] = []
    lines = read_lines(path, cut)
    pending = next(lines, None)
    results = []
    for segment in segments:
        answers = _answers(rest, segment)
        replay = Replay(venues, _recorded_instruments(venues, answers))
        at = 0
        while pending is not None and (segment.last_line is None or pending[0] <= segment.last_line):
            number, line = pending
            pending = next(lines, None)
            if number < segment.first_line or line.dir != "in":
                continue
            at = _ns(line.t, at)
            while answers and _ns(answers[0].t, 0) <= at:
                answer = answers.pop(0)
                replay.rest(answer.url or "", answer.raw.encode(), at)
            replay.frame(line.raw.encode(), at)
        for answer in answers:
            replay.rest(answer.url or "", answer.raw.encode(), at)
        replay.finish(at)
        results.append(
            {
                "id": segment.name,
                "symbols": replay.figures(),
                "not_read": replay.unread,
                "errors": [*cut, *replay.errors[:20]],
            }
        )
        cut.clear()
    return results


def _answers(rest: Sequence[tuple[int, Line]], segment: Segment) -> list[Line]:
    if segment.rest_first_line is None:
        return []
    last = segment.rest_last_line
    chosen = [line for number, line in rest if number >= segment.rest_first_line and (last is None or number <= last)]
    return sorted(chosen, key=lambda line: _ns(line.t, 0))


def _recorded_instruments(venues: Sequence[Venue], answers: Sequence[Line]) -> dict[str, Instrument]:
    """Read instruments from recorded metadata answers."""
    found: dict[str, Instrument] = {}
    for answer in answers:
        path = urlsplit(answer.url or "").path
        for venue in venues:
            if any(request.path.rsplit("/", 1)[-1] == path.rsplit("/", 1)[-1] for request in venue.instrument_requests):
                for instrument in venue.decode_instruments(answer.raw.encode()):
                    if instrument.market_type in venue.market_types:
                        found[instrument.venue_symbol] = instrument
    return found


def _ns(t: Decimal | None, default: int) -> int:
    return default if t is None else int(t * 1_000_000_000)


def replay_folder(folder: Path) -> dict[str, Any]:
    """Replay every recording of a folder.

    Returns
    -------
    dict
        File name -> ``segments``, or ``types`` of single messages; with ``error`` where the file cannot be read.
    """
    expected = read_expected(folder)
    found: dict[str, Any] = {}
    for path, venues in recordings(folder).items():
        try:
            found[path.name] = {"segments": replay_file(path, venues, segments_of(path, expected))}
        except RecordingError as error:
            found[path.name] = {"segments": [], "error": str(error)}
    for path, venue in examples(folder).items():
        found[path.name] = read_examples(path, venue)
    return found


def read_examples(path: Path, venue: Venue) -> dict[str, Any]:
    """Read a file of single messages.

    Returns
    -------
    dict
        ``lines``; ``types``: how many messages were read to records of the type they are said to be (or are the
        error or heartbeat they are said to be); ``not_read``: the others, with the reason.
    """
    types: Counter[str] = Counter()
    not_read = []
    number = 0
    for number, line in read_lines(path):
        try:
            kind = kind_of(venue, line, lambda symbol: unknown_instrument(venue, symbol or "UNNAMED"))
        except MarketPrismError as error:
            not_read.append(f"line {number}: {line.type}: {error}")
            continue
        types[kind] += 1
    return {"lines": number, "types": dict(sorted(types.items())), "not_read": not_read}
