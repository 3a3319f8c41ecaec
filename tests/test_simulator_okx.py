"""The simulated OKX by itself, seen by plain clients: channels, cadences, instruments and endpoints."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from itertools import pairwise
from typing import Any
from unittest.mock import ANY

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from aiohttp.web import Application

from marketprism_ray.simulator.market import EXPIRY, Market, TradeEvent, made_up_coin
from marketprism_ray.simulator.okx.channels import CHANNELS
from marketprism_ray.simulator.okx.house import RULES, Okx
from marketprism_ray.simulator.okx.intervals import FORMS, end_of, open_of
from marketprism_ray.simulator.rules import Rules
from marketprism_ray.simulator.server import Simulator
from marketprism_ray.simulator.summaries import (
    DAY_MS,
    FUNDING_MS,
    candles,
    funding_rate,
    greeks,
    last_day,
    long_share,
    mark_price,
    next_funding_ms,
    open_interest,
)
from marketprism_ray.simulator.unrest import Command
from marketprism_ray.simulator.wire import Fault, Wire

SPOT, DERIVATIVES = "okx_spot", "okx_derivatives"
LINEAR, INVERSE, DATED = "BTC-USDT-SWAP", "BTC-USD-SWAP", "BTC-USDT-291228"
CALL, PUT = "BTC-USD-291228-100000-C", "BTC-USD-291228-80000-P"
HOUR_MS = 3_600_000


@dataclass
class Wires:
    """A house, its market, and plain HTTP and websocket access to it."""

    house: Okx
    market: Market
    http: aiohttp.ClientSession
    host: str
    simulator: Simulator | None = None

    async def get(self, endpoint: str, **query: str) -> Any:
        return (await self.answer(endpoint, **query))[1]["data"]

    async def answer(self, endpoint: str, **query: str) -> tuple[int, Any]:
        url = f"{self.house.endpoints(self.host)['rest']}/api/v5/{endpoint}"
        async with self.http.get(url, params=query) as answer:
            return answer.status, await answer.json()

    async def socket(self, path: str, *args: dict[str, Any], op: str = "subscribe") -> aiohttp.ClientWebSocketResponse:
        socket = await self.http.ws_connect(self.house.endpoints(self.host)[path])
        await socket.send_json({"op": op, "args": args})
        return socket

    async def subscribed(self, name: str, value: str) -> aiohttp.ClientWebSocketResponse:
        """Subscribe one stream, and read the acknowledgement."""
        channel = CHANNELS[name]
        socket = await self.socket(channel.path, {"channel": name, channel.parameter: value})
        assert (await frame(socket))["event"] == "subscribe"
        return socket

    def trade(self, name: str, time_ms: int | None = None) -> TradeEvent:
        """Let a trade happen to one instrument, and send it."""
        event = self.market.symbols[self.house.name, name].trade(now() if time_ms is None else time_ms)
        self.house.publish(event)
        return event

    def change(self, name: str, time_ms: int | None = None) -> None:
        """Let a book change, and send it."""
        self.house.publish(self.market.symbols[self.house.name, name].change(now() if time_ms is None else time_ms))


@asynccontextmanager
async def simulated(venue: str) -> AsyncIterator[Wires]:
    """Run one venue in this loop; the clock runs, the market moves only by hand."""
    simulator = Simulator([venue], rate=0.001)
    await simulator.start()
    async with aiohttp.ClientSession() as http:
        try:
            house = simulator._houses[venue]
            assert isinstance(house, Okx)
            house.rules = Rules()
            yield Wires(house, simulator.market, http, f"127.0.0.1:{simulator.port}", simulator)
        finally:
            await simulator.stop()


@asynccontextmanager
async def by_hand(venue: str) -> AsyncIterator[Wires]:
    """Run one venue in this loop; clock and market move only by hand."""
    market, wire = Market([venue], 1), Wire()
    house = Okx(venue, market, wire)
    house.rules = Rules()  # the limit of connects has a test of its own
    app = Application()
    app.add_routes(house.routes())
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        try:
            yield Wires(house, market, http, f"{server.host}:{server.port}")
        finally:
            for client in list(wire.clients):
                client.abort()


def now() -> int:
    return int(time.time() * 1000)


def hours_ago(count: int) -> int:
    """Give the beginning of an hour in the past."""
    return (now() // HOUR_MS - count) * HOUR_MS


async def frame(socket: aiohttp.ClientWebSocketResponse) -> Any:
    return json.loads(await socket.receive_str(timeout=5))


async def row(socket: aiohttp.ClientWebSocketResponse) -> Any:
    """Read a push with one row."""
    (found,) = (await frame(socket))["data"]
    return found


async def pending(socket: aiohttp.ClientWebSocketResponse) -> list[Any]:
    """Read all that is on the way: what answers last was sent last."""
    await socket.send_str("ping")
    found = []
    while (text := await socket.receive_str(timeout=5)) != "pong":
        found.append(json.loads(text))
    return found


# --- house ---


async def test_endpoints_name_both_sockets_and_rest() -> None:
    assert Okx(SPOT, Market([SPOT], 1), Wire()).endpoints("127.0.0.1:1") == {
        "public": "ws://127.0.0.1:1/okx_spot/ws/v5/public",
        "business": "ws://127.0.0.1:1/okx_spot/ws/v5/business",
        "rest": "http://127.0.0.1:1/okx_spot",
    }


async def test_reset_and_keep_alive_are_faults_of_this_house_and_nothing_else_is() -> None:
    async with by_hand(SPOT) as wires:
        socket = await wires.subscribed("books", "BTC-USDT")
        last = (await row(socket))["seqId"]
        assert wires.house.misbehave("keep_alive")
        assert wires.house.misbehave("reset")
        assert not wires.house.misbehave("drop")
        alive, reset = [one["data"][0] for one in await pending(socket)]
        assert (alive["prevSeqId"], alive["seqId"], alive["bids"], alive["asks"]) == (last, last, [], [])
        assert reset["seqId"] < reset["prevSeqId"] == last


async def test_a_book_is_called_alive_once_for_each_minute_without_a_change() -> None:
    async with by_hand(SPOT) as wires:
        socket = await wires.subscribed("books", "BTC-USDT")
        await row(socket)
        start = hours_ago(1)
        wires.change("BTC-USDT", start)
        for time_ms in range(start, start + 180_000, 5_000):
            wires.house.tick(time_ms)
        _, *alive = [one["data"][0] for one in await pending(socket)]
        assert [int(one["ts"]) - start for one in alive] == [60_000, 120_000]


# --- acknowledgements ---


@pytest.mark.parametrize(
    ("venue", "path", "arg"),
    [
        (SPOT, "business", {"channel": "tickers", "instId": "BTC-USDT"}),
        (SPOT, "public", {"channel": "candle1m", "instId": "BTC-USDT"}),
        (SPOT, "business", {"channel": "candle7m", "instId": "BTC-USDT"}),
        (SPOT, "public", {"channel": "tickers", "instId": "BTC-USDT-SWAP"}),
        (SPOT, "public", {"channel": "open-interest", "instId": "BTC-USDT"}),
        (SPOT, "public", {"channel": "mark-price", "instId": "BTC-USDT"}),
        (SPOT, "public", {"channel": "opt-summary", "instFamily": "BTC-USD"}),
        (DERIVATIVES, "public", {"channel": "funding-rate", "instId": DATED}),
        (DERIVATIVES, "public", {"channel": "opt-summary", "instFamily": "ETH-USD"}),
        (DERIVATIVES, "public", {"channel": "opt-summary", "uly": "BTC-USD"}),
        (DERIVATIVES, "public", {"channel": "liquidation-orders", "instType": "SWAPS"}),
        (DERIVATIVES, "public", {"channel": "index-tickers", "instId": LINEAR}),
        (DERIVATIVES, "public", {"channel": "no-such", "instId": LINEAR}),
        (DERIVATIVES, "public", {"channel": "tickers"}),
        (DERIVATIVES, "public", {"channel": "tickers", "instId": ["BTC"]}),
        (DERIVATIVES, "public", {"channel": ["tickers"], "instId": "BTC"}),
    ],
)
async def test_what_is_not_on_offer_is_refused_and_its_neighbours_are_not(
    venue: str, path: str, arg: dict[str, Any]
) -> None:
    async with simulated(venue) as wires:
        good = {"channel": "instruments", "instType": "SPOT"}
        args = [arg, good] if path == "public" else [arg]
        refused, *others = await pending(await wires.socket(path, *args))
        assert (refused["event"], refused["code"]) == ("error", "60018")
        name, value = next(((n, v) for n, v in arg.items() if n != "channel"), ("instId", ""))
        assert f"channel:{arg['channel']},{name}:{value} doesn't exist" in refused["msg"]
        assert [(other["event"], other["arg"]) for other in others] == [("subscribe", one) for one in args[1:]]


async def test_an_unsubscribed_stream_falls_silent() -> None:
    async with by_hand(DERIVATIVES) as wires:
        socket = await wires.subscribed("funding-rate", LINEAR)
        await row(socket)
        wires.house.tick(hours_ago(1))
        assert len(await pending(socket)) == 1
        await socket.send_json({"op": "unsubscribe", "args": [{"channel": "funding-rate", "instId": LINEAR}]})
        assert (await frame(socket))["event"] == "unsubscribe"
        wires.house.tick(hours_ago(0))
        assert await pending(socket) == []


# --- channels ---

TICKER = """instType instId last lastSz askPx askSz bidPx bidSz open24h high24h low24h volCcy24h vol24h sodUtc0 sodUtc8
 ts"""
FUNDING = """instId instType method formulaType fundingRate fundingTime nextFundingRate nextFundingTime minFundingRate
 maxFundingRate interestRate impactValue premium settState settFundingRate ts"""
CHARGED = "instType instId fundingRate realizedRate fundingTime method formulaType"
SUMMARY = """instType instId uly delta gamma vega theta deltaBS gammaBS vegaBS thetaBS lever markVol bidVol askVol
 realVol volLv fwdPx ts"""
FIELDS = {
    "tickers": TICKER,
    "funding-rate": FUNDING,
    "opt-summary": SUMMARY,
    "open-interest": "instType instId oi oiCcy oiUsd ts",
    "mark-price": "instType instId markPx ts",
    "index-tickers": "instId idxPx open24h high24h low24h sodUtc0 sodUtc8 ts",
    "books5": "asks bids instId ts seqId",
}


@pytest.mark.parametrize(
    ("venue", "name", "value"),
    [
        (SPOT, "tickers", "BTC-USDT"),
        (SPOT, "books5", "BTC-USDT"),
        (SPOT, "index-tickers", "BTC-USDT"),
        (DERIVATIVES, "tickers", LINEAR),
        (DERIVATIVES, "tickers", CALL),
        (DERIVATIVES, "funding-rate", INVERSE),
        (DERIVATIVES, "open-interest", DATED),
        (DERIVATIVES, "open-interest", PUT),
        (DERIVATIVES, "mark-price", CALL),
        (DERIVATIVES, "index-tickers", "BTC-USD"),
        (DERIVATIVES, "opt-summary", "BTC-USD"),
        (DERIVATIVES, "books5", CALL),
    ],
)
async def test_a_new_listener_gets_all_fields_as_text_and_more_when_the_market_moves(
    venue: str, name: str, value: str
) -> None:
    async with simulated(venue) as wires:
        socket = await wires.subscribed(name, value)
        first = await frame(socket)
        assert first["arg"] == {"channel": name, CHANNELS[name].parameter: value}
        for found in first["data"]:
            assert set(found) == set(FIELDS[name].split())
            if name != "books5":
                assert all(isinstance(text, str) for text in found.values())
        if CHANNELS[name].every_ms <= 1_000:
            for symbol in wires.market.of_venue(venue):
                wires.trade(symbol.listing.venue_symbol)
                wires.change(symbol.listing.venue_symbol)
                while mark_price(symbol) == Decimal(first["data"][0].get("markPx", 0)):
                    wires.change(symbol.listing.venue_symbol)
            assert (await frame(socket))["arg"] == first["arg"]


@pytest.mark.parametrize(("venue", "name"), [(SPOT, "BTC-USDT"), (DERIVATIVES, LINEAR), (DERIVATIVES, INVERSE)])
async def test_tickers_sum_the_last_day_and_are_the_same_by_rest(venue: str, name: str) -> None:
    async with by_hand(venue) as wires:
        socket = await wires.subscribed("tickers", name)
        empty = await row(socket)
        assert (empty["last"], empty["open24h"], empty["vol24h"], empty["volCcy24h"]) == ("", "", "0", "0")
        assert empty["sodUtc0"] == empty["sodUtc8"] == ""
        at = now() + 1_000
        for time_ms in range(at - 26 * HOUR_MS - HOUR_MS // 2, at, HOUR_MS):
            wires.trade(name, time_ms)
        truth = wires.market.symbols[venue, name].truth
        day = last_day(truth, at)
        assert day is not None
        wires.house.tick(at)
        (found,) = [one["data"][0] for one in await pending(socket)]
        start = len(truth.ids) - day.trades
        amounts = [
            (Decimal(p), Decimal(q)) for p, q in zip(truth.prices[start:], truth.quantities[start:], strict=True)
        ]
        expected = {
            "BTC-USDT": sum(p * q for p, q in amounts),
            LINEAR: sum(q for _, q in amounts) / 100,
            INVERSE: sum((q * 100 / p).quantize(Decimal("1e-12")) for p, q in amounts),
        }
        assert Decimal(found["volCcy24h"]) == expected[name]
        assert Decimal(found["vol24h"]) == day.volume
        assert (found["open24h"], found["high24h"], found["low24h"]) == (day.open, day.high, day.low)
        assert (found["last"], found["lastSz"]) == (truth.prices[-1], truth.quantities[-1])
        (polled,) = await wires.get("market/ticker", instId=name)
        assert {**polled, "ts": ""} == {**found, "ts": ""}


async def test_tickers_give_the_first_price_of_the_day_here_and_in_hong_kong() -> None:
    async with by_hand(SPOT) as wires:
        midnight = now() // DAY_MS * DAY_MS - DAY_MS
        socket = await wires.subscribed("tickers", "BTC-USDT")
        await row(socket)
        events = [wires.trade("BTC-USDT", midnight + hours * HOUR_MS) for hours in (-1, 3, 9, 15)]
        for hours, utc, hong_kong in ((15, 1, 0), (16, 1, 3), (24, 3, 3)):
            wires.change("BTC-USDT")
            wires.house.tick(midnight + hours * HOUR_MS)
            (found,) = [one["data"][0] for one in await pending(socket)]
            assert (found["sodUtc0"], found["sodUtc8"]) == (events[utc].price, events[hong_kong].price)


async def test_tickers_and_books5_come_at_most_each_100_ms_and_only_after_a_change() -> None:
    async with by_hand(SPOT) as wires:
        sockets = [await wires.subscribed(name, "BTC-USDT") for name in ("tickers", "books5")]
        for socket in sockets:
            await row(socket)
        start = hours_ago(1)
        for time_ms in range(start, start + 1000, 5):
            if time_ms < start + 500:
                wires.change("BTC-USDT", time_ms)
            wires.house.tick(time_ms)
        for socket in sockets:
            found = [one["data"][0] for one in await pending(socket)]
            assert [int(one["ts"]) - start for one in found] == [0, 100, 200, 300, 400, 500]
        bids, asks = wires.market.symbols[SPOT, "BTC-USDT"].book(5)
        assert [tuple(level[:2]) for level in found[-1]["bids"]] == bids
        assert [tuple(level[:2]) for level in found[-1]["asks"]] == asks


@pytest.mark.parametrize(
    ("name", "value", "every_ms"),
    [
        ("mark-price", LINEAR, 10_000),
        ("opt-summary", "BTC-USD", 1_000),
        ("funding-rate", LINEAR, 30_000),
    ],
)
async def test_slow_streams_keep_their_cadence_without_a_change(name: str, value: str, every_ms: int) -> None:
    async with by_hand(DERIVATIVES) as wires:
        socket = await wires.subscribed(name, value)
        await frame(socket)
        start = hours_ago(1)
        for time_ms in range(start, start + 90_000, 50):
            wires.house.tick(time_ms)
        times = [int(one["data"][0]["ts"]) - start for one in await pending(socket)]
        assert times == list(range(0, 90_000, every_ms))


async def test_marks_and_open_interest_are_sent_as_soon_as_they_change() -> None:
    async with by_hand(DERIVATIVES) as wires:
        marks, interest = [await wires.subscribed(name, INVERSE) for name in ("mark-price", "open-interest")]
        start = hours_ago(1)
        for time_ms in range(start, start + 90_000, 50):
            wires.change(INVERSE, time_ms)
            wires.house.tick(time_ms)
        for socket, name, every_ms in ((marks, "markPx", 200), (interest, "oi", 3_000)):
            _, *rows = [one["data"][0] for one in await pending(socket)]
            slots = [int(one["ts"]) // every_ms for one in rows]
            assert len(slots) == len(set(slots))
            values = [one[name] for one in rows]
            repeated = sum(one == other for one, other in pairwise(values))
            assert repeated <= 9, "what has not changed is sent each 10 s at most"
            assert len(values) > 90_000 / every_ms / 5


async def test_funding_says_what_will_be_charged_and_when() -> None:
    async with simulated(DERIVATIVES) as wires:
        found = await row(await wires.subscribed("funding-rate", LINEAR))
        at, listing = int(found["ts"]), wires.market.symbols[DERIVATIVES, LINEAR].listing
        assert Decimal(found["fundingRate"]) == funding_rate(listing, at)
        assert int(found["fundingTime"]) == next_funding_ms(at)
        assert int(found["nextFundingTime"]) - int(found["fundingTime"]) == FUNDING_MS
        assert Decimal(found["settFundingRate"]) == funding_rate(listing, at - FUNDING_MS)
        assert (found["nextFundingRate"], found["method"]) == ("", "current_period")
        (polled,) = await wires.get("public/funding-rate", instId=LINEAR)
        assert set(polled) == set(FUNDING.split())
        assert len(await wires.get("public/funding-rate", instId="ANY")) == 3


@pytest.mark.parametrize(
    ("name", "coins"), [(LINEAR, "0.01"), (DATED, "0.01"), (CALL, "0.01"), (INVERSE, "0.0010961306")]
)
async def test_open_interest_is_counted_in_contracts_coins_and_dollars(name: str, coins: str) -> None:
    async with simulated(DERIVATIVES) as wires:
        listing = wires.market.symbols[DERIVATIVES, name].listing
        found = await row(await wires.subscribed("open-interest", name))
        assert Decimal(found["oi"]) == open_interest(listing, int(found["ts"]))
        contracts, coin, dollars = (float(found[one]) for one in ("oi", "oiCcy", "oiUsd"))
        assert coin == pytest.approx(contracts * float(coins))
        assert dollars == pytest.approx(coin * 91_250, rel=0.03)


async def test_the_whole_option_family_comes_in_one_push_in_coin_and_in_dollars() -> None:
    async with simulated(DERIVATIVES) as wires:
        found = (await frame(await wires.subscribed("opt-summary", "BTC-USD")))["data"]
        assert [one["instId"] for one in found] == [CALL, PUT]
        for one in found:
            expected = greeks(wires.market.symbols[DERIVATIVES, one["instId"]].listing, int(one["ts"]))
            assert Decimal(one["deltaBS"]) == expected.delta
            assert Decimal(one["vegaBS"]) == expected.vega
            assert Decimal(one["markVol"]) == expected.mark_iv
            assert Decimal(one["bidVol"]) < Decimal(one["markVol"]) < Decimal(one["askVol"])
            assert Decimal(one["delta"]) < Decimal(one["deltaBS"])
            assert 0 < Decimal(one["vega"]) < 1
            assert one["realVol"] == ""
        polled = await wires.get("public/opt-summary", instFamily="BTC-USD")
        assert [set(one) for one in polled] == [set(SUMMARY.split())] * 2
        assert await wires.get("public/opt-summary", instFamily="ETH-USD") == []
        assert (await wires.answer("public/opt-summary"))[1]["code"] == "50014"


async def test_nothing_is_said_of_instruments_that_do_not_change() -> None:
    async with by_hand(DERIVATIVES) as wires:
        socket = await wires.subscribed("instruments", "OPTION")
        wires.trade(CALL)
        wires.house.tick(now())
        assert await pending(socket) == []


# --- liquidations ---


async def test_liquidations_are_the_forced_trades_of_their_type_one_push_each() -> None:
    async with simulated(DERIVATIVES) as wires:
        sockets = {kind: await wires.subscribed("liquidation-orders", kind) for kind in ("SWAP", "FUTURES")}
        start = hours_ago(1)
        events = [
            wires.trade(name, start + second * 1_000) for second in range(300) for name in (LINEAR, INVERSE, DATED)
        ]
        for kind, socket in sockets.items():
            pushes = await pending(socket)
            assert all(len(one["data"]) == len(one["data"][0]["details"]) == 1 for one in pushes)
            found = [
                (one["instType"], one["instId"], one["instFamily"], one["uly"], *one["details"][0].values())
                for one in (push["data"][0] for push in pushes)
            ]
            expected = [
                (
                    kind,
                    event.listing.venue_symbol,
                    *[f"{event.listing.base}-{event.listing.quote}"] * 2,
                    *(("sell", "long") if event.taker_sold else ("buy", "short")),
                    event.price,
                    event.quantity,
                    "0",
                    "",
                    str(event.time_ms),
                )
                for event in events
                if event.is_liquidation and (event.listing.market_type == "futures") == (kind == "FUTURES")
            ]
            assert found == expected
            assert expected


async def test_a_forced_order_is_one_liquidation_and_a_contract_has_one_a_second() -> None:
    async with by_hand(DERIVATIVES) as wires:
        socket = await wires.subscribed("liquidation-orders", "SWAP")
        symbol, start = wires.market.symbols[DERIVATIVES, LINEAR], hours_ago(1)
        expected: dict[int, tuple[str, Decimal]] = {}
        for number in range(2_000):
            fills = [one for one in symbol.sweep(start + number * 100) if isinstance(one, TradeEvent)]
            for fill in fills:
                wires.house.publish(fill)
            if fills[0].is_liquidation:
                total = sum((Decimal(fill.quantity) for fill in fills), Decimal())
                expected.setdefault(fills[0].time_ms // 1_000, (fills[-1].price, total))
        orders = [one["data"][0]["details"][0] for one in await pending(socket)]
        assert [(one["bkPx"], Decimal(one["sz"])) for one in orders] == list(expected.values())
        assert len(orders) > 10


async def test_the_first_liquidation_after_subscribing_is_history_if_there_was_any() -> None:
    async with by_hand(DERIVATIVES) as wires:
        early = await wires.subscribed("liquidation-orders", "SWAP")
        assert await pending(early) == []
        while not (event := wires.trade(LINEAR)).is_liquidation:
            pass
        late = await wires.subscribed("liquidation-orders", "SWAP")
        assert (await frame(early)) == (history := await frame(late))
        assert history["data"][0]["details"][0]["bkPx"] == event.price
        assert await pending(await wires.subscribed("liquidation-orders", "FUTURES")) == []


# --- candles ---


@pytest.mark.parametrize(
    ("form", "at", "opened", "ended"),
    [
        ("1m", "2026-11-21T02:29:59", "2026-11-21T02:29:00", "2026-11-21T02:30:00"),
        ("4H", "2026-11-21T02:29:59", "2026-11-21T00:00:00", "2026-11-21T04:00:00"),
        ("6H", "2026-11-21T21:00:00", "2026-11-21T16:00:00", "2026-11-21T22:00:00"),
        ("6Hutc", "2026-11-21T21:00:00", "2026-11-21T18:00:00", "2026-11-22T00:00:00"),
        ("12H", "2026-11-21T03:00:00", "2026-11-20T16:00:00", "2026-11-21T04:00:00"),
        ("1D", "2026-11-21T15:59:59", "2026-11-20T16:00:00", "2026-11-21T16:00:00"),
        ("1Dutc", "2026-11-21T15:59:59", "2026-11-21T00:00:00", "2026-11-22T00:00:00"),
        ("1W", "2026-11-22T15:59:59", "2026-11-15T16:00:00", "2026-11-22T16:00:00"),
        ("1Wutc", "2026-11-22T23:59:59", "2026-11-16T00:00:00", "2026-11-23T00:00:00"),
        ("1M", "2026-11-30T15:59:59", "2026-10-31T16:00:00", "2026-11-30T16:00:00"),
        ("1Mutc", "2026-12-31T23:59:59", "2026-12-01T00:00:00", "2027-01-01T00:00:00"),
    ],
)
def test_candles_of_6_hours_and_more_follow_hong_kong_unless_they_say_utc(
    form: str, at: str, opened: str, ended: str
) -> None:
    times = [int(datetime.fromisoformat(f"{one}+00:00").timestamp()) * 1000 for one in (at, opened, ended)]
    assert [open_of(form, times[0]), end_of(form, times[1])] == times[1:]


@pytest.mark.parametrize(("venue", "name"), [(SPOT, "BTC-USDT"), (DERIVATIVES, INVERSE), (DERIVATIVES, CALL)])
async def test_candles_are_closed_once_and_equal_the_truth_and_the_history(venue: str, name: str) -> None:
    async with by_hand(venue) as wires:
        socket = await wires.subscribed("candle1m", name)
        assert await pending(socket) == []
        start = hours_ago(2)
        for time_ms in range(start, start + 300_000, 100):
            if time_ms % 700 == 0 and time_ms < start + 240_000:
                wires.trade(name, time_ms)
            wires.house.tick(time_ms)
        pushes = await pending(socket)
        assert all(push["arg"] == {"channel": "candle1m", "instId": name} for push in pushes)
        rows = [push["data"][0] for push in pushes]
        closed = [one for one in rows if one[-1] == "1"]
        truth = wires.market.symbols[venue, name].truth
        assert [(int(o[0]), *o[1:5], Decimal(o[5])) for o in closed] == [
            (c.open_ms, c.open, c.high, c.low, c.close, c.volume) for c in candles(truth, 60_000)
        ]
        # A push a second, and one more for each that closes.
        assert 230 <= len(rows) <= 250
        # Nothing is traded in the last interval: it is at the last price, and still open.
        *_, open_one = rows
        assert open_one == [str(start + 240_000), *[closed[-1][4]] * 4, "0", "0", "0", "0"]
        history = await wires.get("market/candles", instId=name, bar="1m", after=str(start + 300_000))
        assert [one[:8] for one in history] == [one[:8] for one in [open_one, *closed[::-1]]]


async def test_intervals_without_trades_have_candles_at_the_last_price_by_push_and_by_rest() -> None:
    async with simulated(SPOT) as wires:
        socket = await wires.subscribed("candle1s", "BTC-USDT")
        event = wires.trade("BTC-USDT")
        closed: list[list[str]] = []
        while len(closed) < 3:
            found = await row(socket)
            if found[-1] == "1":
                closed.append(found)
        start = event.time_ms // 1000 * 1000
        assert [(int(one[0]) - start, *one[1:6]) for one in closed] == [
            (0, *[event.price] * 4, event.quantity),
            (1_000, *[event.price] * 4, "0"),
            (2_000, *[event.price] * 4, "0"),
        ]
        late = await wires.subscribed("candle1s", "BTC-USDT")
        assert int((await row(late))[0]) > start + 2_000, "what was missed is not sent again"
        query = {"instId": "BTC-USDT", "bar": "1s", "after": str(start + 3_000)}
        assert await wires.get("market/history-candles", **query) == closed[::-1]


async def test_candles_count_contracts_coins_and_quote() -> None:
    async with by_hand(DERIVATIVES) as wires:
        for name in (LINEAR, INVERSE):
            event = wires.trade(name)
            (_, *prices, volume, coin, quote, confirm) = await row(await wires.subscribed("candle1Dutc", name))
            price, quantity = Decimal(event.price), Decimal(event.quantity)
            assert prices == [event.price] * 4
            assert (volume, confirm) == (event.quantity, "0")
            expected_quote = quantity * 100 if name == INVERSE else quantity / 100 * price
            assert Decimal(quote) == expected_quote
            assert float(coin) == pytest.approx(float(expected_quote / price))
    async with by_hand(SPOT) as wires:
        event = wires.trade("BTC-USDT")
        found = await row(await wires.subscribed("candle1H", "BTC-USDT"))
        assert Decimal(found[6]) == Decimal(found[7]) == Decimal(event.price) * Decimal(event.quantity)


async def test_every_form_of_candle_goes_on_from_what_was_before_subscribing() -> None:
    async with by_hand(SPOT) as wires:
        for time_ms in range(now() - 1_300_000, now(), 7_000):
            wires.trade("BTC-USDT", time_ms)
        compared = 0
        for form in FORMS:
            pushes = await pending(await wires.subscribed(f"candle{form}", "BTC-USDT"))
            history = await wires.get("market/history-candles", instId="BTC-USDT", bar=form, limit="1")
            if history[0][0] == pushes[0]["data"][0][0]:  # not if an interval ended just now
                assert pushes[0]["data"] == history
                compared += 1
        assert compared >= 10


async def test_a_running_clock_closes_candles_of_a_second() -> None:
    async with simulated(SPOT) as wires:
        socket = await wires.subscribed("candle1s", "BTC-USDT")
        event = wires.trade("BTC-USDT")
        while (found := await row(socket))[-1] != "1":
            assert found[1] == event.price
        assert (found[1], found[5]) == (event.price, event.quantity)
        assert int(found[0]) == event.time_ms // 1000 * 1000


async def test_history_of_candles_pages_both_ways() -> None:
    async with by_hand(SPOT) as wires:
        start = hours_ago(5)
        for minute in range(250):
            wires.trade("BTC-USDT", start + minute * 60_000 + 5)
        query = {"instId": "BTC-USDT", "bar": "1m", "limit": "100"}
        found: list[list[str]] = []
        end = str(start + 250 * 60_000)
        while page := await wires.get("market/candles", **query, after=found[-1][0] if found else end):
            found += page
        assert [int(one[0]) for one in found] == [start + minute * 60_000 for minute in range(249, -1, -1)]
        newer = await wires.get("market/history-candles", **query, before=found[4][0], after=end)
        assert newer == found[:4]
        between = await wires.get("market/candles", **query, before=found[9][0], after=found[5][0])
        assert between == found[6:9]
        longer = await wires.get("market/candles", instId="BTC-USDT", bar="5m", after=end)
        assert sum(Decimal(one[5]) for one in longer) == sum(Decimal(one[5]) for one in found)
        assert (await wires.answer("market/candles", instId="BTC-USDT", bar="7m"))[1]["code"] == "51000"


# --- instruments and figures by REST ---


async def test_instruments_say_what_a_contract_is() -> None:
    async with simulated(DERIVATIVES) as wires:
        found = {
            one["instId"]: one
            for query in (
                {"instType": "SWAP"},
                {"instType": "FUTURES"},
                {"instType": "OPTION", "instFamily": "BTC-USD"},
            )
            for one in await wires.get("public/instruments", **query)
        }
        names = ("instType", "instFamily", "uly", "settleCcy", "ctVal", "ctMult", "ctValCcy", "ctType", "expTime")
        expiry = str(EXPIRY[1])
        assert {name: tuple(one[key] for key in (*names, "stk", "optType")) for name, one in found.items()} == {
            LINEAR: ("SWAP", "BTC-USDT", "BTC-USDT", "USDT", "0.01", "1", "BTC", "linear", "", "", ""),
            "ETH-USDT-SWAP": ("SWAP", "ETH-USDT", "ETH-USDT", "USDT", "0.1", "1", "ETH", "linear", "", "", ""),
            INVERSE: ("SWAP", "BTC-USD", "BTC-USD", "BTC", "100", "1", "USD", "inverse", "", "", ""),
            DATED: ("FUTURES", "BTC-USDT", "BTC-USDT", "USDT", "0.01", "1", "BTC", "linear", expiry, "", ""),
            CALL: ("OPTION", "BTC-USD", "BTC-USD", "BTC", "1", "0.01", "BTC", "", expiry, "100000", "C"),
            PUT: ("OPTION", "BTC-USD", "BTC-USD", "BTC", "1", "0.01", "BTC", "", expiry, "80000", "P"),
        }
        assert {(one["baseCcy"], one["quoteCcy"]) for one in found.values()} == {("", "")}
        by_underlying = await wires.get("public/instruments", instType="OPTION", uly="BTC-USD")
        assert [one["instId"] for one in by_underlying] == [CALL, PUT]
        assert await wires.get("public/instruments", instType="OPTION", instFamily="ETH-USD") == []
        for query, code in (({}, "50014"), ({"instType": "OPTION"}, "50014"), ({"instType": "SWOP"}, "51000")):
            assert (await wires.answer("public/instruments", **query))[1]["code"] == code
    async with simulated(SPOT) as wires:
        spot = (await wires.get("public/instruments", instType="SPOT"))[0]
        assert (spot["baseCcy"], spot["quoteCcy"], spot["settleCcy"], spot["ctVal"]) == ("BTC", "USDT", "", "")


async def test_lists_by_type_hold_every_instrument_of_it() -> None:
    async with simulated(DERIVATIVES) as wires:
        for endpoint, fields in (
            ("market/tickers", TICKER),
            ("public/open-interest", FIELDS["open-interest"]),
            ("public/mark-price", FIELDS["mark-price"]),
        ):
            for kind, count in (("SWAP", 3), ("FUTURES", 1), ("OPTION", 2)):
                found = await wires.get(endpoint, instType=kind)
                assert [set(one) for one in found] == [set(fields.split())] * count
            assert (await wires.answer(endpoint))[1]["code"] == "50014"
        assert len(await wires.get("public/open-interest", instType="SWAP", instId=INVERSE)) == 1
        assert len(await wires.get("public/open-interest", instType="SWAP", instFamily="BTC-USDT")) == 1


async def test_history_of_funding_is_what_was_charged_each_8_hours() -> None:
    async with simulated(DERIVATIVES) as wires:
        listing = wires.market.symbols[DERIVATIVES, LINEAR].listing
        rows = await wires.get("public/funding-rate-history", instId=LINEAR)
        times = [int(one["fundingTime"]) for one in rows]
        assert len(times) == 92 * 3
        assert times == [times[0] - n * FUNDING_MS for n in range(len(times))]
        for one, charged in zip(rows, times, strict=True):
            assert Decimal(one["realizedRate"]) == funding_rate(listing, charged - 1)
            assert set(one) == set(CHARGED.split())
        limited = await wires.get("public/funding-rate-history", instId=LINEAR, limit="3")
        assert limited == rows[:3]
        older = await wires.get("public/funding-rate-history", instId=LINEAR, limit="3", after=str(times[2]))
        assert older == rows[3:6]
        newer = await wires.get("public/funding-rate-history", instId=LINEAR, before=str(times[2]))
        assert newer == rows[:2]
        assert (await wires.answer("public/funding-rate-history", instId=DATED))[1]["code"] == "51001"


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("long-short-account-ratio-contract", "all_account"),
        ("long-short-account-ratio-contract-top-trader", "top_account"),
        ("long-short-position-ratio-contract-top-trader", "top_position"),
    ],
)
async def test_ratios_are_longs_per_short_newest_first(endpoint: str, name: str) -> None:
    async with simulated(DERIVATIVES) as wires:
        listing, path = wires.market.symbols[DERIVATIVES, LINEAR].listing, f"rubik/stat/contracts/{endpoint}"
        rows = await wires.get(path, instId=LINEAR, period="5m")
        times = [int(at) for at, _ in rows]
        assert times == [times[0] - n * 300_000 for n in range(100)]
        for at, ratio in rows:
            longs = long_share(name, listing, int(at))
            assert ratio == f"{longs / (1 - longs):.4f}"
        page = await wires.get(path, instId=LINEAR, period="5m", begin=rows[9][0], end=rows[4][0], limit="4")
        assert page == rows[4:8]
        by_day = await wires.get(path, instId=LINEAR, period="1D", limit="2")
        assert int(by_day[0][0]) % DAY_MS == 16 * HOUR_MS


async def test_history_of_open_interest_ends_where_the_stream_is() -> None:
    async with simulated(DERIVATIVES) as wires:
        rows = await wires.get("rubik/stat/contracts/open-interest-history", instId=INVERSE, period="1H", limit="5")
        listing = wires.market.symbols[DERIVATIVES, INVERSE].listing
        for at, contracts, _, dollars in rows:
            assert Decimal(contracts) == open_interest(listing, int(at))
            assert Decimal(dollars) == Decimal(contracts) * 100
        assert [int(rows[0][0]) - int(one[0]) for one in rows] == [n * HOUR_MS for n in range(5)]


async def test_wrong_questions_are_answered_with_a_code() -> None:
    async with simulated(DERIVATIVES) as wires:
        for endpoint, query, status, code in (
            ("market/ticker", {"instId": "NO-SUCH"}, 200, "51001"),
            ("market/books", {}, 400, "50014"),
            ("market/books", {"instId": LINEAR, "sz": "x"}, 400, "51000"),
            ("market/trades", {"instId": LINEAR, "limit": "many"}, 400, "51000"),
            ("public/open-interest", {"instType": "SPOT"}, 400, "51000"),
            ("no/such", {}, 404, "50014"),
        ):
            found = await wires.answer(endpoint, **query)
            assert (found[0], found[1]["code"], found[1]["data"]) == (status, code, [])


@pytest.mark.parametrize(
    ("endpoint", "most", "query", "other"),
    [
        ("public/funding-rate", 10, {"instId": LINEAR}, {"instId": INVERSE}),
        ("public/instruments", 20, {"instType": "SWAP"}, {"instType": "FUTURES"}),
        ("public/mark-price", 10, {"instType": "SWAP"}, None),
        ("rubik/stat/contracts/long-short-account-ratio-contract", 5, {"instId": LINEAR}, {"instId": INVERSE}),
        ("rubik/stat/contracts/open-interest-history", 5, {"instId": LINEAR}, None),
    ],
)
async def test_more_requests_than_allowed_are_refused_and_counted(
    endpoint: str, most: int, query: dict[str, str], other: dict[str, str] | None
) -> None:
    async with simulated(DERIVATIVES) as wires:
        answers = [await wires.answer(endpoint, **query) for _ in range(most + 1)]
        assert [(status, found["code"]) for status, found in answers] == [(200, "0")] * most + [(429, "50011")]
        assert wires.house.rate_limited == 1
        assert (await wires.answer("public/time"))[0] == 200
        if other is not None:
            assert (await wires.answer(endpoint, **other))[0] == 200


# --- what the venue's own words are ---


async def test_a_push_of_trades_merges_fills_of_one_order_at_one_price_and_trades_all_has_each() -> None:
    async with by_hand(SPOT) as wires:
        merging, every = [await wires.subscribed(name, "BTC-USDT") for name in ("trades", "trades-all")]
        symbol = wires.market.symbols[SPOT, "BTC-USDT"]
        for at in range(50):
            for event in symbol.sweep(1_795_132_800_000 + at):
                wires.house.publish(event)
        fills = [one["data"][0] for one in await pending(every)]
        assert [int(one["tradeId"]) for one in fills] == symbol.truth.ids
        assert all("count" not in one for one in fills)
        pushes = [one["data"][0] for one in await pending(merging)]
        assert max(int(one["count"]) for one in pushes) > 2
        assert sum(int(one["count"]) for one in pushes) == len(fills)
        place = 0
        for push in pushes:
            part = fills[place : place + int(push["count"])]
            place += len(part)
            assert push["tradeId"] == part[-1]["tradeId"]
            assert {one["px"] for one in part} == {push["px"]}
            assert sum(Decimal(one["sz"]) for one in part) == Decimal(push["sz"])
        sequences = [one["seqId"] for one in pushes]
        assert sequences == sorted(sequences)
        assert len(set(sequences)) < len(sequences), "trades may share one"
        assert not {str(one) for one in sequences} & {one["tradeId"] for one in fills}


async def test_changes_of_100_ms_come_in_one_update_that_follows_what_was_sent_last() -> None:
    async with by_hand(DERIVATIVES) as wires:
        socket = await wires.subscribed("books", LINEAR)
        first = await row(socket)
        assert (first["prevSeqId"], first["checksum"]) == (-1, 0)
        book = {side: {level[0]: level[1] for level in first[side]} for side in ("bids", "asks")}
        last, start = first["seqId"], hours_ago(1)
        symbol = wires.market.symbols[DERIVATIVES, LINEAR]
        joined = None
        for time_ms in range(start, start + 3_000, 10):
            for event in symbol.act(time_ms, is_trade=time_ms % 40 == 0):
                wires.house.publish(event)
            wires.house.tick(time_ms)
            if time_ms == start + 1_050:
                joined = await wires.subscribed("books", LINEAR)
        wires.house.tick(start + 3_000)
        updates = await pending(socket)
        assert 25 <= len(updates) <= 32
        jumps = set()
        for push in updates:
            (update,) = push["data"]
            assert (push["action"], update["prevSeqId"], update["checksum"]) == ("update", last, 0)
            jumps.add(update["seqId"] - last)
            last = update["seqId"]
            for side in ("bids", "asks"):
                assert len({level[0] for level in update[side]}) == len(update[side]), "a level once"
                for price, size, *_ in update[side]:
                    if size == "0":
                        book[side].pop(price, None)
                    else:
                        book[side][price] = size
        assert len(jumps) > 10
        bids, asks = symbol.book(400)
        assert (book, last) == ({"bids": dict(bids), "asks": dict(asks)}, symbol.update_id)
        assert joined is not None
        snapshot, *after = [one["data"][0] for one in await pending(joined)]
        assert [one["prevSeqId"] for one in after] == [snapshot["seqId"], *[one["seqId"] for one in after[:-1]]]


async def test_best_prices_come_each_10_ms_and_only_if_they_are_others() -> None:
    async with by_hand(SPOT) as wires:
        socket = await wires.subscribed("bbo-tbt", "BTC-USDT")
        start = hours_ago(1)
        for time_ms in range(start, start + 2_000, 5):
            wires.change("BTC-USDT", time_ms)
            wires.house.tick(time_ms)
        rows = [one["data"][0] for one in await pending(socket)]
        assert all(int(one["ts"]) % 10 == 0 for one in rows)
        assert all((one["bids"], one["asks"]) != (other["bids"], other["asks"]) for one, other in pairwise(rows))
        assert rows


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ("{", "60012"),
        ('{"op":"subscribe"}', "60013"),
        ('{"op":"subscribe","args":[]}', "60013"),
        ('{"op":"subscribe","args":"books"}', "60013"),
        ('{"op":"subscribe","args":["books"]}', "60013"),
        ('{"op":"order","args":[{}]}', "60012"),
        ('{"op":"login","args":[{"apiKey":"a"}]}', "60009"),
        ('{"op":"subscribe","args":[{"channel":"books-l2-tbt","instId":"BTC-USDT"}]}', "60011"),
        ('{"op":"subscribe","args":[{"channel":"books50-l2-tbt","instId":"BTC-USDT"}]}', "60011"),
        ('{"op":"subscribe","args":[{"channel":"books","instId":"BTC-USDX"}]}', "60018"),
    ],
)
async def test_every_wrong_request_is_answered_with_the_venues_code(request_: str, code: str) -> None:
    async with by_hand(SPOT) as wires, wires.http.ws_connect(wires.house.endpoints(wires.host)["public"]) as socket:
        await socket.send_str(request_)
        (answer,) = await pending(socket)
        assert (answer["event"], answer["code"]) == ("error", code)


async def test_books_by_tick_need_a_tier_that_a_login_does_not_bring() -> None:
    async with by_hand(SPOT) as wires:
        login = dict.fromkeys(("apiKey", "passphrase", "timestamp", "sign"), "x")
        socket = await wires.socket("public", login, op="login")
        assert (await frame(socket))["event"] == "login"
        await socket.send_json({"op": "subscribe", "args": [{"channel": "books-l2-tbt", "instId": "BTC-USDT"}]})
        assert (await frame(socket))["code"] == "64003"


async def test_the_481st_request_of_an_hour_is_refused_and_nothing_is_done() -> None:
    async with by_hand(SPOT) as wires:
        socket = await wires.subscribed("tickers", "BTC-USDT")
        await row(socket)
        arg = {"channel": "instruments", "instType": "SPOT"}
        for _ in range(479):
            await socket.send_json({"op": "subscribe", "args": [arg]})
            assert (await frame(socket))["event"] == "subscribe"
        await socket.send_json({"id": "7", "op": "unsubscribe", "args": [arg]})
        answer = await frame(socket)
        assert (answer["event"], answer["code"], answer["id"]) == ("error", "60014", "7")
        other = await wires.subscribed("tickers", "BTC-USDT")
        assert (await row(other))["instId"] == "BTC-USDT", "it is counted by connection"


async def test_arguments_of_a_connection_have_64_kb_together() -> None:
    async with simulated(SPOT) as wires:
        wires.market.symbols.clear()
        for number in range(1000):
            wires.market.enter(made_up_coin(SPOT, number), 5)
        wires.house.relist()
        names = [f"C{number:03d}-USDT" for number in range(1000)]
        args = [{"channel": channel, "instId": name} for channel in ("books", "trades") for name in names]
        events = [one for one in await pending(await wires.socket("public", *args)) if "event" in one]
        codes = [one.get("code") for one in events]
        assert codes.index("60013") == 1000 + (65_536 - 1000 * 40) // 41
        assert codes.count(None) == codes.index("60013")


async def test_the_fourth_connect_of_a_second_is_refused() -> None:
    async with by_hand(SPOT) as wires:
        wires.house.rules = RULES
        for _ in range(3):
            await wires.http.ws_connect(wires.house.endpoints(wires.host)["public"])
        with pytest.raises(aiohttp.WSServerHandshakeError, match="429"):
            await wires.http.ws_connect(wires.house.endpoints(wires.host)["public"])


async def test_a_silent_socket_is_closed_with_a_frame_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marketprism_ray.simulator.okx.house.SILENT_S", 0.05)
    async with by_hand(SPOT) as wires:
        socket = await wires.http.ws_connect(wires.house.endpoints(wires.host)["public"])
        closed = await socket.receive(timeout=5)
        assert (closed.type, closed.data) == (aiohttp.WSMsgType.CLOSE, 4004)
        assert str(closed.extra).startswith("No data received")


async def test_an_upgrade_is_announced_and_closes_the_socket_a_minute_later() -> None:
    async with by_hand(SPOT) as wires:
        socket = await wires.subscribed("trades", "BTC-USDT")
        wires.house.notice()
        assert (await frame(socket))["code"] == "64008"
        wires.house.tick(now() + 50_000)
        assert await pending(socket) == []
        wires.house.tick(now() + 60_100)
        assert (await socket.receive(timeout=5)).type is aiohttp.WSMsgType.CLOSE


async def test_a_book_by_rest_is_behind_the_stream_by_another_while_at_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with by_hand(SPOT) as wires:
        symbol = wires.market.symbols[SPOT, "BTC-USDT"]
        begin = now()
        monkeypatch.setattr(wires.house._wire, "now_ms", lambda: begin)
        states = {}
        for time_ms in range(begin - 1_000, begin + 1, 10):
            wires.change("BTC-USDT", time_ms)
            states[symbol.update_id] = symbol.book(400)
        ages = set()
        for _ in range(20):
            (found,) = await wires.get("market/books", instId="BTC-USDT", sz="400")
            bids, asks = states[found["seqId"]]
            assert [tuple(level[:2]) for level in found["bids"]] == bids
            assert [tuple(level[:2]) for level in found["asks"]] == asks
            ages.add(symbol.update_id - found["seqId"])
        assert len(ages) > 2


async def test_what_befalls_an_instrument_is_announced_and_its_history_stays() -> None:
    async with simulated(DERIVATIVES) as wires:
        simulator = wires.simulator
        assert simulator is not None
        socket = await wires.subscribed("instruments", "FUTURES")
        event = wires.trade(DATED)
        simulator.befall(Command("halt", DERIVATIVES, DATED))
        assert (await row(socket))["state"] == "suspend"
        assert (await wires.get("public/instruments", instType="FUTURES"))[0]["state"] == "suspend"
        simulator.befall(Command("auction", DERIVATIVES, DATED))
        assert (await row(socket))["state"] == "preopen"
        simulator.befall(Command("resume", DERIVATIVES, DATED))
        assert (await row(socket))["state"] == "live"
        simulator.befall(Command("list", DERIVATIVES, DATED, EXPIRY[1] - DAY_MS))
        listed = await row(socket)
        assert (listed["instId"], listed["state"], listed["expTime"]) == (
            "BTC-USDT-291227",
            "live",
            str(EXPIRY[1] - DAY_MS),
        )
        simulator.befall(Command("expire", DERIVATIVES, DATED))
        gone = await row(socket)
        assert (gone["instId"], gone["state"]) == (DATED, "suspend")
        assert [one["instId"] for one in await wires.get("public/instruments", instType="FUTURES")] == [
            "BTC-USDT-291227"
        ]
        assert (await wires.get("market/history-trades", instId=DATED))[-1]["tradeId"] == str(event.id)
        assert len(await wires.get("market/history-candles", instId=DATED)) >= 1
        for endpoint in ("market/books", "market/ticker", "market/candles"):
            assert (await wires.answer(endpoint, instId=DATED))[1]["code"] == "51001"
        (refused,) = await pending(await wires.socket("public", {"channel": "books", "instId": DATED}))
        assert refused["code"] == "60018"


@pytest.mark.parametrize(("status", "code"), [(429, "50011"), (503, "50013"), (500, "50001")])
async def test_a_refusal_on_command_is_in_the_venues_words(status: int, code: str) -> None:
    async with simulated(SPOT) as wires:
        assert wires.simulator is not None
        wires.simulator.wire.faults.append(Fault("status", SPOT, status=status))
        assert await wires.answer("public/time") == (status, {"code": code, "msg": ANY, "data": []})
        assert (await wires.answer("public/time"))[0] == 200


async def test_history_of_trades_is_kept_for_three_months() -> None:
    async with by_hand(SPOT) as wires:
        ids = [wires.trade("BTC-USDT", now() - days * DAY_MS).id for days in (100, 80, 1)]
        found = await wires.get("market/history-trades", instId="BTC-USDT")
        assert [int(one["tradeId"]) for one in found] == ids[:0:-1]
