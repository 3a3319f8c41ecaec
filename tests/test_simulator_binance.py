"""The simulated futures of Binance, and the spot streams that come by time, seen by plain clients and by ``ccxt``."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

from marketprism_ray.simulator.binance.figures import Window
from marketprism_ray.simulator.market import BookEvent, Market, Symbol, TradeEvent, Truth
from marketprism_ray.simulator.rules import Rules
from marketprism_ray.simulator.server import Simulator
from marketprism_ray.simulator.summaries import DAY_MS, FUNDING_MS, candles, funding_rate, last_day, long_share

SPOT = ("binance_spot", "BTC-USDT")
USDM = ("binance_derivatives", "BTC-USDT-SWAP")
COINM = ("binance_coinm", "BTC-USD-SWAP")
NAMES = {SPOT: "BTCUSDT", USDM: "BTCUSDT", COINM: "BTCUSD_PERP"}
PUBLIC = {SPOT: "binance_spot/stream", USDM: "binance_derivatives/public/stream", COINM: "binance_coinm/stream"}
MARKET = {**PUBLIC, USDM: "binance_derivatives/market/stream"}
PREFIX = {USDM: "binance_derivatives/fapi/v1", COINM: "binance_coinm/dapi/v1"}
FUTURES = pytest.mark.parametrize("place", [USDM, COINM], ids=["usdm", "coinm"])


class Bench:
    """A simulator whose market moves only by ``step`` and whose clock is set by ``beat``."""

    def __init__(self, simulator: Simulator, http: aiohttp.ClientSession) -> None:
        self.simulator = simulator
        self.http = http
        self.host = f"127.0.0.1:{simulator.port}"
        self.at = int(time.time()) * 1000 - 600_000
        """The time of this market: some minutes ago, so that the servers behind REST know all of it."""

    def symbol(self, place: tuple[str, str]) -> Symbol:
        return self.simulator.market.symbols[place]

    def step(self, place: tuple[str, str], kind: str, time_ms: int | None = None) -> TradeEvent | BookEvent:
        at = self.at if time_ms is None else time_ms
        event = self.symbol(place).trade(at) if kind == "trade" else self.symbol(place).change(at)
        self.simulator._houses[place[0]].publish(event)
        return event

    def wait(self, venue: str, ms: int) -> None:
        """Let time pass: what is due by then is sent."""
        self.at += ms
        self.beat(venue, self.at)

    def told(self, place: tuple[str, str]) -> Truth:
        return self.simulator._houses[place[0]].told(self.symbol(place))

    def beat(self, venue: str, time_ms: int) -> None:
        self.simulator._houses[venue].tick(time_ms)

    async def get(self, path: str) -> Any:
        async with self.http.get(f"http://{self.host}/{path}") as answer:
            return await answer.json()

    async def raw(self, path: str) -> tuple[int, dict[str, str], Any]:
        async with self.http.get(f"http://{self.host}/{path}") as answer:
            return answer.status, dict(answer.headers), await answer.json()

    async def socket(self, path: str, *names: str) -> aiohttp.ClientWebSocketResponse:
        """Open a socket and subscribe; the acknowledgement has come."""
        socket = await self.http.ws_connect(f"ws://{self.host}/{path}")
        if names:
            await socket.send_json({"method": "SUBSCRIBE", "params": list(names), "id": 1})
            assert await frame(socket) == {"result": None, "id": 1}
        return socket


@asynccontextmanager
async def bench(*venues: str) -> AsyncIterator[Bench]:
    simulator = Simulator(venues, rate=0.001)
    for house in simulator._houses.values():
        house.rules = Rules()  # type: ignore[attr-defined]
        house.snapshot_lag_ms = 0  # type: ignore[attr-defined]
    await simulator.start()
    assert simulator._task is not None
    simulator._task.cancel()
    async with aiohttp.ClientSession() as http:
        try:
            yield Bench(simulator, http)
        finally:
            await simulator.stop()


async def frame(socket: aiohttp.ClientWebSocketResponse) -> Any:
    return json.loads(await socket.receive_str(timeout=5))


async def frames(socket: aiohttp.ClientWebSocketResponse, count: int) -> list[Any]:
    return [await frame(socket) for _ in range(count)]


async def waiting(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """Give what is on the way: what answers last was sent last."""
    await socket.send_json({"method": "NONSENSE", "id": "last"})
    found = []
    while (one := await frame(socket)).get("id") != "last":
        found.append(one)
    return found


def future_minute() -> int:
    """Give the start of a minute that the simulator's own clock does not reach in a test."""
    return (int(time.time() * 1000) // 60_000 + 60) * 60_000


def change(side: dict[str, str], levels: list[list[str]]) -> None:
    for price, quantity in levels:
        if Decimal(quantity):
            side[price] = quantity
        else:
            side.pop(price, None)


def best_first(side: dict[str, str], *, bids: bool) -> list[tuple[str, str]]:
    return sorted(side.items(), key=lambda level: Decimal(level[0]), reverse=bids)


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


# --- REST ---


@FUTURES
async def test_instruments_have_the_words_of_their_market(place: tuple[str, str]) -> None:
    async with bench(place[0]) as one:
        found = {row["symbol"]: row for row in (await one.get(f"{PREFIX[place]}/exchangeInfo"))["symbols"]}
        assert len(found) == 3
        perpetual = found[NAMES[place]]
        dated = next(row for row in found.values() if row["contractType"] != "PERPETUAL")
        assert perpetual["contractType"] == "PERPETUAL"
        assert (dated["contractType"], dated["deliveryDate"]) == ("CURRENT_QUARTER", 1_893_139_200_000)
        assert {f["filterType"]: f for f in perpetual["filters"]}["PRICE_FILTER"]["tickSize"] == "0.1"
        if place == USDM:
            assert (perpetual["pair"], perpetual["status"], perpetual["marginAsset"]) == ("BTCUSDT", "TRADING", "USDT")
            assert not perpetual.keys() & {"contractSize", "contractStatus"}
        else:
            assert (perpetual["pair"], perpetual["contractStatus"], perpetual["marginAsset"]) == (
                *("BTCUSD", "TRADING"),
                "BTC",
            )
            assert perpetual["contractSize"] == 100
            assert "status" not in perpetual


@FUTURES
async def test_history_pages_through_every_trade(place: tuple[str, str]) -> None:
    name, path = NAMES[place], PREFIX[place]
    async with bench(place[0]) as one:
        for _ in range(250):
            one.step(place, "trade")
            one.wait(place[0], 20)
        one.wait(place[0], 100)
        truth, fills = one.told(place), one.symbol(place).truth
        found: list[dict[str, Any]] = []
        while page := await one.get(
            f"{path}/aggTrades?symbol={name}&limit=100&fromId={found[-1]['a'] + 1 if found else truth.ids[0]}"
        ):
            found += page
        assert [(row["a"], row["p"], row["q"], row["T"], row["m"]) for row in found] == list(
            zip(truth.ids, truth.prices, truth.quantities, truth.times_ms, truth.taker_sold, strict=True)
        )
        assert truth.ids == list(range(truth.ids[0], truth.ids[0] + len(truth.ids)))
        # Each fill is in one aggregate, but for those that the insurance fund took.
        inside = [fill for row in found for fill in range(row["f"], row["l"] + 1)]
        taken = {i for i, forced in zip(fills.ids, fills.liquidations, strict=True) if forced and i % 8 == 3}
        assert len(inside) == len(set(inside))
        assert set(fills.ids) - set(inside) <= taken
        assert any(row["l"] > row["f"] for row in found)
        by_id = dict(zip(fills.ids, fills.quantities, strict=True))
        for row in found:
            members = [i for i in range(row["f"], row["l"] + 1) if i not in taken]
            assert Decimal(row["q"]) == sum((Decimal(by_id[i]) for i in members), Decimal())
            if place == USDM:
                assert Decimal(row["nq"]) == sum((Decimal(by_id[i]) for i in members if i % 16 != 5), Decimal())
            else:
                assert "nq" not in row
        start, end = truth.times_ms[0], truth.times_ms[-1]
        by_time = await one.get(f"{path}/aggTrades?symbol={name}&limit=1000&startTime={start}&endTime={end}")
        assert by_time == found
        for query, code in (
            (f"fromId=1&startTime={start}", -1128),
            (f"startTime={start}&endTime={start + 3_600_000}", -1127),
            ("limit=x", -1100),
        ):
            assert (await one.get(f"{path}/aggTrades?symbol={name}&{query}"))["code"] == code
        newest = await one.get(f"{path}/trades?symbol={name}&limit=5")
        assert [row["id"] for row in newest] == fills.ids[-5:]
        assert [row.get("isRPITrade") for row in newest] == [
            i % 16 == 5 if place == USDM else None for i in fills.ids[-5:]
        ]
        assert (await one.get(f"{path}/historicalTrades?symbol={name}"))["code"] == -2014
        assert {"baseQty" if place == COINM else "quoteQty"} < newest[0].keys()
        assert (await one.get(f"{path}/trades?symbol=NOSUCH"))["code"] == -1121
        assert (await one.get(f"{path}/depth?symbol={name}&limit=30"))["code"] == -4021


@FUTURES
async def test_tickers_of_one_and_of_all(place: tuple[str, str]) -> None:
    name, path = NAMES[place], PREFIX[place]
    async with bench(place[0]) as one:
        one.step(place, "trade")
        single, of_all = [await one.get(f"{path}/ticker/24hr{query}") for query in (f"?symbol={name}", "")]
        rows = {row["symbol"]: row for row in of_all}
        assert len(rows) == 3
        row = single[0] if place == COINM else single
        assert (row["count"], rows[name]["count"]) == (1, 1)
        assert {"baseVolume" if place == COINM else "quoteVolume"} < row.keys()
        assert not row.keys() & {"bidPrice", "askPrice"}
        assert {(r["count"], r["volume"]) for symbol, r in rows.items() if symbol != name} == {
            (0, "0.000" if place == USDM else "0")
        }
        quotes = await one.get(f"{path}/ticker/bookTicker")
        assert {quote["symbol"] for quote in quotes} == rows.keys()


async def test_spot_tickers_of_all_symbols_are_a_list() -> None:
    async with bench("binance_spot") as one:
        one.step(SPOT, "trade")
        _, headers, found = await one.raw("binance_spot/api/v3/ticker/24hr")
        assert headers["X-MBX-USED-WEIGHT-1M"] == "80"
        assert {row["symbol"]: row["count"] for row in found} == {"BTCUSDT": 1, "ETHUSDT": 0, "SOLUSDT": 0}
        assert len({frozenset(row) for row in found}) == 1


@FUTURES
async def test_premium_funding_and_interest(place: tuple[str, str]) -> None:
    name, path = NAMES[place], PREFIX[place]
    async with bench(place[0]) as one:
        listing = one.symbol(place).listing
        answer = await one.get(f"{path}/premiumIndex?symbol={name}")
        row = answer[0] if place == COINM else answer
        assert Decimal(row["lastFundingRate"]) == funding_rate(listing, row["time"])
        assert row["nextFundingTime"] == (row["time"] // FUNDING_MS + 1) * FUNDING_MS
        of_all = {row["symbol"]: row for row in await one.get(f"{path}/premiumIndex")}
        assert len(of_all) == 3
        dated = next(row for symbol, row in of_all.items() if symbol.endswith("291228"))
        assert (dated["lastFundingRate"], dated["nextFundingTime"]) == ("", 0)
        newest = await one.get(f"{path}/fundingRate?symbol={name}&limit=3")
        last = row["time"] // FUNDING_MS * FUNDING_MS
        assert [paid["fundingTime"] for paid in newest] == [last - 2 * FUNDING_MS, last - FUNDING_MS, last]
        # What was announced during a period is what was charged at its end.
        assert [Decimal(paid["fundingRate"]) for paid in newest] == [
            funding_rate(listing, paid["fundingTime"] - 1) for paid in newest
        ]
        start = last - 10 * FUNDING_MS + 1
        page = await one.get(f"{path}/fundingRate?symbol={name}&startTime={start}&limit=4")
        assert [paid["fundingTime"] for paid in page] == [last - i * FUNDING_MS for i in (9, 8, 7, 6)]
        assert len(await one.get(f"{path}/fundingRate?symbol={name}")) == 200
        assert await one.get(f"{path}/fundingRate?symbol={dated['symbol']}") == []
        assert {row["fundingIntervalHours"] for row in await one.get(f"{path}/fundingInfo")} == {8}
        interest = await one.get(f"{path}/openInterest?symbol={name}")
        assert Decimal(interest["openInterest"]) > 0
        assert (interest.get("pair"), interest.get("contractType")) == (
            ("BTCUSD", "PERPETUAL") if place == COINM else (None, None)
        )


@FUTURES
async def test_statistics_end_with_the_last_full_period(place: tuple[str, str]) -> None:
    asked = "pair=BTCUSD" if place == COINM else "symbol=BTCUSDT"
    position = "Position" if place == COINM else "Account"
    async with bench(place[0]) as one:
        listing = one.symbol(place).listing
        path = f"{place[0]}/futures/data"
        for name, kind, noun in (
            ("topLongShortPositionRatio", "top_position", position),
            ("topLongShortAccountRatio", "top_account", "Account"),
            ("globalLongShortAccountRatio", "all_account", "Account"),
        ):
            before = int(time.time() * 1000) // 300_000 * 300_000
            found = await one.get(f"{path}/{name}?{asked}&period=5m&limit=3")
            assert found[-1]["timestamp"] - before in (0, 300_000)
            assert [row["timestamp"] - found[0]["timestamp"] for row in found] == [0, 300_000, 600_000]
            for row in found:
                share = long_share(kind, listing, row["timestamp"])
                assert (Decimal(row[f"long{noun}"]), Decimal(row[f"short{noun}"])) == (share, 1 - share)
                assert row["longShortRatio"] == f"{share / (1 - share):.4f}"
        start, end = found[0]["timestamp"], found[1]["timestamp"]
        path = f"{path}/openInterestHist?{asked}&period=5m&contractType=PERPETUAL"
        rows = await one.get(f"{path}&startTime={start}&endTime={end}")
        assert [row["timestamp"] for row in rows] == [start, end]
        assert Decimal(rows[0]["sumOpenInterest"]) > Decimal(rows[0]["sumOpenInterestValue"]) or place == USDM
        assert len(await one.get(path)) == 30
        for query, code in (("period=5m", -1102), (f"{asked}&period=7m", -1130)):
            assert (await one.get(f"{place[0]}/futures/data/openInterestHist?{query}"))["code"] == code


# --- limits ---


async def test_both_futures_markets_spend_one_weight() -> None:
    async with bench("binance_spot", "binance_derivatives", "binance_coinm") as one:
        used = []
        for path in (
            f"{PREFIX[USDM]}/depth?symbol=BTCUSDT&limit=50",
            f"{PREFIX[USDM]}/depth?symbol=BTCUSDT&limit=100",
            f"{PREFIX[COINM]}/depth?symbol=BTCUSD_PERP&limit=500",
            f"{PREFIX[COINM]}/depth?symbol=BTCUSD_PERP&limit=1000",
            f"{PREFIX[USDM]}/klines?symbol=BTCUSDT&interval=1m&limit=1500",
            f"{PREFIX[COINM]}/premiumIndex",
            f"{PREFIX[USDM]}/ticker/24hr",
            "binance_spot/api/v3/ping",
            "binance_derivatives/futures/data/openInterestHist?symbol=BTCUSDT&period=5m",
            "binance_coinm/futures/data/openInterestHist?pair=BTCUSD&period=5m",
        ):
            used.append(int((await one.raw(path))[1]["X-MBX-USED-WEIGHT-1M"]))
        assert used == [2, 7, 17, 37, 47, 57, 97, 1, 97, 98]
        for _ in range((2400 - 98) // 20):
            assert (await one.raw(f"{PREFIX[USDM]}/aggTrades?symbol=BTCUSDT"))[0] == 200
        status, headers, body = await one.raw(f"{PREFIX[COINM]}/aggTrades?symbol=BTCUSD_PERP")
        assert (status, body["code"]) == (429, -1003)
        assert int(headers["Retry-After"]) > 0
        assert (await one.raw("binance_spot/api/v3/ping"))[0] == 200
        assert (await one.get("control/ledger"))["rate_limited"] == 1


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("fapi/v1/fundingRate?symbol=BTCUSDT&limit=1", 500),
        ("futures/data/topLongShortAccountRatio?symbol=BTCUSDT&period=5m&limit=1", 1000),
    ],
)
async def test_some_endpoints_have_limits_of_their_own(path: str, limit: int) -> None:
    async with bench("binance_derivatives") as one:
        statuses = [(await one.raw(f"binance_derivatives/{path}"))[0] for _ in range(limit + 1)]
        assert statuses == [200] * limit + [429]
        assert (await one.raw("binance_derivatives/fapi/v1/ping"))[0] == 200


# --- an independent client ---


def client_of(ccxt: Any, venue: str, host: str) -> Any:
    """Make the client, with the simulator's addresses for the venue's; it routes the paths of USD-M by itself."""
    options = {"enableRateLimit": False, "newUpdates": True}
    if venue == "binance_derivatives":
        client = ccxt.binanceusdm(options)
        client.urls["api"]["fapiPublic"] = f"http://{host}/{venue}/fapi/v1"
        client.urls["api"]["ws"]["linear"] = f"ws://{host}/{venue}/ws"
    else:
        client = ccxt.binancecoinm(options)
        client.urls["api"]["dapiPublic"] = f"http://{host}/{venue}/dapi/v1"
        client.urls["api"]["ws"]["inverse"] = f"ws://{host}/{venue}/ws"
    return client


async def until(condition: Callable[[], bool], what: str, tasks: list[asyncio.Task[None]]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        for task in tasks:
            if task.done():
                task.result()
        assert time.monotonic() < deadline, f"waited 20 s for {what}"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", ["trade", "aggTrade"])
@pytest.mark.parametrize(
    ("place", "markets"),
    [
        (USDM, {"BTC/USDT:USDT", "ETH/USDT:USDT", "BTC/USDT:USDT-291228"}),
        (COINM, {"BTC/USD:BTC", "ETH/USD:ETH", "BTC/USD:BTC-291228"}),
    ],
    ids=["usdm", "coinm"],
)
async def test_independent_client_ends_with_the_simulators_own_book_and_trades(
    place: tuple[str, str], markets: set[str], stream: str
) -> None:
    ccxt = pytest.importorskip("ccxt.pro", reason="ccxt is a development dependency")
    simulator = Simulator([place[0]], rate=400)
    await simulator.start()
    client = client_of(ccxt, place[0], f"127.0.0.1:{simulator.port}")
    seen: list[tuple[int, str, str]] = []
    books: list[Any] = []
    tasks: list[asyncio.Task[None]] = []
    try:
        await client.load_markets()
        assert set(client.symbols) == markets
        market = "BTC/USDT:USDT" if place == USDM else "BTC/USD:BTC"

        async def watch_trades() -> None:
            while True:
                for trade in await client.watch_trades(market, params={"name": stream}):
                    assert trade["info"]["e"] == stream
                    seen.append((int(trade["id"]), trade["info"]["p"], trade["info"]["q"]))

        async def watch_book() -> None:
            while True:
                books[:] = [await client.watch_order_book(market)]

        tasks += [asyncio.create_task(watch_trades()), asyncio.create_task(watch_book())]
        await until(lambda: bool(seen and books), "the first trade and book", tasks)
        start = simulator.events
        await until(lambda: simulator.events > start + 500, "the market", tasks)
        simulator.paused = True
        truth = simulator.market.symbols[place]
        told = truth.truth if stream == "trade" else simulator._houses[place[0]].told(truth)
        await until(
            lambda: seen[-1][0] == told.ids[-1] and books[0]["nonce"] == truth.update_id,
            f"the end: {truth.trade_id}, {truth.update_id}",
            tasks,
        )
        first = told.ids.index(seen[0][0])
        assert seen == list(zip(told.ids, told.prices, told.quantities, strict=True))[first:]
        for side, levels in zip(("bids", "asks"), truth.book(100), strict=True):
            assert [tuple(level[:2]) for level in books[0][side][:100]] == [
                (float(price), float(quantity)) for price, quantity in levels
            ]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
        await simulator.stop()
