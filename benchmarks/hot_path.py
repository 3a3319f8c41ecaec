"""How fast messages become rows: ratios of one run, on recorded frames.

For each venue and kind, on one core, best of several passes over the same bytes:

- ``floor``: typed msgspec decode of the frame, nothing else. No reader of these bytes can be faster in Python.
- ``live``: decode, sequence check, book (no rows are kept).
- ``rows``: the whole hot path: decode, check, book, records as Arrow batches.
- ``cryptofeed``: that library's decode and book on the same bytes, if it is installed.

Run ``make bench``; ``--json`` prints figures for scripts.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import peers

from marketprism_ray.batching import Batcher
from marketprism_ray.book_stream import BookStream
from marketprism_ray.feed import Feed
from marketprism_ray.processes import settle_gc
from marketprism_ray.recording import Segment, read_expected, read_lines, segments_of, stem_of
from marketprism_ray.replay import unknown_instrument
from marketprism_ray.streams import Stream
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import BookCodec, Channel, Venue
from marketprism_ray.venues import VENUES

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"
PASSES = 7


@dataclass(frozen=True)
class Case:
    """Frames of one venue, kind and recording.

    Parameters
    ----------
    snapshots : body of the REST book of each symbol, for venues that do not push one
    """

    name: str
    venue: Venue
    channel: Channel
    symbols: tuple[str, ...]
    frames: list[bytes]
    snapshots: dict[str, bytes]

    @property
    def is_book(self) -> bool:
        """True for order books."""
        return isinstance(self.channel.codec, BookCodec)


CASES = (
    ("binance_spot", "trade", "binance_spot", "2024-08-08-btc", "trade"),
    ("binance_spot", "book, 7 symbols", "binance_spot", "2021-04-05", "depth@100ms"),
    ("binance_spot", "book, BTCUSDT", "binance_spot", "2024-08-08-btc", "depth@100ms"),
    ("binance_derivatives", "trade", "binance_usdm", "2024-08-08-btc", "trade"),
    ("binance_derivatives", "book, 5 symbols", "binance_usdm", "2021-04-05", "depth@100ms"),
    ("binance_derivatives", "book, BTCUSDT", "binance_usdm", "2024-08-08-btc", "depth@0ms"),
    ("binance_coinm", "trade", "binance_coinm", "2024-08-08-btc", "trade"),
    ("binance_coinm", "book, BTCUSD_PERP", "binance_coinm", "2024-08-08-btc", "depth@0ms"),
    ("okx_spot", "trade", "okx_v5", "2022-05-13", "trades"),
    ("okx_spot", "book, 3 symbols", "okx_v5", "2022-02-27", "books-l2-tbt"),
    ("deribit_derivatives", "book, 8 options", "deribit_v2", "2021-04-05", "book.raw"),
)
"""Venue, name, recording, segment, channel."""
RENUMBERED = 20_000
READ = 100
"""Frames between two looks at what is due."""


def cases(folder: Path) -> list[Case]:
    """Give the cases the recordings allow."""
    expected = read_expected(folder)
    files = {stem_of(path): path for path in folder.iterdir()}
    found = []
    for venue_name, name, stem, segment_name, channel_name in CASES:
        venue = VENUES[venue_name]
        channel = next(c for c in (*venue.channels, *venue.recorded_channels) if c.name == channel_name)
        path = files[stem]
        segment = next(s for s in segments_of(path, expected) if s.name == segment_name)
        frames, symbols = _frames(path, segment, venue, channel)
        snapshots: dict[str, bytes] = {}
        if isinstance(channel.codec, BookCodec) and not channel.codec.pushes_snapshot:
            snapshots = _snapshots(files[f"{stem}.rest"], segment, symbols)
            symbols = tuple(symbol for symbol in symbols if symbol in snapshots)
            frames = [frame for frame in frames if _symbol(venue, frame) in symbols]
        if venue.house == "okx":
            frames = _as_now(frames) if isinstance(channel.codec, BookCodec) else _renumbered(frames)
        elif venue.house == "deribit":
            frames *= 40  # it begins with snapshots, so it may begin again
        found.append(Case(f"{venue_name} {name}", venue, channel, symbols, frames, snapshots))
    return found


def _symbol(venue: Venue, frame: bytes) -> str:
    return venue.parse_key(venue.route(frame).decode())[1]


def _frames(path: Path, segment: Segment, venue: Venue, channel: Channel) -> tuple[list[bytes], tuple[str, ...]]:
    """Read the frames of one channel of the instruments that this venue has."""
    frames: list[bytes] = []
    symbols: dict[str, None] = {}
    for number, line in read_lines(path):
        if segment.last_line is not None and number > segment.last_line:
            break
        if number < segment.first_line or line.dir != "in" or line.channel != channel.name:
            continue
        frame = line.raw.encode()
        control = venue.control(frame) if b'"event"' in frame[:20] else None
        symbol = None if control is not None else _symbol(venue, frame)
        # One house may have several venues in a recording: spot symbols have two parts.
        if symbol is not None and (venue.name != "okx_spot" or symbol.count("-") == 1):
            symbols[symbol] = None
            frames.append(frame)
    return frames, tuple(symbols)


def _snapshots(path: Path, segment: Segment, symbols: Sequence[str]) -> dict[str, bytes]:
    """Read the REST books of a segment."""
    found = {}
    for number, line in read_lines(path):
        if segment.rest_first_line is None or not segment.rest_first_line <= number <= (
            segment.rest_last_line or 10**9
        ):
            continue
        symbol = parse_qs(urlsplit(line.url or "").query).get("symbol", [""])[0]
        if symbol in symbols and "depth" in (line.url or ""):
            found[symbol] = line.raw.encode()
    return found


def _renumbered(frames: Sequence[bytes]) -> list[bytes]:
    """Repeat a short recording with ids that go on, so that every frame is new to the sequence check."""
    pattern = re.compile(rb'"tradeId":"(\d+)"')
    frames = [frame for frame in frames if b'"BTC-USDT"' in frame and frame.count(b"tradeId") == 1]
    return [pattern.sub(b'"tradeId":"%d"' % (1_000_000 + i), frames[i % len(frames)]) for i in range(RENUMBERED)]


def _as_now(frames: Sequence[bytes]) -> list[bytes]:
    """Write frames as the venue does since 2026-06-23: checksum 0, and a sequence."""
    last: dict[bytes, int] = {}
    found = []
    for frame in frames:
        key = frame[: frame.index(b"}")]
        previous = last.get(key, -1) if b'"update"' in frame[:120] else -1
        last[key] = max(previous, 0) + 10
        text = b'"checksum":0,"seqId":%d,"prevSeqId":%d' % (last[key], previous)
        found.append(re.sub(rb'"checksum":-?\d+', text, frame))
    return found


def best(run: Callable[[], float], passes: int = PASSES) -> float:
    """Give the least seconds of several passes."""
    found = []
    for _ in range(passes):
        gc.collect()
        found.append(run())
    return min(found)


def floor(case: Case) -> float:
    """Time typed decoding of the data alone."""
    decode = peers.floor_decoder(case.venue.name, case.is_book)
    frames = case.frames

    def run() -> float:
        begin = time.perf_counter()
        for frame in frames:
            decode(frame)
        return time.perf_counter() - begin

    return best(run) / len(frames)


def ours(case: Case, *, rows: bool) -> float:
    """Time the feed on all frames; with ``rows`` batches are built as well."""

    def run() -> float:
        batcher = Batcher("bench", 0)
        streams: dict[str, Stream] = {}
        for symbol in case.symbols:
            instrument = unknown_instrument(case.venue, symbol)
            if case.is_book:
                streams[symbol] = BookStream(case.venue, case.channel, instrument, batcher, keep=5000, keep_deltas=rows)
            else:
                streams[symbol] = TradeStream(case.venue, case.channel, instrument, batcher)
        feed = Feed(case.venue, case.channel.endpoint, list(streams.values()))
        feed.opened(1)
        now = time.time_ns()
        waiting = dict(case.snapshots)
        frames = case.frames
        first = 0
        while waiting:
            # Deltas come before the snapshot they are held for.
            symbol = _symbol(case.venue, frames[first])
            feed.frame(frames[first], now)
            first += 1
            if symbol in waiting:
                stream = streams[symbol]
                assert isinstance(stream, BookStream)
                feed.snapshot(stream, waiting.pop(symbol), now)
        feed.actions.clear()
        handle = feed.frame
        seconds = 0.0
        for start in range(first, len(frames), READ):
            part = frames[start : start + READ]
            begin = time.perf_counter()
            for frame in part:
                handle(frame, now)
            if rows:
                # Closed at the limits of rows and bytes, as a busy collector does.
                batcher.drain(now, force=start + READ >= len(frames))
            seconds += time.perf_counter() - begin
            if not rows:
                for buffer in batcher._buffers:
                    buffer.take()
        for stream in streams.values():
            if isinstance(stream, BookStream):
                assert stream.sync.is_live, (stream.key, stream.sync.story)
                assert not stream.sync.counts["gaps"], stream.sync.story
            else:
                assert isinstance(stream, TradeStream)
                assert stream.frames
                assert not stream.missing
        return seconds / (len(frames) - first)

    return best(run)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recordings", type=Path, default=RECORDINGS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not arguments.recordings.is_dir():
        print(f"skipped: no recordings at {arguments.recordings}")
        return
    table: list[dict[str, Any]] = []
    settle_gc()  # as collectors do
    for case in cases(arguments.recordings):
        low, live, whole = floor(case), ours(case, rows=False), ours(case, rows=True)
        peer = peers.cryptofeed(case.venue.name, case.is_book, case.symbols, case.frames, case.snapshots)
        table.append(
            {
                "case": case.name,
                "frames": len(case.frames),
                "floor_us": low * 1e6,
                "live_us": live * 1e6,
                "rows_us": whole * 1e6,
                "rows_per_floor": whole / low,
                "messages_per_second": 1 / whole,
                "cryptofeed_us": peer and peer * 1e6,
                "live_faster_than_cryptofeed": peer and peer / live,
                "rows_faster_than_cryptofeed": peer and peer / whole,
            }
        )
    if arguments.json:
        print(json.dumps(table))
        return
    print("| case | floor µs | live µs | rows µs | rows / floor | messages/s/core | vs cryptofeed (live, rows) |")
    print("|---|---:|---:|---:|---:|---:|---|")
    for row in table:
        peer_text = "not installed"
        if row["cryptofeed_us"]:
            peer_text = f"{row['live_faster_than_cryptofeed']:.1f}x, {row['rows_faster_than_cryptofeed']:.1f}x faster"
        print(
            f"| {row['case']} | {row['floor_us']:.2f} | {row['live_us']:.2f} | {row['rows_us']:.2f} "
            f"| {row['rows_per_floor']:.1f} | {row['messages_per_second']:,.0f} | {peer_text} |"
        )


if __name__ == "__main__":
    main()
