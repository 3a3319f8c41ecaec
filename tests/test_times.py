"""Times in a wrong unit are refused and written down, not wrapped to the year 2153."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from conftest import instrument
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray import columns
from marketprism_ray.batching import AHEAD_NS, EARLIEST_NS, Batcher
from marketprism_ray.book_stream import BookStream
from marketprism_ray.feed import Feed
from marketprism_ray.streams import Stream
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venues import VENUES

SPOT = VENUES["binance_spot"]
MS = 1_795_132_800_000
NOW = (MS + 50) * 10**6
WRONG = {"s": MS // 1000, "µs": MS * 1000, "ns": MS * 10**6}


@pytest.fixture(params=["compiled", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make columns in both ways."""
    if request.param == "python":
        for name in ("trade_columns", "delta_columns"):
            monkeypatch.setattr(f"marketprism_ray.batching.{name}", getattr(columns, name))
    return str(request.param)


def feed() -> tuple[Feed, TradeStream, BookStream, Batcher]:
    batcher = Batcher("c", 1)
    trades = TradeStream(SPOT, SPOT.channel("trade"), instrument(), batcher)
    book = BookStream(SPOT, SPOT.channel("orderbook"), instrument(), batcher, keep=None)
    made = Feed(SPOT, "public", [trades, book])
    made.opened(NOW)
    return made, trades, book, batcher


def trade(sequence: int, time: int) -> bytes:
    data = {"e": "trade", "E": time, "s": "BTCUSDT", "t": sequence, "p": "5", "q": "1", "T": time, "m": True}
    return json.dumps({"stream": "btcusdt@trade", "data": data}, separators=(",", ":")).encode()


def change(first: int, last: int, time: int) -> bytes:
    data = {"e": "depthUpdate", "E": time, "s": "BTCUSDT", "U": first, "u": last, "b": [["5", "1"]], "a": []}
    return json.dumps({"stream": "btcusdt@depth@100ms", "data": data}, separators=(",", ":")).encode()


def rows(batcher: Batcher) -> dict[str, list[dict[str, Any]]]:
    """Give all rows by data type, also those that closing a batch has brought about; times as ns."""
    found: dict[str, list[dict[str, Any]]] = {}
    for batch in [*batcher.drain(NOW, force=True), *batcher.drain(NOW, force=True)]:
        data = pa.Table.from_batches([batch.data])
        for name in data.column_names:
            if pa.types.is_timestamp(data.schema.field(name).type):
                at = data.schema.get_field_index(name)
                data = data.set_column(at, name, data.column(name).cast(pa.int64()))
        found.setdefault(batch.data_type, []).extend(data.to_pylist())
        for run in (run for claim in batch.claims.values() for run in claim.runs):
            assert EARLIEST_NS <= run.began <= NOW + AHEAD_NS
            assert EARLIEST_NS <= run.ended <= NOW + AHEAD_NS
    return found


@pytest.mark.parametrize("unit", WRONG)
def test_a_trade_whose_time_is_in_another_unit_is_a_hole_of_its_own(unit: str, way: str) -> None:
    made, trades, _, batcher = feed()
    for frame in (trade(1, MS), trade(2, WRONG[unit]), trade(3, MS + 2)):
        made.frame(frame, NOW)
    found = rows(batcher)
    assert [row["sequence"] for row in found["trade"]] == [1, 3]
    (gap,) = [row for row in found["gap"] if row["reason"] == "malformed"]
    assert (gap["first_missing"], gap["last_missing"]) == (2, 2)
    assert gap["opened_at"] <= NOW + AHEAD_NS
    assert trades.decode_errors == 1
    assert "unit" in trades.last_error


def test_the_error_names_the_field_and_by_how_much_it_is_wrong() -> None:
    made, trades, _, batcher = feed()
    made.frame(trade(1, MS // 1000), NOW)
    rows(batcher)
    assert f"timestamp {MS // 1000 * 10**6} ns is 10^3 times too small" in trades.last_error
    made.frame(trade(2, MS * 1000), NOW)
    rows(batcher)
    assert "unit is not 1,000,000 ns" in trades.last_error


@pytest.mark.parametrize("unit", WRONG)
def test_a_book_change_whose_time_is_in_another_unit_takes_the_book_off_the_air(unit: str, way: str) -> None:
    made, _, book, batcher = feed()
    made.frame(change(6, 6, MS), NOW)
    made.snapshot(book, b'{"lastUpdateId":5,"bids":[],"asks":[]}', NOW)
    assert book.sync.is_live
    made.frame(change(7, 7, WRONG[unit]), NOW)
    found = rows(batcher)
    assert [row["last_update_id"] for row in found["orderbook_delta"]] == [5, 6]
    assert not book.sync.is_live
    change_7, rest = found["gap"]
    assert (change_7["reason"], change_7["first_missing"], change_7["last_missing"]) == ("malformed", 7, 7)
    assert (rest["reason"], rest["first_missing"], rest["status"]) == ("malformed", 8, "open")
    assert all(gap["opened_at"] <= NOW + AHEAD_NS for gap in found["gap"])


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_whatever_time_a_venue_sends_what_is_stored_is_sane_and_nothing_vanishes(time: int, later: int) -> None:
    made, _, _, batcher = feed()
    made.frame(trade(1, MS), NOW)
    made.frame(trade(2, time), NOW)
    made.frame(trade(3, MS + later % 1000), NOW)
    found = rows(batcher)
    stored = {row["sequence"] for row in found["trade"]}
    holes = {n for row in found.get("gap", ()) for n in range(row["first_missing"], (row["last_missing"] or 2) + 1)}
    assert stored | holes >= {1, 2, 3}
    assert all(EARLIEST_NS <= row["timestamp"] <= NOW + AHEAD_NS for row in found["trade"])


def test_rows_that_waited_are_judged_by_their_own_receipt() -> None:
    batcher = Batcher("c", 1)
    stream = TradeStream(SPOT, SPOT.channel("trade"), instrument(), batcher)
    Feed(SPOT, "public", [stream]).opened(NOW)
    day = 86_400_000
    for n in range(3):
        stream.frame(trade(n, MS + 2 * n * day), NOW + 2 * n * day * 10**6)
    (batch,) = [b for b in batcher.drain(NOW, force=True) if b.data_type == "trade"]
    assert batch.data.num_rows == 3
    assert isinstance(stream, Stream)
