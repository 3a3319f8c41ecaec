"""The simulated market by itself: sweeps, bursts, auctions, halts, expiries, listings, and the venues' clock."""

from __future__ import annotations

import time
from decimal import Decimal
from itertools import groupby
from typing import Any

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketprism_ray.simulator.market import EXPIRY, BookEvent, Market, TradeEvent
from marketprism_ray.simulator.server import VENUES, Simulator
from marketprism_ray.simulator.unrest import Command, Unrest, carry_out, dated

OKX = "okx_derivatives"
DATED = "BTC-USDT-291228"
OPTION = "BTC-USD-291228-100000-C"


class Reader:
    """A book rebuilt from the events alone."""

    def __init__(self, market: Market, place: tuple[str, str]) -> None:
        self.symbol = market.symbols[place]
        bids, asks = self.symbol.book(self.symbol.window)
        self.bids, self.asks, self.last = dict(bids), dict(asks), self.symbol.update_id

    def apply(self, event: BookEvent) -> None:
        assert event.previous == self.last
        assert event.first == event.previous + 1
        assert event.last > event.previous
        self.last = event.last
        for side, levels in ((self.bids, event.bids), (self.asks, event.asks)):
            for price, quantity in levels:
                if Decimal(quantity):
                    side[price] = quantity
                else:
                    side.pop(price, None)

    def check(self) -> None:
        bids, asks = self.symbol.book(self.symbol.window)
        assert (dict(bids), dict(asks)) == (self.bids, self.asks)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 10**6), place=st.sampled_from([(OKX, "BTC-USDT-SWAP"), (OKX, OPTION), (OKX, "C000-USDT-SWAP")])
)
def test_books_rebuilt_from_events_are_true_and_never_cross(seed: int, place: tuple[str, str]) -> None:
    market = Market([OKX], seed, levels=100, extra=1)
    reader = Reader(market, place)
    symbol = market.symbols[place]
    for at in range(200):
        for event in symbol.act(at, is_trade=at % 3 > 0):
            if isinstance(event, BookEvent):
                reader.apply(event)
        bid, ask = symbol.best()
        assert Decimal(bid[0]) < Decimal(ask[0])
    reader.check()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_fills_of_one_order_walk_the_book_and_leave_it(seed: int) -> None:
    symbol = Market([OKX], seed, levels=100).symbols[OKX, "BTC-USDT-SWAP"]
    for at in range(20):
        book = dict(symbol.book()[0]), dict(symbol.book()[1])
        before = symbol.trade_id
        *fills, change = symbol.sweep(at)
        assert isinstance(change, BookEvent)
        trades = [event for event in fills if isinstance(event, TradeEvent)]
        assert [trade.id for trade in trades] == list(range(before + 1, before + 1 + len(trades)))
        assert len({(trade.order, trade.taker_sold, trade.is_liquidation, trade.time_ms) for trade in trades}) == 1
        assert [trade.is_last for trade in trades] == [False] * (len(trades) - 1) + [True]
        sold = trades[0].taker_sold
        side, levels = (book[0], change.bids) if sold else (book[1], change.asks)
        prices = [Decimal(price) for price, _ in groupby(trades, key=lambda trade: trade.price)]
        assert prices == sorted(set(prices), reverse=sold), "from the best price on, each price once"
        for price, at_price in groupby(trades, key=lambda trade: trade.price):
            taken = sum(Decimal(trade.quantity) for trade in at_price)
            assert Decimal(dict(levels)[price]) == Decimal(side[price]) - taken


def test_the_mix_has_sweeps_bursts_wide_spreads_and_sizes_of_every_order() -> None:
    market = Market(["binance_spot"], 5)
    steps = [market.step(at) for at in range(4000)]
    orders = [len([event for event in step if isinstance(event, TradeEvent)]) for step in steps]
    assert {1, 2, 3, 4, 5, 6} <= set(orders)
    names = [step[0].listing.symbol for step in steps if step]
    assert max(len(list(run)) for _, run in groupby(names)) >= 20, "bursts"
    symbol = market.symbols["binance_spot", "BTC-USDT"]
    sizes = sorted(Decimal(quantity) for side in symbol.book() for _, quantity in side)
    assert sizes[-1] / sizes[0] > 10_000
    changes = [event for step in steps for event in step if isinstance(event, BookEvent)]
    assert max(len(event.bids) + len(event.asks) for event in changes) > 20
    spreads = set()
    for at in range(500):
        symbol.change(at)
        (bid, _), (ask, _) = symbol.best()
        spreads.add((Decimal(ask) - Decimal(bid)) / symbol.listing.tick)
    assert len(spreads) > 5


def test_a_halted_symbol_is_silent_and_an_auction_crosses_the_book_until_it_ends() -> None:
    market = Market(["okx_spot"], 2)
    place = ("okx_spot", "BTC-USDT")
    reader, symbol = Reader(market, place), market.symbols[place]
    carry_out(market, Command("halt", *place), 0)
    assert all(event.listing is not symbol.listing for at in range(500) for event in market.step(at))
    carry_out(market, Command("auction", *place), 0)
    for at in range(20):
        for event in symbol.act(at, is_trade=True):
            assert isinstance(event, BookEvent), "nothing is filled"
            reader.apply(event)
    bid, ask = symbol.best()
    assert Decimal(bid[0]) >= Decimal(ask[0])
    trade, change = carry_out(market, Command("resume", *place), 21)
    assert isinstance(trade, TradeEvent)
    assert isinstance(change, BookEvent)
    reader.apply(change)
    reader.check()
    bid, ask = symbol.best()
    assert Decimal(bid[0]) < Decimal(ask[0])
    assert symbol.state == "open"


def test_a_contract_listed_with_a_delivery_expires_by_itself_and_keeps_its_history() -> None:
    market = Market([OKX], 2)
    at = EXPIRY[1] - 86_400_000
    carry_out(market, Command("list", OKX, DATED, at), at - 10_000)
    name = "BTC-USDT-291227"
    symbol = market.symbols[OKX, name]
    assert (symbol.listing.venue_symbol, symbol.listing.expiry_ms) == (name, at)
    last = symbol.trade(at - 1).id
    assert market.expired(at - 1) == []
    assert market.expired(at) == [symbol]
    assert (OKX, name) not in market.symbols
    assert market.gone[OKX, name].truth.ids == [last]
    assert market.expired(at + 1) == []
    assert all(event.listing.symbol != name for step in range(500) for event in market.step(step))


def test_names_of_deliveries_follow_each_house() -> None:
    market = Market(VENUES, 1)
    found = {
        venue: dated(market.symbols[venue, symbol].listing, EXPIRY[1] - 27 * 86_400_000).venue_symbol
        for venue, symbol in (
            ("binance_derivatives", "BTC-USDT-291228"),
            ("okx_derivatives", "BTC-USD-291228-80000-P"),
            ("deribit_derivatives", "BTC-USD-291228"),
            ("deribit_derivatives", "BTC-USD-291228-80000-P"),
        )
    }
    assert list(found.values()) == ["BTCUSDT_291201", "BTC-USD-291201-80000-P", "BTC-1DEC29-80000-P"]


def test_what_is_listed_again_goes_on_with_its_numbers() -> None:
    market = Market(["okx_spot"], 1, extra=1)
    place = ("okx_spot", "C000-USDT")
    last = market.symbols[place].trade(0).id
    carry_out(market, Command("delist", *place), 1)
    carry_out(market, Command("list", *place), 2)
    assert market.symbols[place].trade(3).id == last + 1
    assert market.symbols[place].truth.ids == [last, last + 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("melt", OKX, DATED), "unknown"),
        (("halt", OKX, "BTC-EUR"), "no symbol"),
        (("auction", "binance_spot", "BTC-USDT"), "shows no auction"),
        (("expire", "binance_spot", "BTC-USDT"), "no delivery"),
        (("list", OKX, "BTC-USDT-SWAP"), "made up"),
        (("list", OKX, "BTC-USDT-SWAP", 5), "no delivery"),
        (("list", OKX, DATED, EXPIRY[1]), "already"),
    ],
)
def test_what_cannot_be_is_refused(values: tuple[Any, ...], message: str) -> None:
    market = Market([OKX, "binance_spot"], 1)
    with pytest.raises(ValueError, match=message):
        carry_out(market, Command(*values), 0)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_a_plan_is_the_same_for_the_same_seed(seed: int) -> None:
    plans, markets = [], []
    for _ in range(2):
        market = Market(VENUES, 1, levels=60)
        unrest = Unrest(market, seed, per_minute=1200)
        seen = []
        for at in range(0, 40_000, 100):
            for command in unrest.due(at):
                if at < 30_000 or command.action in ("resume", "delist"):
                    carry_out(market, command, at)
                    seen.append(command)
            market.expired(at)
        plans.append(seen)
        markets.append({place: symbol.state for place, symbol in market.symbols.items()})
    assert plans[0] == plans[1]
    assert {command.action for command in plans[0]} == {"halt", "auction", "resume", "list", "delist"}
    assert "open" in markets[0].values()
    assert Unrest(market, seed, per_minute=0).due(10**9) == []


async def test_the_venues_clock_is_shifted_and_commands_come_over_http() -> None:
    simulator = Simulator([OKX], rate=0.001, clock_offset_ms=3_600_000)
    await simulator.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{simulator.port}") as session:
            async with session.get(f"/{OKX}/api/v5/public/time") as answer:
                told = int((await answer.json())["data"][0]["ts"])
            assert abs(told - 3_600_000 - time.time() * 1000) < 60_000
            body = {"action": "halt", "venue": OKX, "symbol": DATED}
            async with session.post("/control/market", json=body) as answer:
                assert answer.status == 200
            async with session.post("/control/market", json={**body, "symbol": "X"}) as answer:
                assert (answer.status, "no symbol" in await answer.text()) == (400, True)
            async with session.get("/control/ledger") as answer:
                states = {row["symbol"]: row["state"] for row in (await answer.json())["symbols"]}
            assert states[DATED] == "halted"
    finally:
        await simulator.stop()
