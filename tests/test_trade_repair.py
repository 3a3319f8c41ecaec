"""Holes in trades: asked for until they are closed, closed by what is durable."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from conftest import instrument
from test_streams import SECOND, T0, Bench, asked, page, reconnected, trade

from marketprism_ray.batching import Batch, Batcher
from marketprism_ray.extents import Claim, Run
from marketprism_ray.feed import Feed, FetchTrades
from marketprism_ray.resume import OpenGap, Resume
from marketprism_ray.trade_repair import LARGE
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import Priority
from marketprism_ray.venues import VENUES

SPOT = VENUES["binance_spot"]
DERIBIT = VENUES["deribit_derivatives"]


class Confirmed(Bench):
    """A feed whose batches are durable when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.batcher = Batcher("c", 1, confirmed=True)
        self.trades = TradeStream(SPOT, SPOT.channel("trade"), instrument(), self.batcher)
        self.feed = self.new_feed()

    def new_feed(self, *, standby: bool = False) -> Feed:
        return Feed(SPOT, "public", [self.trades], standby=standby)

    def batches(self) -> list[Batch]:
        return self.batcher.drain(T0, force=True)


def gaps(batches: list[Batch]) -> list[tuple[Any, ...]]:
    names = ("status", "first_missing", "last_missing", "repaired_count")
    return [tuple(row[n] for n in names) for b in batches if b.data_type == "gap" for row in b.data.to_pylist()]


def test_a_hole_is_repaired_when_its_trades_are_durable_and_not_when_they_are_fetched() -> None:
    bench = Confirmed()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(5), T0)
    bench.feed.trades(bench.trades, page(2, 3, 4), T0)
    first = bench.batches()
    assert gaps(first) == [("open", 2, 4, 0)]
    assert [[(run.low, run.high) for run in b.claims[bench.trades.key].runs] for b in first if b.claims] == [
        [(1, 1), (5, 5)],
        [(2, 4)],
    ], "the live batch does not claim what was fetched, and the fetched one claims itself alone"
    for batch in first:
        assert bench.batches() == []
        bench.batcher.delivered(batch.claims, T0)
    assert gaps(bench.batches()) == [("repaired", 2, 4, 3)]


def test_pages_that_overlap_and_repeat_count_each_trade_once() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(7), T0)
    bench.feed.trades(bench.trades, page(2, 3, 3, 2), T0)
    bench.feed.trades(bench.trades, page(3, 3, 4), T0)
    found = gaps(bench.batcher.drain(T0, force=True)) + gaps(bench.batcher.drain(T0, force=True))
    assert found == [("open", 2, 6, 0)]
    bench.feed.trades(bench.trades, page(1, 2, 5, 5, 6, 7), T0)
    rows = bench.rows("gap")
    assert [(row["status"], row["missing_count"], row["repaired_count"]) for row in rows] == [("repaired", 5, 5)]


def test_a_repair_that_fails_is_tried_again_later_and_later_and_never_given_up() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(4), T0)
    now, waits = T0, []
    for _ in range(14):
        bench.feed.actions.clear()
        bench.feed.trades_failed(bench.trades, "timeout", now)
        began = now
        while not asked(bench):
            now += SECOND // 4
            bench.feed.frame(b'{"result":null,"id":1}', now)
            bench.feed.tick(now)
        waits.append(round((now - began) / SECOND))
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300, 300]
    bench.feed.trades(bench.trades, page(2, 3), now)
    assert [row["status"] for row in bench.rows("gap")] == ["open", "repaired"]


def test_a_new_hole_is_asked_for_while_another_waits() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(4), T0)
    bench.feed.trades_failed(bench.trades, "timeout", T0)
    bench.feed.actions.clear()
    bench.feed.frame(trade(6), T0)
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "5", "limit": "1"}]


def test_a_probe_goes_on_page_after_page_and_closes_no_more_than_it_has_fetched() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(5), T0)
    feed = reconnected(bench)
    feed.tick(T0 + 6 * SECOND)
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "6", "limit": "1000"}]
    feed.trades(bench.trades, page(*range(6, 1006)), T0)
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "1006", "limit": "1000"}]
    feed.trades(bench.trades, page(*range(1006, 1163)), T0)
    assert asked(bench) == []
    assert sorted(row["sequence"] for row in bench.rows("trade")) == list(range(5, 1163))
    assert (bench.trades.missing, bench.trades.repaired) == (1157, 1157)
    bench.feed.frame(trade(1163), T0)
    assert bench.trades.missing == 1157


def test_what_a_probe_skips_is_a_hole_like_any_other() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(5), T0)
    feed = reconnected(bench)
    feed.tick(T0 + 6 * SECOND)
    asked(bench)
    feed.trades(bench.trades, page(8, 9), T0)
    assert [(row["status"], row["first_missing"], row["last_missing"]) for row in bench.rows("gap")] == [("open", 6, 9)]
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "6", "limit": "2"}]
    feed.trades(bench.trades, page(6, 7), T0)
    assert [row["status"] for row in bench.rows("gap")] == ["repaired"]


def test_a_trade_that_comes_late_fills_its_hole_and_is_no_repeat() -> None:
    bench = Bench()
    bench.open()
    for t in (1, 3, 2, 3, 2, 4):
        bench.feed.frame(trade(t), T0)
    assert [row["sequence"] for row in bench.rows("trade")] == [1, 3, 2, 4]
    assert bench.trades.duplicates == 2
    assert [row["status"] for row in bench.rows("gap")] == []
    bench.feed.trades(bench.trades, page(2), T0)
    assert bench.rows("trade") == []


def test_many_small_holes_close_to_each_other_are_one_request() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(3), T0)
    asked(bench)
    for t in range(5, 21, 2):
        bench.feed.frame(trade(t), T0)
    bench.feed.trades(bench.trades, page(2), T0)
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "4", "limit": "15"}]
    bench.feed.trades(bench.trades, page(*range(4, 19)), T0)
    assert asked(bench) == []
    assert sorted(row["sequence"] for row in bench.rows("trade")) == list(range(1, 20))


def test_a_large_hole_gives_way_to_everything_else() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(LARGE + 10), T0)
    bench.feed.frame(trade(LARGE + 12), T0)
    (large,) = bench.actions(FetchTrades)
    assert large.request.priority is Priority.HISTORY
    asked(bench)
    bench.feed.trades(bench.trades, page(*range(2, 1002)), T0)
    assert [fetch["fromId"] for fetch in asked(bench)] == [str(LARGE + 11)], "the small one first"


def test_what_the_venue_keeps_no_longer_is_unrepairable_and_claimed() -> None:
    assert SPOT.trade_history is not None
    short = dataclasses.replace(SPOT, trade_history=dataclasses.replace(SPOT.trade_history, keeps_s=3600.0))
    batcher = Batcher("c", 1)
    stream = TradeStream(short, short.channel("trade"), instrument(), batcher)
    feed = Feed(short, "public", [stream])
    feed.opened(T0)
    feed.frame(b'{"result":null,"id":1}', T0)
    feed.frame(trade(1), T0)
    feed.frame(trade(5), T0)
    feed.trades(stream, page(3), T0)
    feed.actions.clear()
    feed.trades(stream, b"[]", T0 + 10 * SECOND)
    later = T0 + 3700 * SECOND
    feed.frame(b'{"result":null,"id":1}', later)
    feed.tick(later)
    feed.trades(stream, b"[]", later)
    batches = [b for _ in range(3) for b in batcher.drain(later, force=True)]
    assert gaps(batches) == [("open", 2, 4, 0), ("unrepairable", 2, 4, 1)]
    (claim,) = [b.claims for b in batches if b.data_type == "gap" and b.claims]
    assert [(run.low, run.high) for run in claim[stream.key].runs] == [(2, 4)]


def test_a_successor_takes_up_what_is_open_and_closes_it_under_its_own_key() -> None:
    bench = Confirmed()
    stored = Claim((Run(1, 10, T0, T0 + 10), Run(16, 20, T0 + 16, T0 + 20), Run(31, 40, T0 + 31, T0 + 40)))
    rows = (
        OpenGap(T0 + 8, T0 + 16, 9, 15, "disconnected"),
        OpenGap(T0 + 5, T0 + 9, 6, 8, "sequence"),
        OpenGap(T0 + 20, None, 21, None, "collector_lost"),
        OpenGap(T0 + 40, None, 41, None, "collector_lost"),
    )
    bench.trades.resume(Resume(40, T0 + 40, stored, rows))
    bench.open()
    assert gaps(bench.batches()) == [("repaired", 6, 8, 3)], "of which everything was stored already"
    bench.feed.frame(trade(41), T0)
    bench.feed.trades(bench.trades, page(*range(11, 31)), T0)
    bench.feed.trades(bench.trades, page(*range(21, 31)), T0)
    for _ in range(3):
        for batch in (batches := bench.batches()):
            bench.batcher.delivered(batch.claims, T0)
        if found := gaps(batches):
            assert found in ([("repaired", 41, 40, 0)], [("repaired", 9, 15, 7), ("repaired", 21, 30, 10)])


def test_the_coordinators_row_is_closed_by_what_comes_first() -> None:
    for comes in (11, 14):
        bench = Confirmed()
        stored = Claim((Run(1, 10, T0, T0),))
        bench.trades.resume(Resume(10, T0, stored, (OpenGap(T0, None, 11, None, "collector_lost"),)))
        bench.open()
        bench.feed.frame(trade(comes), T0)
        status = "repaired" if comes == 11 else "open"
        assert gaps(bench.batches()) == [(status, 11, comes - 1, 0)]


def test_a_late_repeat_after_taking_over_does_not_hide_the_hole() -> None:
    bench = Confirmed()
    bench.trades.resume(Resume(10, T0, Claim((Run(1, 10, T0, T0),))))
    bench.open()
    bench.feed.frame(trade(10), T0)
    bench.feed.frame(trade(11), T0)
    (batch,) = bench.batches()
    assert [(run.low, run.high) for run in batch.claims[bench.trades.key].runs] == [(11, 11)]
    assert bench.trades.duplicates == 1


def test_a_trade_that_is_refused_is_not_claimed_and_fetched_again_once() -> None:
    bench = Confirmed()
    bench.open()
    for t in (1, 2, 3):
        bench.feed.frame(trade(t, price="NaN" if t == 2 else "100"), T0)
    batches = bench.batches()
    (live,) = [b.claims[bench.trades.key] for b in batches if b.data_type == "trade"]
    assert [(run.low, run.high) for run in live.runs] == [(1, 1), (3, 3)]
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "2", "limit": "1"}]
    bench.feed.trades(bench.trades, page(2).replace(b'"price": "1"', b'"price": "NaN"'), T0)
    for batch in [*batches, *bench.batches()]:
        bench.batcher.delivered(batch.claims, T0)
    bench.trades.tick(T0)
    assert ("unrepairable", 2, 2, 0) in gaps(bench.batches())


@pytest.mark.parametrize("also", [frozenset({"liquidation"}), frozenset()])
def test_what_is_fetched_yields_liquidations_as_the_stream_would_have(also: frozenset[str]) -> None:
    item = instrument(exchange_name="deribit_derivatives", venue_symbol="BTC-PERPETUAL", symbol_name="BTC-USD-SWAP")
    batcher = Batcher("c", 1)
    stream = TradeStream(DERIBIT, DERIBIT.channel("trade"), item, batcher, also=also)
    feed = Feed(DERIBIT, "public", [stream])
    feed.opened(T0)

    def row(n: int, **more: str) -> dict[str, Any]:
        fixed = {"instrument_name": "BTC-PERPETUAL", "tick_direction": 1, "index_price": 10.0, "mark_price": 10.0}
        own = {"trade_seq": n, "trade_id": f"t{n}", "timestamp": 1_795_132_800_000 + n, "price": 10.5, "amount": 10.0}
        return {**fixed, **own, "contracts": 1.0, "direction": "sell", **more}

    for n in (1, 4):
        data = {"params": {"channel": "trades.BTC-PERPETUAL.100ms", "data": [row(n)]}}
        stream.frame(msgspec.json.encode(data), T0)
    page = {"result": {"trades": [row(2, liquidation="MT"), row(3)], "has_more": False}}
    feed.trades(stream, msgspec.json.encode(page), T0)
    found = [r for b in batcher.drain(T0, force=True) if b.data_type == "liquidation" for r in b.data.to_pylist()]
    expected = [("t2-M", "buy", "backfill"), ("t2-T", "sell", "backfill")] if also else []
    assert [(r["liquidation_id"], r["side"], r["source"]) for r in found] == expected
