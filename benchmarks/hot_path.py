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

import peers

from marketprism_ray.batching import Batcher
from marketprism_ray.book_stream import BookStream
from marketprism_ray.feed import Feed, FetchSnapshot
from marketprism_ray.processes import settle_gc
from marketprism_ray.recording import read_lines
from marketprism_ray.replay import unknown_instrument
from marketprism_ray.streams import Stream
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import BookCodec, Channel, TradeCodec, Venue
from marketprism_ray.venues import VENUES

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"
PASSES = 7


@dataclass(frozen=True)
class Case:
    """Frames of one venue and kind."""

    venue: Venue
    channel: Channel
    symbol: str
    frames: list[bytes]
    snapshot: bytes | None = None


def frames_of(path: Path, channel: str, symbol: str, first: int, last: int) -> list[bytes]:
    """Read the frames of one channel and symbol from a range of lines."""
    found = []
    for number, line in read_lines(path):
        if number > last:
            break
        wanted = number >= first and line.dir == "in" and line.channel == channel and symbol in line.raw
        if wanted and not line.raw.startswith('{"event"'):
            found.append(line.raw.encode())
    return found


def renumbered(frames: Sequence[bytes], count: int) -> list[bytes]:
    """Repeat a short recording with ids that go on, so that every frame is new to the sequence check."""
    pattern = re.compile(rb'"tradeId":"(\d+)"')
    found = []
    for i in range(count):
        found.append(pattern.sub(b'"tradeId":"%d"' % (1_000_000 + i), frames[i % len(frames)]))
    return found


def channel_of(venue: Venue, name: str) -> Channel:
    """Find a channel by the venue's name."""
    return next(c for c in (*venue.channels, *venue.recorded_channels) if c.name == name)


def cases(folder: Path) -> list[Case]:
    """Give the cases the recordings allow."""
    spot, okx = VENUES["binance_spot"], VENUES["okx_spot"]
    file = folder / "binance_spot.jsonl.gz"
    rest = [line for _, line in read_lines(folder / "binance_spot.rest.jsonl.gz")]
    okx_file = folder / "okx_v5.jsonl.gz"
    okx_trades = renumbered(frames_of(okx_file, "trades", "BTC-USDT", 3781, 4092), 20_000)
    return [
        Case(spot, channel_of(spot, "trade"), "BTCUSDT", frames_of(file, "trade", "btcusdt", 12_781, 112_353)),
        Case(
            spot,
            channel_of(spot, "depth@100ms"),
            "BTCUSDT",
            frames_of(file, "depth@100ms", "btcusdt", 12_781, 112_353),
            rest[23].raw.encode(),
        ),
        Case(okx, channel_of(okx, "trades"), "BTC-USDT", okx_trades),
        Case(
            okx,
            channel_of(okx, "books-l2-tbt"),
            "ELON-USDT",
            [_without_checksum(f) for f in frames_of(okx_file, "books-l2-tbt", "ELON-USDT", 1, 3780)],
        ),
    ]


def _without_checksum(frame: bytes) -> bytes:
    """Write the frame as the venue does since 2026-06-23, with the constant 0."""
    return re.sub(rb'"checksum":-?\d+', b'"checksum":0', frame)


def best(run: Callable[[], float], passes: int = PASSES) -> float:
    """Give the least seconds of several passes."""
    found = []
    for _ in range(passes):
        gc.collect()
        found.append(run())
    return min(found)


def floor(case: Case) -> float:
    """Time typed decoding of the data alone."""
    codec = case.channel.codec
    assert isinstance(codec, TradeCodec | BookCodec)
    decode = peers.floor_decoder(case.venue.house, isinstance(codec, BookCodec))
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
        instrument = unknown_instrument(case.venue, case.symbol)
        stream: Stream
        if isinstance(case.channel.codec, TradeCodec):
            stream = TradeStream(case.venue, case.channel, instrument, batcher)
        else:
            stream = BookStream(case.venue, case.channel, instrument, batcher, keep=5000, keep_deltas=rows)
        feed = Feed(case.venue, case.channel.endpoint, [stream])
        feed.opened(1)
        feed.actions.clear()
        now = time.time_ns()
        if case.snapshot is not None:
            feed.frame(case.frames[0], now)
            assert isinstance(stream, BookStream)
            assert isinstance(feed.actions[-1], FetchSnapshot)
            feed.snapshot(stream, case.snapshot, now)
        handle = feed.frame
        frames = case.frames
        begin = time.perf_counter()
        if rows:
            for start in range(0, len(frames), 2_000):
                for frame in frames[start : start + 2_000]:
                    handle(frame, now)
                batcher.drain(now, force=True)
        else:
            for start in range(0, len(frames), 2_000):
                for frame in frames[start : start + 2_000]:
                    handle(frame, now)
                for buffer in batcher._buffers:
                    buffer.take()
        seconds = time.perf_counter() - begin
        if isinstance(stream, BookStream):
            assert stream.sync.is_live, stream.sync.story
        else:
            assert isinstance(stream, TradeStream)
            assert stream.frames == len(frames)
            assert not stream.missing
        return seconds

    return best(run) / len(case.frames)


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
        kind = "trade" if isinstance(case.channel.codec, TradeCodec) else "book"
        low, live, whole = floor(case), ours(case, rows=False), ours(case, rows=True)
        peer = peers.cryptofeed(case.venue.house, kind, case.symbol, case.frames, case.snapshot)
        table.append(
            {
                "venue": case.venue.name,
                "kind": kind,
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
    print(
        "| venue | kind | floor µs | live µs | rows µs | rows / floor | messages/s/core | vs cryptofeed (live, rows) |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---|")
    for row in table:
        peer_text = "not installed"
        if row["cryptofeed_us"]:
            peer_text = f"{row['live_faster_than_cryptofeed']:.1f}x, {row['rows_faster_than_cryptofeed']:.1f}x faster"
        print(
            f"| {row['venue']} | {row['kind']} | {row['floor_us']:.2f} | {row['live_us']:.2f} | {row['rows_us']:.2f} "
            f"| {row['rows_per_floor']:.1f} | {row['messages_per_second']:,.0f} | {peer_text} |"
        )


if __name__ == "__main__":
    main()
