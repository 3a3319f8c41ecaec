"""What pushed low-rate data writes down when its connection, its venue or a frame fails it."""

from __future__ import annotations

import json
from typing import Any

from conftest import instrument

from marketprism_ray.batching import Batcher
from marketprism_ray.feed import Feed
from marketprism_ray.record_stream import RecordStream
from marketprism_ray.venue import Channel, RecordCodec
from marketprism_ray.venues import VENUES

SECOND = 1_000_000_000
T0 = 1_795_132_800 * SECOND
SPOT, USD_M = VENUES["binance_spot"], VENUES["binance_derivatives"]
SWAP = instrument(exchange_name="binance_derivatives", symbol_name="BTC-USDT-SWAP", market_type="perpetual")


class Bench:
    """One record stream over as many feeds as it takes."""

    def __init__(self, channel: Channel, venue: Any = SPOT, item: Any = None) -> None:
        self.batcher, self.venue = Batcher("c", 3), venue
        assert isinstance(channel.codec, RecordCodec)
        self.stream = RecordStream(venue, [channel], [item or instrument()], self.batcher)
        self.gaps: list[dict[str, Any]] = []

    def open(self, at: float, *, standby: bool = False) -> Feed:
        feed = Feed(self.venue, self.stream.channel.endpoint, [self.stream], standby=standby)
        feed.opened(self.time(at))
        self.frame(feed, {"result": None, "id": 1}, at)
        return feed

    def time(self, seconds: float) -> int:
        return T0 + int(seconds * SECOND)

    def frame(self, feed: Feed, frame: object, at: float) -> None:
        feed.frame(
            frame if isinstance(frame, bytes) else json.dumps(frame, separators=(",", ":")).encode(), self.time(at)
        )

    def close(self, feed: Feed, at: float, reason: str = "disconnected: no close frame") -> None:
        feed.tick(self.time(at))
        feed.closed(reason, self.time(at))

    def tick(self, at: float) -> None:
        self.stream.tick(self.time(at))

    def rows(self) -> list[tuple[Any, ...]]:
        batches = self.batcher.drain(T0, force=True)
        self.gaps = [row for batch in batches if batch.data_type == "gap" for row in batch.data.to_pylist()]
        return [
            (gap["reason"], seconds(gap["opened_at"]), seconds(gap["closed_at"]), gap["status"]) for gap in self.gaps
        ]


def seconds(value: Any) -> float | None:
    return None if value is None else (value.value - T0) / SECOND


def ticker(at: float) -> dict[str, Any]:
    figures = dict.fromkeys("pPwxcQbBaAohlvq", "1")
    E = 1_795_132_800_000 + int(at * 1000)
    data = {"e": "24hrTicker", "E": E, "s": "BTCUSDT", "O": E, "C": E, "F": 1, "L": 2, "n": 2}
    return {"stream": "btcusdt@ticker", "data": {**data, **figures}}


def kline(minute: int, at: float, *, closed: bool = False) -> dict[str, Any]:
    t = 1_795_132_800_000 + minute * 60_000
    prices = {"o": "1", "c": "1", "h": "1", "l": "1", "v": "1", "q": "1", "V": "1", "Q": "1", "n": 1, "x": closed}
    k = {"t": t, "T": t + 59_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 1, "B": "0", **prices}
    E = 1_795_132_800_000 + int(at * 1000)
    return {"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": E, "s": "BTCUSDT", "k": k}}


def test_a_cut_that_loses_tickers_is_a_row_that_opens_and_one_that_closes() -> None:
    bench = Bench(SPOT.channel("ticker"))
    feed = bench.open(0)
    for at in range(1, 4):
        bench.frame(feed, ticker(at), at)
    bench.close(feed, 3.5)
    assert bench.rows() == []
    bench.tick(6)
    assert bench.rows() == [("disconnected", 3, None, "unrepairable")]
    bench.frame(bench.open(8), ticker(9), 9)
    assert bench.rows() == [("disconnected", 3, 9, "unrepairable")]
    assert bench.gaps[0]["revision"] == 3 << 32 | 2
    assert bench.gaps[0]["channel"] == ""


def okx_candle(minute: int, *, closed: bool = False) -> dict[str, Any]:
    row = [str(1_795_132_800_000 + minute * 60_000), *"1111111", "1" if closed else "0"]
    return {"arg": {"channel": "candle1m", "instId": "BTC-USDT"}, "data": [row]}


def test_a_candle_is_overdue_by_the_clock_of_the_venue_and_by_no_other() -> None:
    venue = VENUES["okx_spot"]
    (channel,) = (c for c in venue.channels if c.data_type == "kline" and c.interval == "1m")
    bench = Bench(channel, venue, instrument(exchange_name="okx_spot", venue_symbol="BTC-USDT"))
    ahead = 3_600  # so far is our clock ahead of theirs
    feed = bench.open(ahead)
    bench.frame(feed, okx_candle(0), ahead + 10)
    bench.tick(ahead + 50)
    assert bench.rows() == [], "nobody knows what time it is there"
    bench.stream.clock.head(bench.time(50), bench.time(ahead + 50))
    bench.tick(ahead + 64)
    assert bench.rows() == []
    bench.tick(ahead + 66)
    assert bench.rows() == [("bar_missing", -60, None, "open")]


def liquidation(at: float) -> dict[str, Any]:
    T = 1_795_132_800_000 + int(at * 1000)
    order = {"s": "BTCUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "1", "p": "1", "ap": "1", "X": "FILLED"}
    data = {"e": "forceOrder", "E": T, "o": {**order, "l": "1", "z": "1", "T": T}}
    return {"stream": "btcusdt@forceOrder", "data": data}


def test_what_waited_in_a_socket_when_it_was_cut_lies_in_the_hole_however_late_we_were() -> None:
    venue = VENUES["binance_derivatives"]
    bench = Bench(venue.channel("liquidation"), venue, instrument(exchange_name=venue.name, market_type="perpetual"))
    feed = bench.open(0)
    bench.frame(feed, liquidation(1), 1.1)
    bench.frame(feed, liquidation(2), 12)  # the machine had no time: what was sent after this still waits
    bench.close(feed, 12.5)
    bench.open(13)
    bench.tick(16)
    ((reason, opened, closed, status),) = bench.rows()
    assert (reason, status) == ("disconnected", "unrepairable")
    assert opened == 2
    assert closed is not None
    assert closed >= 12.5


def test_a_planned_replacement_leaves_no_hole() -> None:
    bench = Bench(SPOT.channel("ticker"))
    feed = bench.open(0)
    bench.frame(feed, ticker(1), 1)
    standby = bench.open(1.5, standby=True)
    bench.frame(standby, ticker(2), 2)
    standby.tick(bench.time(2))
    bench.close(feed, 2.1, "replaced")
    for at in range(3, 9):
        bench.frame(standby, ticker(at), at)
        bench.tick(at)
    assert bench.rows() == []


def test_a_socket_that_dies_before_its_replacement_has_subscribed_leaves_a_hole() -> None:
    bench = Bench(SPOT.channel("ticker"))
    feed = bench.open(0)
    bench.frame(feed, ticker(1), 1)
    standby = Feed(SPOT, "public", [bench.stream], standby=True)
    standby.opened(bench.time(1.2))
    bench.close(feed, 1.4)
    bench.frame(standby, {"result": None, "id": 1}, 3.9)
    bench.frame(standby, ticker(5), 5)
    assert bench.rows() == [("disconnected", 1, 5, "unrepairable")]


def test_liquidations_have_a_hole_only_for_the_time_without_a_subscription() -> None:
    bench = Bench(USD_M.channel("liquidation"), USD_M, SWAP)
    feed = bench.open(0)
    bench.tick(3_000)
    for at in range(3_001):
        feed.tick(bench.time(at))
    assert bench.rows() == []
    bench.frame(feed, b'{"stream":"btcusdt@nothing","data":{}}', 3_000.9)
    bench.close(feed, 3_001)
    bench.open(3_020)
    bench.tick(3_021)
    bench.tick(3_023)
    ((reason, opened_at, closed_at, status), *_) = bench.rows()[::-1]
    assert (reason, closed_at, status) == ("disconnected", 3_020, "unrepairable")
    assert 2_999 <= opened_at <= 3_001


def test_a_frame_nobody_understands_is_a_hole_and_one_stream_says_nothing_of_another() -> None:
    bench = Bench(USD_M.channel("liquidation"), USD_M, SWAP)
    feed = bench.open(0)
    bench.frame(feed, b'{"stream":"btcusdt@forceOrder","data":{"e":"force', 10)
    bench.tick(13)
    ((reason, opened_at, closed_at, _),) = bench.rows()
    assert reason == "malformed"
    assert 9 <= opened_at <= 10 <= closed_at <= 11


def test_while_the_sinks_take_no_more_silence_is_not_the_venues_and_a_cut_is_ours() -> None:
    bench = Bench(SPOT.channel("ticker"))
    feed = bench.open(0)
    bench.frame(feed, ticker(1), 1)
    bench.stream.shedding = True
    bench.tick(30)
    assert bench.rows() == []
    bench.close(feed, 31)
    bench.stream.shedding = False
    bench.frame(bench.open(40), ticker(41), 41)
    assert bench.rows() == [("shed", 1, 41, "unrepairable")]


def test_a_row_that_cannot_be_a_record_is_a_hole_of_its_own_time() -> None:
    bench = Bench(SPOT.channel("ticker"))
    feed = bench.open(0)
    bad = ticker(1)
    bad["data"]["c"] = "NaN"
    bench.frame(feed, bad, 1)
    assert bench.rows() == [("malformed", 1, 1, "unrepairable")]


def test_candles_that_ended_while_nobody_listened_are_named_by_their_open_times() -> None:
    channel = next(c for c in SPOT.channels if c.interval == "1m")
    bench = Bench(channel)
    feed = bench.open(0)
    bench.frame(feed, kline(0, 30), 30)
    bench.frame(feed, kline(0, 60, closed=True), 60)
    bench.frame(feed, kline(1, 70), 70)
    bench.close(feed, 80)
    bench.frame(bench.open(200), kline(3, 200), 200)
    assert bench.rows() == [("disconnected", 0, 180, "open")]
    assert (bench.gaps[0]["missing_count"], bench.gaps[0]["channel"]) == (2, "1m")


def test_two_channels_of_one_data_type_are_told_apart() -> None:
    names = {c.name: USD_M.gap_channel(c, SWAP) for c in USD_M.channels if c.data_type in ("ticker", "liquidation")}
    assert names == {"ticker": "ticker", "bookTicker": "bookTicker", "forceOrder": ""}


def test_liquidations_that_come_with_trades_have_no_holes_of_their_own() -> None:
    bench = Bench(USD_M.channel("liquidation"), USD_M, SWAP)
    bench.stream.counted_by_trades()
    feed = bench.open(0)
    bench.frame(feed, b'{"stream":"btcusdt@forceOrder","data":{"e":"force', 10)
    bench.close(feed, 11)
    bench.open(20)
    bench.tick(30)
    assert bench.rows() == []


def test_a_stream_of_which_nothing_was_ever_stored_misses_what_came_since_it_was_collected() -> None:
    from marketprism_ray.sinks.inherited import Inherited

    bench = Bench(USD_M.channel("liquidation"), USD_M, SWAP)
    (line,) = bench.stream.lines
    bench.stream.inherit(Inherited({line.begun: bench.time(-500)}), bench.time(0))
    bench.open(10)
    bench.tick(13)
    assert bench.rows() == [("collector_lost", -500, 10, "unrepairable")]
