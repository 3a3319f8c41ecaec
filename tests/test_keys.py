"""Natural keys are keys: two rows share one only if they say the same, or one is the newer word on the other.

Every recorded frame goes through the real decoders; rows are then grouped as ClickHouse does (sorting key, version)
and as JetStream does (message id), and both must keep the same.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections import defaultdict
from collections.abc import Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray import replay
from marketprism_ray.amounts import candle_revision, volume_order
from marketprism_ray.batching import Batch, Batcher
from marketprism_ray.book_stream import BookStream
from marketprism_ray.encoding import data_type_of, json_rows, message_ids, natural_keys
from marketprism_ray.errors import MarketPrismError
from marketprism_ray.instruments import Instrument
from marketprism_ray.messages import EXAMPLE_TIME, read_answer, read_frame
from marketprism_ray.recording import examples, read_expected, read_lines, recordings, segments_of
from marketprism_ray.records import (
    RECORDS,
    FundingRate,
    Kline,
    LsrTopPosition,
    OpenInterest,
    OptionGreeks,
    Record,
    Ticker,
    VolatilityIndex,
)
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.venue import Venue

SEEN_BY = ["receive_timestamp", "source"]
"""Columns that tell who saw a row and when: copies of one row may differ in them."""
PUBLISHED_EACH = 20
"""Frames between two published books: the recordings have too many to publish after each."""


class Kept:
    """What of a data type's rows ClickHouse and a reader of JetStream keep: natural key -> (version, row).

    ClickHouse keeps the row with the largest version, among equal ones the last. A reader of JetStream sees the first
    message of each id, and of one key keeps the one with the largest version.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self.stored: dict[str, tuple[int, str]] = {}
        self.heard: dict[str, tuple[int, str]] = {}
        self.rows = self.lost = 0
        ids: set[str] = set()
        by_version: dict[tuple[str, int], set[str]] = defaultdict(set)
        for batch in batches:
            version = RECORDS[data_type_of(batch)].version
            versions = batch[version].to_pylist() if version else [0] * batch.num_rows
            rows = json_rows(batch.drop_columns(SEEN_BY)).to_pylist()
            for key, identity, order, row in zip(
                natural_keys(batch).to_pylist(), message_ids(batch).to_pylist(), versions, rows, strict=True
            ):
                self.rows += 1
                by_version[key, order].add(row)
                if key not in self.stored or order >= self.stored[key][0]:
                    self.stored[key] = (order, row)
                if identity not in ids:
                    ids.add(identity)
                    if key not in self.heard or order > self.heard[key][0]:
                        self.heard[key] = (order, row)
        self.lost = sum(len(rows) - 1 for rows in by_version.values())
        """Distinct rows that share a key, and no version says which of them counts."""


@pytest.fixture(scope="module")
def recorded(recordings: Path) -> dict[str, list[pa.RecordBatch]]:
    """Give all rows of the recordings, by data type; books are published after every change."""
    return read_recordings(recordings)


def read_recordings(folder: Path) -> dict[str, list[pa.RecordBatch]]:
    found: dict[str, list[pa.RecordBatch]] = defaultdict(list)

    class Keeping(Batcher):
        def drain(self, now: int, *, force: bool = False) -> list[Batch]:
            batches = super().drain(now, force=force)
            for batch in batches:
                found[batch.data_type].append(batch.data)
            return batches

    class Publishing(replay.Replay):
        frames = 0

        def frame(self, raw: bytes, received: int) -> None:
            super().frame(raw, received)
            self.frames += 1
            if self.frames % PUBLISHED_EACH == 0:
                for stream in self.streams.values():
                    if isinstance(stream, BookStream):
                        stream.depth, stream.next_publish = 10, 0
                        stream.publish(received)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay, "Batcher", Keeping)
        patch.setattr(replay, "Replay", Publishing)
        expected = read_expected(folder)
        for path, venues in recordings(folder).items():
            replay.replay_file(path, venues, segments_of(path, expected))
    return found


@pytest.mark.parametrize(
    "data_type",
    ["trade", "orderbook", "orderbook_delta", "ticker", "kline", "funding_rate", "open_interest", "option_greeks"],
)
def test_no_two_recorded_rows_share_a_key_and_both_sinks_keep_the_same(
    recorded: dict[str, list[pa.RecordBatch]], data_type: str
) -> None:
    kept = Kept(recorded[data_type])
    assert kept.rows >= 99
    assert kept.lost == 0
    assert kept.stored == kept.heard


@pytest.fixture(scope="module")
def exemplary(recordings: Path) -> dict[str, list[pa.RecordBatch]]:
    """Give the rows of all captured single messages, by data type: those of documentations have made-up numbers."""
    found: dict[str, list[pa.RecordBatch]] = defaultdict(list)
    for path, venue in examples(recordings).items():
        statuses = [json.loads(text)["status"] for text in path.read_text().splitlines()]
        for number, line in read_lines(path):
            if not statuses[number - 1].startswith("captured"):
                continue

            def lookup(symbol: str, venue: Venue = venue) -> Instrument:
                return replay.unknown_instrument(venue, symbol or "UNNAMED")

            with contextlib.suppress(MarketPrismError):
                if line.channel != "rest":
                    batches = read_frame(venue, line.raw.encode(), lookup, EXAMPLE_TIME)
                elif line.url:
                    batches = read_answer(venue, line.url, line.raw.encode(), lookup, EXAMPLE_TIME)
                else:
                    continue
                for data_type, batch in batches.items():
                    found[data_type].append(batch)
    return found


@pytest.mark.parametrize("data_type", [name for name in RECORDS if name not in ("gap", "instrument")])
def test_no_two_rows_of_captured_messages_share_a_key(
    exemplary: dict[str, list[pa.RecordBatch]], data_type: str
) -> None:
    kept = Kept(exemplary[data_type])
    assert kept.rows > 0 or data_type == "volatility_index"  # nobody has captured one
    assert kept.lost == 0
    assert kept.stored == kept.heard


COMMON: dict[str, Any] = {
    "exchange_name": "x", "market_type": "perpetual", "symbol_name": "A-B-SWAP", "timestamp": 10**18,
    "receive_timestamp": 10**18, "source": "stream",
}  # fmt: skip
QUOTE: dict[str, Any] = {**COMMON, "content": "best_prices", "best_bid_price": "5", "best_bid_quantity": "1"}
RATIO: dict[str, Any] = {**COMMON, "source": "poll", "period": "5m"}
DVOL: dict[str, Any] = {**COMMON, "source": "poll", "index_name": "a_b", "resolution": "1m"}


def candle(**fields: Any) -> Kline:
    """Make a candle as a venue's decoder does that has nothing but the volume to go by."""
    values = {**COMMON, "is_closed": False, "close_price": "5", **fields}
    order = volume_order(values["volume"])
    return Kline(
        **values, interval="1m", open_time=1, close_time=2, open_price="1", high_price="1", low_price="1",
        revision=candle_revision(values["source"], is_closed=values["is_closed"], order=order),
    )  # fmt: skip


APART = {
    "best prices of one millisecond, numbered": (Ticker(**QUOTE, sequence=1), Ticker(**QUOTE, sequence=2)),
    "best prices of one millisecond, not numbered": (Ticker(**QUOTE), Ticker(**{**QUOTE, "best_bid_price": "6"})),
    "best prices and statistics": (
        Ticker(**QUOTE, sequence=7),
        Ticker(**COMMON, content="statistics", sequence=7, last_price="5"),
    ),
    "mark price and index price": (FundingRate(**COMMON, mark_price="5"), FundingRate(**COMMON, index_price="5")),
    "a rate that is expected and one that was charged": (
        FundingRate(**COMMON, funding_rate="0.1"),
        FundingRate(**{**COMMON, "source": "poll"}, funding_rate="0.1"),
    ),
    "open interest": (OpenInterest(**COMMON, open_interest="1"), OpenInterest(**COMMON, open_interest="2")),
    "greeks": (OptionGreeks(**COMMON, delta="1"), OptionGreeks(**COMMON, delta="2")),
    "volatility": (
        VolatilityIndex(**{**DVOL, "source": "stream", "resolution": "tick"}, value="0.5"),
        VolatilityIndex(**{**DVOL, "source": "stream", "resolution": "tick"}, value="0.6"),
    ),
}
"""Pairs of observations that fall in one millisecond."""
NEWER = {
    "a charged rate": [FundingRate(**{**COMMON, "source": s}, funding_rate=v, revision=r) for s, v, r in (
        ("backfill", "0.1", 0), ("poll", "0.2", 1 << 32 | 1))],
    "open interest": [OpenInterest(**{**COMMON, "source": "poll"}, open_interest=v, revision=r) for v, r in (
        ("1", 1 << 32 | 9), ("2", 2 << 32 | 1))],
    "a ratio": [LsrTopPosition(**RATIO, long_ratio=v, revision=r) for v, r in (("0.5", 1), ("0.6", 2))],
    "a candle of an index": [VolatilityIndex(**DVOL, value=v, revision=r) for v, r in (("0.5", 1), ("0.6", 2))],
    "a candle": [candle(**fields) for fields in (
        {"volume": "8"}, {"volume": "9"}, {"volume": "9", "is_closed": True, "source": "backfill"},
        {"volume": "9", "is_closed": True, "close_price": "6", "source": "stream"})],
}  # fmt: skip
"""Rows of one key, each the newer word on the one before."""


@pytest.mark.parametrize("rows", APART.values(), ids=APART)
def test_observations_of_one_moment_are_rows_of_their_own(rows: tuple[Record, Record]) -> None:
    kept = Kept([batch_from_records([row]) for row in (*rows, *rows)])
    assert (kept.lost, len(kept.stored), kept.stored) == (0, 2, kept.heard)


@pytest.mark.parametrize("rows", NEWER.values(), ids=NEWER)
def test_of_corrected_rows_the_newer_one_counts_in_whatever_order_they_arrive(rows: list[Record]) -> None:
    for order in itertools.permutations(rows):
        kept = Kept([batch_from_records([row]) for row in order])
        ((_, row),) = kept.stored.values()
        assert (kept.lost, kept.stored) == (0, kept.heard)
        assert row == json_rows(batch_from_records([rows[-1]]).drop_columns(SEEN_BY)).to_pylist()[0]


def test_a_digest_is_of_what_a_row_says_and_not_of_who_saw_it_when() -> None:
    rows = [
        OpenInterest(**COMMON, open_interest="1.50"),
        OpenInterest(**{**COMMON, "receive_timestamp": 5, "source": "poll"}, open_interest="1.5", revision=9),
        OpenInterest(**COMMON, open_interest_value="1.5"),
    ]
    one, same, other = batch_from_records(rows)["digest"].to_pylist()
    assert one == same != other
    assert 0 <= one < 2**48


@given(st.lists(st.decimals(0, Decimal("1e19"), places=8), min_size=2, max_size=2, unique=True).map(sorted))
def test_a_candle_with_more_volume_is_the_newer_one(volumes: list[Decimal]) -> None:
    low, high = (format(volume, "f") for volume in volumes)
    assert volume_order(low) <= volume_order(high) < 2**62
    if volumes[1] > volumes[0] * (1 + Decimal(2) ** -50):
        assert volume_order(low) < volume_order(high)
