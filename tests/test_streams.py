from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import instrument

from marketprism_ray.batching import Batch, Batcher, BatchLimits
from marketprism_ray.book_stream import BookStream
from marketprism_ray.extents import Claim, Run
from marketprism_ray.feed import Feed, FeedSettings, FetchSnapshot, FetchTrades, Finished, Reconnect, Replace, Send
from marketprism_ray.resume import OpenGap, Resume
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venues import VENUES

SPOT = VENUES["binance_spot"]
OKX = VENUES["okx_spot"]
SECOND = 1_000_000_000
T0 = 1_795_132_800 * SECOND


def trade(t: int, *, price: str = "100", symbol: str = "btcusdt", at: int | None = None) -> bytes:
    """Give a trade; ``at`` is its second after the beginning, else it is as many ms after it as its id says."""
    time = 1_795_132_800_000 + (t if at is None else at * 1000)
    data = {"e": "trade", "s": "BTCUSDT", "t": t, "p": price, "q": "0.5", "T": time, "m": True}
    return json.dumps({"stream": f"{symbol}@trade", "data": data}, separators=(",", ":")).encode()


def depth(first: int, last: int) -> bytes:
    data = {
        "e": "depthUpdate",
        "E": 1_795_132_800_000,
        "s": "BTCUSDT",
        "U": first,
        "u": last,
        "b": [["9", "1"]],
        "a": [],
    }
    return json.dumps({"stream": "btcusdt@depth@100ms", "data": data}, separators=(",", ":")).encode()


SNAPSHOT = b'{"lastUpdateId":5,"bids":[["8","1"]],"asks":[["11","1"]]}'


def after(last: int) -> Resume:
    """Give what a successor hears of a predecessor that came so far, and of the row about it."""
    gap = OpenGap(T0, None, last + 1, None, "collector_lost")
    return Resume(last, T0, Claim((Run(1, last, T0, T0),)), (gap,))


class Bench:
    """A feed with one trade and one book stream."""

    def __init__(self, resume: int | None = None) -> None:
        self.batcher = Batcher("c", 1)
        item = instrument()
        self.trades = TradeStream(SPOT, SPOT.channel("trade"), item, self.batcher)
        self.book = BookStream(SPOT, SPOT.channel("orderbook"), item, self.batcher, keep=100, interval_s=1)
        if resume is not None:
            self.trades.resume(after(resume))
            self.book.resume(after(3))
        self.feed = self.new_feed()

    def new_feed(self, *, standby: bool = False) -> Feed:
        return Feed(SPOT, "public", [self.trades, self.book], FeedSettings(), standby=standby)

    def open(self) -> None:
        self.feed.opened(T0)
        self.feed.frame(b'{"result":null,"id":1}', T0)

    def actions(self, kind: type) -> list[Any]:
        return [action for action in self.feed.actions if isinstance(action, kind)]

    def rows(self, data_type: str) -> list[dict[str, Any]]:
        batches: list[Batch] = [*self.batcher.drain(T0, force=True), *self.batcher.drain(T0, force=True)]
        return [row for batch in batches if batch.data_type == data_type for row in batch.data.to_pylist()]


def test_subscribing_asks_for_all_streams_and_a_snapshot() -> None:
    bench = Bench()
    bench.open()
    (send,) = bench.actions(Send)
    assert json.loads(send.text) == {"method": "SUBSCRIBE", "params": ["btcusdt@trade", "btcusdt@depth@100ms"], "id": 1}
    (fetch,) = bench.actions(FetchSnapshot)
    assert fetch.request.params == {"symbol": "BTCUSDT", "limit": "5000"}


def test_a_hole_in_the_trade_ids_is_written_down_and_fetched_and_closed() -> None:
    bench = Bench()
    bench.open()
    for t in (7, 8, 11):
        bench.feed.frame(trade(t), T0 + t)
    (fetch,) = bench.actions(FetchTrades)
    assert fetch.request.params["fromId"] == "9"
    page = [{"id": n, "price": "1", "qty": "1", "time": 1_795_132_800_000 + n, "isBuyerMaker": False} for n in (9, 10)]
    bench.feed.trades(bench.trades, json.dumps(page).encode(), T0 + 20)
    batches = [*bench.batcher.drain(T0, force=True), *bench.batcher.drain(T0, force=True)]
    rows = [row for batch in batches if batch.data_type == "trade" for row in batch.data.to_pylist()]
    assert sorted((row["sequence"], row["source"]) for row in rows) == [
        (7, "stream"), (8, "stream"), (9, "backfill"), (10, "backfill"), (11, "stream")]  # fmt: skip
    gaps = [row for batch in batches if batch.data_type == "gap" for row in batch.data.to_pylist()]
    assert [(g["status"], g["first_missing"], g["last_missing"], g["repaired_count"]) for g in gaps] == [
        ("open", 9, 10, 0), ("repaired", 9, 10, 2)]  # fmt: skip


def test_a_gap_the_venue_cannot_fill_stays_open() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(5), T0)
    bench.feed.trades(bench.trades, b"[]", T0)
    assert [row["status"] for row in bench.rows("gap")] == ["open"]


def test_repeated_and_reordered_trades_are_dropped_and_counted() -> None:
    bench = Bench()
    bench.open()
    for t in (1, 2, 2, 1, 3):
        bench.feed.frame(trade(t), T0)
    assert [row["sequence"] for row in bench.rows("trade")] == [1, 2, 3]
    assert bench.trades.duplicates == 2


@pytest.mark.parametrize("price", ["NaN", "1e400", "-5", "0", "", "0.0000000000000000001"])
def test_an_absurd_price_is_one_malformed_gap_and_no_other_row_is_lost(price: str) -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(2, price=price), T0)
    bench.feed.frame(trade(3), T0)
    first = bench.batcher.drain(T0, force=True)
    assert [row["sequence"] for b in first if b.data_type == "trade" for row in b.data.to_pylist()] == [1, 3]
    assert "btc" in bench.trades.last_error.lower()
    gaps = [row for b in first if b.data_type == "gap" for row in b.data.to_pylist()]
    assert [(g["reason"], g["first_missing"]) for g in gaps] == [("malformed", 2)]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"<html>no</html>",
        b"[]",
        b"null",
        b'{"stream":"x@trade","data":{}}',
        b'{"stream":1}',
        b"\xff\xfe",
        b"5" * 5000,
    ],
)
def test_frames_that_make_no_sense_are_counted_and_harm_nobody(raw: bytes) -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(raw, T0)
    bench.feed.frame(trade(2), T0)
    assert [row["sequence"] for row in bench.rows("trade")] == [1, 2]
    assert bench.feed.counts["errors"] + bench.feed.counts["unknown"] == 1
    assert len(bench.feed.last_errors) == 1


def test_a_frame_with_wrong_types_is_counted_and_shows_as_a_malformed_gap() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(2).replace(b'"t":2', b'"t":"two"'), T0)
    bench.feed.frame(trade(3), T0)
    assert bench.trades.decode_errors == 1
    assert [(g["reason"], g["first_missing"], g["last_missing"]) for g in bench.rows("gap")] == [("malformed", 2, 2)]


def test_after_a_reconnect_only_what_is_missing_is_a_gap() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    for expected, t in (([], 2), ([("disconnected", 3)], 5)):
        bench.feed.closed("disconnected", T0)
        bench.feed = bench.new_feed()
        bench.open()
        bench.feed.frame(trade(t), T0)
        assert [(g["reason"], g["first_missing"]) for g in bench.rows("gap") if g["data_type"] == "trade"] == expected


def test_a_successor_names_what_its_predecessor_lost() -> None:
    bench = Bench(resume=10)
    bench.open()
    bench.feed.frame(trade(13), T0)
    gaps = [(g["data_type"], g["reason"], g["first_missing"], g["last_missing"]) for g in bench.rows("gap")]
    assert ("trade", "collector_lost", 11, 12) in gaps
    assert ("orderbook_delta", "collector_lost", 4, None) in gaps


def test_a_successor_that_missed_nothing_closes_the_hole_the_coordinator_wrote_down() -> None:
    bench = Bench(resume=10)
    bench.open()
    bench.feed.frame(trade(11), T0)
    gaps = [
        (g["status"], g["first_missing"], g["missing_count"]) for g in bench.rows("gap") if g["data_type"] == "trade"
    ]
    assert gaps == [("repaired", 11, 0)]


def test_a_book_is_published_at_its_interval_only_if_live_and_changed() -> None:
    bench = Bench()
    bench.open()
    bench.feed.tick(T0)
    assert bench.rows("orderbook") == []
    bench.feed.snapshot(bench.book, SNAPSHOT, T0)
    bench.feed.frame(depth(6, 6), T0)
    bench.feed.tick(T0 + SECOND)
    bench.feed.frame(depth(7, 7), T0)
    bench.feed.tick(T0 + SECOND * 3 // 2)
    assert [row["last_update_id"] for row in bench.rows("orderbook")] == [6]
    bench.feed.tick(T0 + 2 * SECOND)
    bench.feed.tick(T0 + 4 * SECOND)
    assert [row["last_update_id"] for row in bench.rows("orderbook")] == [7]
    bench.feed.frame(depth(9, 9), T0)  # a gap
    bench.feed.tick(T0 + 9 * SECOND)
    assert bench.rows("orderbook") == []


def test_stored_changes_name_the_book_they_continue() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(depth(4, 6), T0)
    bench.feed.snapshot(bench.book, SNAPSHOT, T0)
    bench.feed.frame(depth(7, 9), T0)
    rows = bench.rows("orderbook_delta")
    assert [(r["is_snapshot"], r["previous_update_id"], r["last_update_id"]) for r in rows] == [
        (True, -1, 5), (False, 5, 6), (False, 6, 9)]  # fmt: skip


def test_a_malformed_snapshot_is_asked_for_again_later() -> None:
    bench = Bench()
    bench.open()
    bench.feed.actions.clear()
    bench.feed.snapshot(bench.book, b"<html>", T0)
    (fetch,) = bench.actions(FetchSnapshot)
    assert fetch.not_before == T0 + SECOND


def test_an_unanswered_subscription_and_a_silent_stream_are_tried_again_by_name() -> None:
    bench = Bench()
    bench.feed.opened(T0)
    bench.feed.actions.clear()
    bench.feed.tick(T0 + 16 * SECOND)
    (send,) = bench.actions(Send)
    assert json.loads(send.text)["params"] == ["btcusdt@trade", "btcusdt@depth@100ms"]
    bench.feed.frame(b'{"result":null,"id":2}', T0 + 16 * SECOND)
    bench.feed.actions.clear()
    bench.feed.tick(T0 + 37 * SECOND)  # twice the first patience: one alarm has been
    methods = [json.loads(send.text)["method"] for send in bench.actions(Send)]
    assert methods == ["UNSUBSCRIBE", "SUBSCRIBE"]
    assert "binance_spot/orderbook/BTC-USDT: silent" in bench.feed.last_errors[-1]


def test_a_dead_socket_is_given_up_and_a_notice_is_followed_by_a_replacement() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}', T0)
    assert len(bench.actions(Replace)) == 1
    bench.feed.tick(T0 + SECOND)
    bench.feed.tick(T0 + 700 * SECOND)
    assert len(bench.actions(Reconnect)) == 1


def test_okx_refusals_name_the_stream_and_are_tried_again_after_a_while() -> None:
    item = instrument(exchange_name="okx_spot", venue_symbol="BTC-USDX", symbol_name="BTC-USDX")
    stream = TradeStream(OKX, OKX.channel("trade"), item, Batcher("c", 1))
    feed = Feed(OKX, "business", [stream])
    feed.opened(T0)
    feed.frame(
        b'{"event":"error","code":"60018","msg":"Wrong URL or channel:trades-all,instId:BTC-USDX doesn\'t exist."}', T0
    )
    assert list(feed.refused_streams) == ["okx_spot/trade/BTC-USDX"]
    feed.actions.clear()
    feed.frame(b"pong", T0 + 30 * SECOND)
    feed.tick(T0 + 30 * SECOND)
    assert not [a for a in feed.actions if isinstance(a, Send)]
    feed.tick(T0 + 61 * SECOND)
    assert any("BTC-USDX" in a.text for a in feed.actions if isinstance(a, Send))


def test_a_quiet_okx_socket_is_pinged() -> None:
    stream = TradeStream(OKX, OKX.channel("trade"), instrument(exchange_name="okx_spot"), Batcher("c", 1))
    feed = Feed(OKX, "business", [stream])
    feed.opened(T0)
    feed.actions.clear()
    feed.tick(T0 + 21 * SECOND)
    assert [a.text for a in feed.actions if isinstance(a, Send) and a.text == "ping"] == ["ping"]


def test_planned_replacement_loses_and_doubles_nothing() -> None:
    bench = Bench()
    bench.open()
    bench.feed.snapshot(bench.book, SNAPSHOT, T0)
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(depth(6, 6), T0)
    second = bench.new_feed(standby=True)
    second.opened(T0)
    second.frame(b'{"result":null,"id":1}', T0)
    second.frame(trade(3), T0)  # ahead of the first socket
    second.frame(depth(7, 7), T0)
    second.snapshot(bench.book, SNAPSHOT.replace(b"5", b"6"), T0)
    second.tick(T0 + SECOND)
    assert Finished() not in second.actions, "trade 2 is still to come on the first socket"
    bench.feed.frame(trade(2), T0)
    bench.feed.frame(depth(7, 7), T0)
    second.tick(T0 + 2 * SECOND)
    assert Finished() in second.actions
    bench.feed.closed("replaced", T0)
    second.frame(trade(3), T0)
    second.frame(trade(4), T0)
    second.frame(depth(8, 8), T0)
    assert bench.book.sync.is_live
    batches = bench.batcher.drain(T0, force=True)
    assert [row["sequence"] for b in batches if b.data_type == "trade" for row in b.data.to_pylist()] == [1, 2, 3, 4]
    assert [b for b in batches if b.data_type == "gap"] == []
    assert bench.book.sync.last == 8


def test_batches_close_by_rows_bytes_and_age_and_are_numbered() -> None:
    batcher = Batcher("okx#0", 3, BatchLimits(rows=3, bytes=10**9, age_s=1.0))
    stream = TradeStream(SPOT, SPOT.channel("trade"), instrument(), batcher)
    feed = Feed(SPOT, "public", [stream])
    feed.opened(T0)
    feed.frame(trade(1), T0)
    assert batcher.drain(T0 + SECOND // 2) == []
    (by_age,) = batcher.drain(T0 + SECOND)
    for t in (2, 3, 4):
        feed.frame(trade(t), T0 + SECOND)
    (by_rows,) = batcher.drain(T0 + SECOND)
    assert (by_age.batch_id, by_rows.batch_id) == ("okx#0/3/1", "okx#0/3/2")
    began, ended = (1_795_132_800_000_000_000 + t * 1_000_000 for t in (2, 4))
    assert by_rows.claims == {"binance_spot/trade/BTC-USDT": Claim((Run(2, 4, began, ended),))}


def test_a_repair_whose_connection_ended_is_asked_for_again_by_the_next_one() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(1), T0)
    bench.feed.frame(trade(4), T0)
    assert len(bench.actions(FetchTrades)) == 1
    bench.feed.closed("disconnected", T0)
    bench.feed = bench.new_feed()
    bench.open()
    (fetch,) = bench.actions(FetchTrades)
    assert (fetch.request.params["fromId"], fetch.request.params["limit"]) == ("2", "2")


def page(*ids: int) -> bytes:
    return json.dumps(
        [{"id": i, "price": "1", "qty": "2", "time": 1_795_132_800_000 + i, "isBuyerMaker": True} for i in ids]
    ).encode()


def reconnected(bench: Bench) -> Feed:
    """Lose the connection and open another one."""
    bench.feed.closed("disconnected", T0)
    feed = bench.feed = bench.new_feed()
    bench.open()
    feed.actions.clear()
    return feed


def asked(bench: Bench) -> list[dict[str, str]]:
    found = [dict(action.request.params) for action in bench.actions(FetchTrades)]
    bench.feed.actions.clear()
    return found


def test_a_quiet_stream_asks_after_a_reconnect_what_it_missed_and_takes_it_at_once() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(5), T0)
    feed = reconnected(bench)
    feed.tick(T0 + 4 * SECOND)
    assert asked(bench) == []
    feed.tick(T0 + 6 * SECOND)
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "6", "limit": "1000"}]
    feed.trades(bench.trades, page(6, 7), T0)
    assert [(row["sequence"], row["source"]) for row in bench.rows("trade")] == [
        (5, "stream"),
        (6, "backfill"),
        (7, "backfill"),
    ]
    bench.feed.frame(trade(7), T0)
    bench.feed.frame(trade(8), T0)
    assert [row["sequence"] for row in bench.rows("trade")] == [8]
    assert (bench.trades.duplicates, bench.trades.missing, bench.trades.repaired) == (1, 2, 2)
    feed.tick(T0 + 60 * SECOND)
    assert asked(bench) == []


def test_a_quiet_stream_asks_what_it_missed_when_a_replacement_took_over_before_it_had_caught_up() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(5), T0)
    second = bench.new_feed(standby=True)
    second.opened(T0)
    second.frame(b'{"result":null,"id":1}', T0)
    bench.feed.closed("disconnected", T0)
    bench.feed = second
    asked(bench)
    second.tick(T0 + 6 * SECOND)
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "6", "limit": "1000"}]


def test_what_a_probe_brings_back_is_a_repaired_gap() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(5), T0)
    feed = reconnected(bench)
    feed.tick(T0 + 6 * SECOND)
    feed.trades(bench.trades, page(6, 7), T0)
    *_, gap = bench.rows("gap")
    assert (gap["reason"], gap["first_missing"], gap["last_missing"]) == ("disconnected", 6, 7)
    assert (gap["missing_count"], gap["repaired_count"], gap["status"]) == (2, 2, "repaired")


def test_nothing_missed_is_nothing_written() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(5), T0)
    feed = reconnected(bench)
    feed.tick(T0 + 6 * SECOND)
    feed.trades(bench.trades, b"[]", T0)
    assert bench.rows("gap") == []
    bench.feed.frame(trade(6), T0)
    assert bench.trades.missing == 0


def test_a_trade_that_comes_first_speaks_for_itself() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(5), T0)
    feed = reconnected(bench)
    feed.frame(trade(8), T0 + SECOND)
    (fetch,) = asked(bench)
    assert fetch == {"symbol": "BTCUSDT", "fromId": "6", "limit": "2"}
    feed.tick(T0 + 6 * SECOND)
    assert asked(bench) == []


def test_a_trade_during_a_probe_leaves_the_hole_to_the_gap() -> None:
    bench = Bench()
    bench.open()
    bench.feed.frame(trade(5), T0)
    feed = reconnected(bench)
    feed.tick(T0 + 6 * SECOND)
    feed.frame(trade(8), T0 + 6 * SECOND)
    feed.actions.clear()
    feed.trades(bench.trades, page(6, 7, 8), T0)
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "6", "limit": "2"}]
    feed.trades(bench.trades, page(6, 7), T0)
    assert sorted(row["sequence"] for row in bench.rows("trade")) == [5, 6, 7, 8]
    assert (bench.trades.missing, bench.trades.repaired) == (2, 2)


def test_a_successor_of_a_lost_collector_closes_its_gap_by_a_probe() -> None:
    bench = Bench(resume=5)
    bench.open()
    bench.feed.actions.clear()
    bench.feed.tick(T0 + 6 * SECOND)
    assert asked(bench) == [{"symbol": "BTCUSDT", "fromId": "6", "limit": "1000"}]
    bench.feed.trades(bench.trades, b"[]", T0)
    gaps = [gap for gap in bench.rows("gap") if gap["data_type"] == "trade"]
    assert [(g["reason"], g["first_missing"], g["status"]) for g in gaps] == [("collector_lost", 6, "repaired")]
    bench.feed.frame(trade(6), T0)
    assert [row["sequence"] for row in bench.rows("trade")] == [6]


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("disconnected: no close frame received or sent", "disconnected"),
        ("silent for 60 s", "silent"),
        ("internal error: ValueError: x", "disconnected"),
        ("cancelled", "cancelled"),
    ],
)
def test_a_gap_says_in_one_word_why_the_connection_ended(reason: str, cause: str) -> None:
    bench = Bench()
    bench.open()
    bench.feed.snapshot(bench.book, SNAPSHOT, T0)
    bench.feed.closed(reason, T0)
    (gap,) = bench.rows("gap")
    assert gap["reason"] == cause


def test_a_replacement_that_began_after_the_book_it_replaces_leaves_a_gap_between_the_two() -> None:
    bench = Bench()
    bench.open()
    bench.feed.snapshot(bench.book, SNAPSHOT, T0)
    bench.feed.frame(depth(6, 6), T0)
    second = bench.new_feed(standby=True)
    second.opened(T0)
    second.frame(b'{"result":null,"id":1}', T0)
    second.frame(depth(9, 9), T0)
    second.snapshot(bench.book, SNAPSHOT.replace(b"5", b"8"), T0)
    bench.feed.closed("disconnected", T0)
    second.frame(depth(10, 10), T0)
    gaps = [g for g in bench.rows("gap") if g["data_type"] == "orderbook_delta"]
    assert [(g["status"], g["first_missing"], g["last_missing"]) for g in gaps] == [
        ("open", 7, None), ("unrepairable", 7, 8)]  # fmt: skip


def test_a_gap_of_a_book_that_the_replacement_has_seen_whole_is_none() -> None:
    bench = Bench()
    bench.open()
    bench.feed.snapshot(bench.book, SNAPSHOT, T0)
    bench.feed.frame(depth(6, 6), T0)
    second = bench.new_feed(standby=True)
    second.opened(T0)
    second.frame(b'{"result":null,"id":1}', T0)
    second.frame(depth(6, 6), T0)
    second.snapshot(bench.book, SNAPSHOT, T0)
    second.frame(depth(7, 7), T0)
    bench.feed.frame(depth(8, 8), T0)
    bench.feed.closed("disconnected", T0)
    gaps = [g for g in bench.rows("gap") if g["data_type"] == "orderbook_delta"]
    assert [(g["status"], g["first_missing"], g["missing_count"]) for g in gaps] == [
        ("open", 7, None), ("repaired", 7, 0)]  # fmt: skip


def test_a_live_book_that_nothing_has_continued_is_compared_with_another_snapshot() -> None:
    bench = Bench()
    bench.open()
    bench.feed.snapshot(bench.book, SNAPSHOT, T0)
    bench.feed.actions.clear()
    bench.feed.tick(T0 + SECOND)
    assert bench.actions(FetchSnapshot) == []
    bench.feed.tick(T0 + 2 * SECOND)
    assert len(bench.actions(FetchSnapshot)) == 1
    bench.feed.snapshot(bench.book, SNAPSHOT.replace(b"5", b"7"), T0 + 2 * SECOND)
    bench.feed.tick(T0 + 4 * SECOND)
    bench.feed.snapshot(bench.book, SNAPSHOT.replace(b"5", b"7"), T0 + 4 * SECOND)
    gaps = [(g["status"], g["first_missing"], g["last_missing"]) for g in bench.rows("gap")]
    assert gaps == [("open", 6, None), ("unrepairable", 6, 7)]
