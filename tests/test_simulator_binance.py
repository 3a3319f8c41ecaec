"""The simulated futures of Binance, and the spot streams that come by time, seen by plain clients and by ``ccxt``."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from binance_bench import (
    COINM,
    FUTURES,
    MARKET,
    NAMES,
    PREFIX,
    PUBLIC,
    SPOT,
    USDM,
    Bench,
    bench,
    best_first,
    change,
    frame,
    future_minute,
    waiting,
)

from marketprism_ray.simulator.binance.figures import Window
from marketprism_ray.simulator.market import BookEvent, Market, TradeEvent
from marketprism_ray.simulator.summaries import DAY_MS, FUNDING_MS, candles, funding_rate, last_day

# --- paths ---


@pytest.mark.parametrize(
    ("path", "delivered"),
    [
        ("binance_derivatives/public/stream", {"btcusdt@bookTicker"}),
        ("binance_derivatives/market/stream", {"btcusdt@aggTrade"}),
        ("binance_derivatives/stream", {"btcusdt@bookTicker"}),
        ("binance_coinm/stream", {"btcusd_perp@bookTicker", "btcusd_perp@aggTrade"}),
    ],
)
async def test_a_stream_on_the_wrong_path_is_acknowledged_and_silent(path: str, delivered: set[str]) -> None:
    place = USDM if "derivatives" in path else COINM
    name = NAMES[place].lower()
    async with bench(place[0]) as one:
        streams = [f"{name}@bookTicker", f"{name}@aggTrade"]
        socket = await one.socket(path, *streams)
        await socket.send_json({"method": "LIST_SUBSCRIPTIONS", "id": 2})
        assert (await frame(socket))["result"] == sorted(streams)
        one.step(place, "trade")
        best = one.symbol(place).best()
        while one.symbol(place).best() == best:
            one.step(place, "book")
        one.wait(place[0], 100)
        assert {found["stream"] for found in await waiting(socket)} == delivered
        is_delivered = f"{name}@aggTrade" in delivered
        assert (one.symbol(place).truth.subscribed_from is not None) == is_delivered


@pytest.mark.parametrize(
    "path",
    [
        "binance_derivatives/market/ws/btcusdt@aggTrade",
        "binance_derivatives/market/ws?streams=btcusdt@aggTrade",
        "binance_derivatives/market/stream?streams=btcusdt@aggTrade",
    ],
)
async def test_streams_may_be_named_in_the_address(path: str) -> None:
    async with bench("binance_derivatives") as one:
        socket = await one.socket(path)
        assert await waiting(socket) == []
        event = one.step(USDM, "trade")
        assert isinstance(event, TradeEvent)
        assert await waiting(socket) == []
        one.wait("binance_derivatives", 100)
        (found,) = await waiting(socket)
        assert ("stream" in found) == ("/stream" in path)
        assert (found.get("data", found)["f"], found.get("data", found)["l"]) == (event.id, event.id)


async def test_endpoints_are_those_that_deliver() -> None:
    async with bench("binance_spot", "binance_derivatives", "binance_coinm") as one:
        found = one.simulator.endpoints()
        assert found["binance_spot"] == {
            "public": f"ws://{one.host}/binance_spot/stream",
            "rest": f"http://{one.host}/binance_spot",
        }
        assert found["binance_derivatives"] == {
            "public": f"ws://{one.host}/binance_derivatives/public/stream",
            "market": f"ws://{one.host}/binance_derivatives/market/stream",
            "rest": f"http://{one.host}/binance_derivatives",
        }
        assert found["binance_coinm"]["public"] == f"ws://{one.host}/binance_coinm/stream"


@FUTURES
async def test_futures_have_no_notice(place: tuple[str, str]) -> None:
    async with bench(place[0]) as one:
        socket = await one.socket(PUBLIC[place])
        assert await waiting(socket) == []
        one.simulator._houses[place[0]].notice()
        assert await waiting(socket) == []


# --- real time ---


@FUTURES
async def test_snapshot_and_chain_of_changes_splice_to_the_exact_book(place: tuple[str, str]) -> None:
    name = NAMES[place]
    async with bench(place[0]) as one:
        socket = await one.socket(PUBLIC[place], f"{name.lower()}@depth@100ms")
        for _ in range(20):
            one.step(place, "book")
            one.wait(place[0], 50)
        snapshot = await one.get(f"{PREFIX[place]}/depth?symbol={name}&limit=1000")
        assert len(snapshot["bids"]) == len(snapshot["asks"]) == 1000
        assert {"E", "T"} < snapshot.keys()
        assert snapshot.get("pair") == ("BTCUSD" if place == COINM else None)
        for _ in range(300):
            one.step(place, "book")
            one.wait(place[0], 50)
        bids, asks, last = dict(snapshot["bids"]), dict(snapshot["asks"]), snapshot["lastUpdateId"]
        events = [event["data"] for event in await waiting(socket)]
        assert len(events) in (160, 161)
        assert {(event["st"], event["ps"]) for event in events} == (
            {(1, "BTCUSDT")} if place == USDM else {(2, "BTCUSD")}
        )
        # The one that ends at the snapshot is applied again, those before it are not.
        applied = [event for event in events if event["u"] >= last]
        assert applied[0]["U"] <= last <= applied[0]["u"]
        assert len(applied) in (150, 151)
        for before, event in pairwise(applied):
            assert event["pu"] == before["u"]
        assert sum(event["U"] == event["pu"] + 1 for event in events) < len(events) / 5
        for event in applied:
            change(bids, event["b"])
            change(asks, event["a"])
        truth = one.symbol(place)
        assert applied[-1]["u"] == truth.update_id
        # Of 1000 levels a side, those far away were never seen.
        seen = [best_first(side, bids=is_bid)[:900] for side, is_bid in ((bids, True), (asks, False))]
        assert seen == [side[:900] for side in truth.book()]


@FUTURES
async def test_trades_and_best_prices_have_the_fields_of_their_market(place: tuple[str, str]) -> None:
    name, st = NAMES[place], 1 if place == USDM else 2
    async with bench(place[0]) as one:
        trades = await one.socket(MARKET[place], f"{name.lower()}@aggTrade")
        event = one.step(place, "trade")
        assert isinstance(event, TradeEvent)
        one.wait(place[0], 100)
        identity = one.told(place).subscribed_from
        expected: dict[str, Any] = {
            **{"e": "aggTrade", "E": one.at, "s": name, "a": identity, "p": event.price, "q": event.quantity},
            **{"f": event.id, "l": event.id, "T": event.time_ms, "m": event.taker_sold, "st": st},
        }
        if place == USDM:
            expected["nq"] = event.quantity if event.id % 16 != 5 else "0.000"
        assert await frame(trades) == {"stream": f"{name.lower()}@aggTrade", "data": expected}
        assert one.told(place).ids == [identity]
        assert one.symbol(place).truth.subscribed_from == event.id
        quotes = await one.socket(PUBLIC[place], f"{name.lower()}@bookTicker")
        before = one.symbol(place).best()
        while one.symbol(place).best() == before:
            changed = one.step(place, "book")
        assert isinstance(changed, BookEvent)
        (bid, bid_size), (ask, ask_size) = one.symbol(place).best()
        assert (await frame(quotes))["data"] == {
            **{"e": "bookTicker", "u": changed.last, "s": name, "ps": name.removesuffix("_PERP"), "st": st},
            **{"b": bid, "B": bid_size, "a": ask, "A": ask_size, "T": changed.time_ms, "E": changed.time_ms + 2},
        }
        assert await waiting(quotes) == []


async def test_an_aggregate_of_spot_counts_as_a_subscription() -> None:
    async with bench("binance_spot") as one:
        await one.socket(PUBLIC[SPOT], "btcusdt@aggTrade")
        assert one.symbol(SPOT).truth.subscribed_from == one.symbol(SPOT).trade_id + 1


# --- by time ---


@pytest.mark.parametrize("place", [SPOT, USDM, COINM], ids=["spot", "usdm", "coinm"])
async def test_a_candle_grows_and_closes_with_the_exact_sums(place: tuple[str, str]) -> None:
    name, start = NAMES[place], future_minute()
    async with bench(place[0]) as one:
        one.step(place, "trade", start - 1)
        for at in range(start, start + 10_000, 500):
            one.step(place, "trade", at)
        socket = await one.socket(MARKET[place], f"{name.lower()}@kline_1m", f"{name.lower()}@kline_7m")
        one.beat(place[0], start + 10_000)
        for at in range(start + 10_000, start + 60_000, 500):
            one.step(place, "trade", at)
        one.beat(place[0], start + 60_000)
        one.step(place, "trade", start + 60_100)
        one.beat(place[0], start + 62_000)
        grown, closed, empty, following = [found["data"] for found in await waiting(socket)]
        truth = one.symbol(place).truth
        assert [(k["k"]["n"], k["k"]["x"], k["k"]["t"] - start) for k in (grown, closed, empty, following)] == [
            (20, False, 0),
            (120, True, 0),
            (0, False, 60_000),
            (1, False, 60_000),
        ]
        k, (candle,) = closed["k"], candles(truth, 60_000, start, start + 59_999)
        assert (k["i"], k["s"], k["T"]) == ("1m", name, start + 59_999)
        assert (k["f"], k["L"]) == (candle.first_id, candle.last_id)
        assert (k["o"], k["h"], k["l"], k["c"]) == (candle.open, candle.high, candle.low, candle.close)
        assert (Decimal(k["v"]), Decimal(k["V"])) == (candle.volume, candle.bought)
        value = candle.turnover
        if place == COINM:
            parts = zip(truth.prices[1:121], truth.quantities[1:121], strict=True)
            value = sum(
                ((Decimal(q) * 100 / Decimal(p)).quantize(Decimal("1E-8")) for p, q in parts),
                Decimal(),
            )
        assert Decimal(k["q"]) == value
        path = PREFIX.get(place, "binance_spot/api/v3")
        rows = await one.get(f"{path}/klines?symbol={name}&interval=1m&startTime={start}&endTime={start + 59_999}")
        assert rows == [
            [k["t"], k["o"], k["h"], k["l"], k["c"], k["v"], k["T"], k["q"], k["n"], k["V"], k["Q"], "0"],
        ]


async def test_whoever_comes_just_before_a_candle_ends_gets_its_end() -> None:
    start = future_minute()
    async with bench("binance_spot") as one:
        one.step(SPOT, "trade", start - 500)
        socket = await one.socket(PUBLIC[SPOT], "btcusdt@kline_1m")
        one.step(SPOT, "trade", start + 1)
        one.beat("binance_spot", start)
        closed, following = [found["data"]["k"] for found in await waiting(socket)]
        assert [(k["t"] - start, k["n"], k["x"]) for k in (closed, following)] == [(-60_000, 1, True), (0, 1, False)]


async def test_candles_of_both_futures_markets_flow_on_either_host() -> None:
    start = future_minute()
    async with bench("binance_derivatives", "binance_coinm") as one:
        socket = await one.socket(MARKET[USDM], "btcusd_perp@kline_1m", "btcusd_perp@aggTrade")
        event = one.step(COINM, "trade", start)
        assert isinstance(event, TradeEvent)
        one.beat("binance_derivatives", start + 2_000)
        (found,) = await waiting(socket)
        assert (found["data"]["k"]["s"], found["data"]["k"]["v"]) == ("BTCUSD_PERP", event.quantity)
        assert one.symbol(COINM).truth.subscribed_from is None


async def test_spot_times_are_microseconds_where_asked_for() -> None:
    start = future_minute()
    async with bench("binance_spot") as one:
        socket = await one.socket("binance_spot/ws?timeUnit=MICROSECOND", "btcusdt@kline_1m", "btcusdt@ticker")
        one.step(SPOT, "trade", start)
        one.beat("binance_spot", start + 2_000)
        candle, ticker = await waiting(socket)
        assert (candle["k"]["t"], candle["k"]["T"]) == (start * 1000, (start + 60_000) * 1000 - 1)
        assert (ticker["E"], ticker["C"], ticker["O"]) == tuple(
            at * 1000 for at in (start + 2_000, start + 2_000, start + 2_000 - DAY_MS)
        )


@pytest.mark.parametrize("place", [SPOT, USDM, COINM], ids=["spot", "usdm", "coinm"])
async def test_ticker_sums_the_day(place: tuple[str, str]) -> None:
    name, start = NAMES[place], future_minute()
    async with bench(place[0]) as one:
        socket = await one.socket(MARKET[place], f"{name.lower()}@ticker")
        one.step(place, "trade", start - DAY_MS)
        for at in range(50):
            one.step(place, "trade", start + at)
        one.beat(place[0], start + 2_000)
        one.beat(place[0], start + 2_000 + 100)
        (found,) = await waiting(socket)
        day, ticker = last_day(one.symbol(place).truth, start + 2_000), found["data"]
        assert day is not None
        assert day.trades == ticker["n"] == 50
        assert (ticker["o"], ticker["h"], ticker["l"], ticker["c"]) == (day.open, day.high, day.low, day.close)
        assert (Decimal(ticker["v"]), ticker["F"], ticker["L"]) == (day.volume, day.first_id, day.last_id)
        assert Decimal(ticker["p"]) == Decimal(day.close) - Decimal(day.open)
        assert Decimal(day.low) <= Decimal(ticker["w"]) <= Decimal(day.high)
        if place == SPOT:
            (bid, bid_size), (ask, ask_size) = one.symbol(place).best()
            assert (ticker["b"], ticker["B"], ticker["a"], ticker["A"]) == (bid, bid_size, ask, ask_size)
        else:
            assert not ticker.keys() & {"a", "A", "b", "B"}
            assert (ticker["st"], ticker["ps"]) == ((1, "BTCUSDT") if place == USDM else (2, "BTCUSD"))
        if place != COINM:
            assert Decimal(ticker["q"]) == day.turnover


def test_the_day_forgets_what_is_older() -> None:
    market = Market(["binance_spot"], 1)
    symbol = market.symbols[SPOT]
    window = Window(symbol)
    for hour in range(40):
        for minute in range(20):
            symbol.trade(hour * 3_600_000 + minute * 60_000)
            symbol.change(0)
        now = hour * 3_600_000 + 1_800_000
        day, found = last_day(symbol.truth, now), window.until(now).figures()
        assert day is not None
        assert (found["count"], found["openPrice"], found["highPrice"], found["lowPrice"], found["lastPrice"]) == (
            day.trades,
            day.open,
            day.high,
            day.low,
            day.close,
        )
        assert (Decimal(found["volume"]), Decimal(found["quoteVolume"])) == (day.volume, day.turnover)


@FUTURES
async def test_marks_carry_the_rate_that_will_be_charged(place: tuple[str, str]) -> None:
    name, now = NAMES[place].lower(), future_minute()
    dated = "btcusdt_291228" if place == USDM else "btcusd_291228"
    async with bench(place[0]) as one:
        socket = await one.socket(MARKET[place], f"{name}@markPrice", f"{name}@markPrice@1s", f"{dated}@markPrice@1s")
        one.beat(place[0], now)
        one.beat(place[0], now + 1_000)
        found = await waiting(socket)
        assert [one["stream"] for one in found] == [
            *(f"{name}@markPrice", f"{name}@markPrice@1s", f"{dated}@markPrice@1s"),
            *(f"{name}@markPrice@1s", f"{dated}@markPrice@1s"),
        ]
        mark, of_dated = found[0]["data"], found[2]["data"]
        (bid, _), (ask, _) = one.symbol(place).best()
        assert (mark["e"], mark["E"], mark["s"], mark["st"]) == (
            *("markPriceUpdate", now, NAMES[place]),
            1 if place == USDM else 2,
        )
        assert Decimal(mark["p"]) == (Decimal(bid) + Decimal(ask)) / 2
        assert Decimal(mark["i"]) > 0
        assert Decimal(mark["r"]) == funding_rate(one.symbol(place).listing, now)
        assert mark["T"] % FUNDING_MS == 0
        assert now < mark["T"] <= now + FUNDING_MS
        assert (of_dated["r"], of_dated["T"]) == ("", 0)


def liquidation(one: Bench, place: tuple[str, str], count: int) -> int:
    """Trade until so many liquidations happened; give the place of the largest."""
    truth = one.symbol(place).truth
    first = len(truth.ids)
    while sum(truth.liquidations[first:]) < count:
        one.step(place, "trade")
    forced = [i for i in range(first, len(truth.ids)) if truth.liquidations[i]]
    return max(forced, key=lambda i: Decimal(truth.quantities[i]))


@FUTURES
async def test_the_largest_liquidation_of_a_second_is_told(place: tuple[str, str]) -> None:
    name, now = NAMES[place], future_minute()
    async with bench("binance_derivatives", "binance_coinm") as one:
        one.beat(place[0], now)
        socket = await one.socket(MARKET[place], f"{name.lower()}@forceOrder", "!forceOrder@arr")
        i, truth = liquidation(one, place, 4), one.symbol(place).truth
        other = COINM if place == USDM else USDM
        liquidation(one, other, 1)
        one.beat(place[0], now + 1_000)
        one.beat(place[0], now + 2_000)
        found = await waiting(socket)
        own = next(frame["data"] for frame in found if frame["stream"] == f"{name.lower()}@forceOrder")
        assert own["e"] == "forceOrder"
        price, limit = Decimal(truth.prices[i]), Decimal(own["o"]["p"])
        assert Decimal("0.99") < (limit / price if truth.taker_sold[i] else price / limit) < 1
        assert 0 < Decimal(own["o"]["l"]) <= Decimal(own["o"]["z"])
        expected = {
            **{"s": name, "S": "SELL" if truth.taker_sold[i] else "BUY", "o": "LIMIT", "f": "IOC", "X": "FILLED"},
            **{"q": truth.quantities[i], "z": truth.quantities[i], "l": own["o"]["l"]},
            **{"p": own["o"]["p"], "ap": truth.prices[i], "T": truth.times_ms[i]},
        }
        assert own["o"] == ({**expected, "ps": "BTCUSD"} if place == COINM else expected)
        of_all = [frame["data"]["o"] for frame in found if frame["stream"] == "!forceOrder@arr"]
        assert sorted((order["s"], order["ps"], order["st"]) for order in of_all) == [
            ("BTCUSDT", "BTCUSDT", 1),
            ("BTCUSD_PERP", "BTCUSD", 2),
        ]
        assert len(found) == 3


@FUTURES
async def test_streams_of_all_symbols_carry_both_futures_markets(place: tuple[str, str]) -> None:
    now = future_minute()
    async with bench("binance_derivatives", "binance_coinm") as one:
        one.beat(place[0], now)
        tickers = await one.socket(MARKET[place], "!ticker@arr", "!miniTicker@arr")
        quotes = await one.socket(PUBLIC[place], "!bookTicker")
        for where in (USDM, COINM):
            one.step(where, "trade")
        one.beat(place[0], now + 1_000)
        one.beat(place[0], now + 2_000)
        arrays = {found["stream"]: found["data"] for found in await waiting(tickers)}
        whole, mini = arrays["!ticker@arr"], arrays["!miniTicker@arr"]
        for rows in (whole, mini):
            assert [(row["s"], row["ps"], row["st"]) for row in rows] == [
                ("BTCUSDT", "BTCUSDT", 1),
                ("BTCUSD_PERP", "BTCUSD", 2),
            ]
        assert {row["e"] for row in mini} == {"24hrMiniTicker"}
        one.beat(place[0], now + 5_000)
        await waiting(quotes)
        one.step(USDM, "book")
        one.step(COINM, "book")
        one.beat(place[0], now + 10_000)
        found = [frame["data"] for frame in await waiting(quotes)]
        assert [(quote["s"], quote["ps"], quote["st"]) for quote in found] == [
            ("BTCUSDT", "BTCUSDT", 1),
            ("BTCUSD_PERP", "BTCUSD", 2),
        ]
        assert found[0]["u"] == one.symbol(USDM).update_id


async def test_streams_of_all_symbols_do_with_one_market() -> None:
    now = future_minute()
    async with bench("binance_coinm") as one:
        one.beat("binance_coinm", now)
        socket = await one.socket(MARKET[COINM], "!ticker@arr", "btcusd@indexPrice@1s", "!markPrice@arr@1s")
        one.step(COINM, "trade")
        one.beat("binance_coinm", now + 1_000)
        found = {frame["stream"]: frame["data"] for frame in await waiting(socket)}
        assert [row["s"] for row in found["!ticker@arr"]] == ["BTCUSD_PERP"]
        assert [row["s"] for row in found["!markPrice@arr@1s"]] == ["BTCUSD_PERP", "ETHUSD_PERP", "BTCUSD_291228"]
        index = found["btcusd@indexPrice@1s"]
        assert (index["e"], index["i"]) == ("indexPriceUpdate", "BTCUSD")
