"""An independent client of the real venues takes the simulated ones for them: proof that they are faithful.

``ccxt.pro`` knows nothing of this project. Only its addresses are changed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from marketprism_ray.simulator.market import Symbol
from marketprism_ray.simulator.server import Simulator

ccxt = pytest.importorskip("ccxt.pro", reason="ccxt is a development dependency")

CASES = [
    ("binance_spot", "BTC-USDT", "BTC/USDT"),
    ("okx_spot", "BTC-USDT", "BTC/USDT"),
    ("okx_derivatives", "BTC-USDT-SWAP", "BTC/USDT:USDT"),
    ("okx_derivatives", "BTC-USD-SWAP", "BTC/USD:BTC"),
    ("okx_derivatives", "BTC-USDT-291228", "BTC/USDT:USDT-291228"),
    ("binance_derivatives", "BTC-USDT-SWAP", "BTC/USDT:USDT"),
    ("binance_coinm", "BTC-USD-SWAP", "BTC/USD:BTC"),
    ("deribit_derivatives", "BTC-USD-SWAP", "BTC/USD:BTC"),
    ("deribit_derivatives", "BTC-USDC-SWAP", "BTC/USDC:USDC"),
    ("deribit_derivatives", "BTC-USD-291228-100000-C", "BTC/USD:BTC-291228-100000-C"),
]
LEVELS = 100
"""Levels a side to compare; the client keeps more, the venue's snapshot has at least 400."""


def client_of(venue: str, simulator: Simulator) -> Any:
    """Make the client, with the simulator's addresses for the venue's."""
    host = f"127.0.0.1:{simulator.port}/{venue}"
    if venue == "binance_spot":
        client = ccxt.binance({"enableRateLimit": False, "newUpdates": True})
        client.urls["api"]["public"] = f"http://{host}/api/v3"
        client.urls["api"]["ws"]["spot"] = f"ws://{host}/ws"
        client.options["fetchMarkets"]["types"] = ["spot"]
        return client
    if venue.startswith("binance"):
        usdm = venue == "binance_derivatives"
        client = (ccxt.binanceusdm if usdm else ccxt.binancecoinm)({"enableRateLimit": False, "newUpdates": True})
        client.urls["api"]["fapiPublic" if usdm else "dapiPublic"] = f"http://{host}/{'f' if usdm else 'd'}api/v1"
        client.urls["api"]["ws"]["linear" if usdm else "inverse"] = f"ws://{host}/ws"
        return client
    if venue == "deribit_derivatives":
        client = ccxt.deribit({"enableRateLimit": False, "newUpdates": True})
        client.urls["api"]["rest"] = f"http://{host}"
        client.urls["api"]["ws"] = f"ws://{host}/ws/api/v2"
        return client
    client = ccxt.okx({"enableRateLimit": False, "newUpdates": True})
    client.urls["api"]["rest"] = f"http://{host}"
    client.urls["api"]["ws"] = f"ws://{host}/ws/v5"
    client.options["fetchMarkets"] = {"types": ["spot"] if venue == "okx_spot" else ["swap", "future"]}
    return client


class Watcher:
    """What the client has seen: raw trades by id in their order, and its book."""

    def __init__(self, client: Any, symbol: str) -> None:
        self.trades: dict[int, tuple[Decimal, ...]] = {}
        self.order: list[int] = []
        self.fills: dict[int, int] = {}
        """Fills that a trade stands for, whose last id it has; 1 where the venue merges none."""
        self.book: Any = None
        self.books = 0
        self.breaks = 0
        self._client = client
        self._symbol = symbol

    def levels(self) -> list[list[tuple[float, ...]]]:
        """Give the best levels of its book."""
        return [[tuple(level[:2]) for level in self.book[side][:LEVELS]] for side in ("bids", "asks")]

    async def watch_trades(self) -> None:
        while True:
            try:
                found = await self._client.watch_trades(self._symbol)
            except ccxt.NetworkError:
                self.breaks += 1
                continue
            for trade in found:
                raw = trade["info"]
                self.order.append(int(raw.get("trade_seq") or trade["id"]))
                self.fills[self.order[-1]] = int(raw.get("count", 1))
                self.trades[self.order[-1]] = tuple(
                    Decimal(str(next(raw[name] for name in names if name in raw)))
                    for names in (("p", "px", "price"), ("q", "sz", "amount"))
                )

    async def watch_book(self) -> None:
        while True:
            try:
                self.book = await self._client.watch_order_book(self._symbol)
                self.books += 1
            except ccxt.NetworkError:
                self.breaks += 1
                if self._client.id == "deribit":
                    # It applies a snapshot to the book it had: what was deleted meanwhile would stay for ever.
                    self._client.orderbooks.pop(self._symbol, None)


def levels_of(symbol: Symbol) -> list[list[tuple[float, ...]]]:
    """Give the true book as the client has numbers."""
    return [[(float(price), float(quantity)) for price, quantity in side] for side in symbol.book(LEVELS)]


async def until(condition: Callable[[], bool], what: str, tasks: list[asyncio.Task[None]], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        for task in tasks:
            if task.done():
                task.result()
        assert time.monotonic() < deadline, f"waited {limit_s} s for {what}"
        await asyncio.sleep(0.01)


async def follow(venue: str, symbol: str, market: str, events: int, limit_s: float) -> None:
    """Watch trades and book over so many events, half of them after all sockets were cut, and compare with truth."""
    simulator = Simulator([venue], rate=400)
    await simulator.start()
    client = client_of(venue, simulator)
    watcher = Watcher(client, market)
    tasks: list[asyncio.Task[None]] = []
    try:
        await client.load_markets()
        tasks += [asyncio.create_task(watcher.watch_trades()), asyncio.create_task(watcher.watch_book())]
        await until(lambda: bool(watcher.trades) and watcher.books > 5, "the first trades and books", tasks, limit_s)
        for part in range(2):
            start = simulator.events
            await until(lambda start=start: simulator.events > start + events // 2, "the market", tasks, limit_s)  # type: ignore[misc]
            if part == 0:
                trades, books = len(watcher.trades), watcher.books
                assert simulator.wire.disconnect(venue) >= 1
                await until(
                    lambda trades=trades, books=books: (  # type: ignore[misc]
                        watcher.breaks > 0 and len(watcher.trades) > trades + 5 and watcher.books > books + 5
                    ),
                    "trades and books after the disconnect",
                    tasks,
                    limit_s,
                )
        simulator.paused = True
        truth = simulator.market.symbols[venue, symbol]
        await until(
            lambda: watcher.order[-1] == truth.trade_id and watcher.levels() == levels_of(truth),
            f"trade {truth.trade_id} and the book at {truth.update_id}",
            tasks,
            limit_s,
        )
        pairs = zip(map(Decimal, truth.truth.prices), map(Decimal, truth.truth.quantities), strict=True)
        emitted = dict(zip(truth.truth.ids, pairs, strict=True))
        first, prices = truth.truth.ids[0], truth.truth.prices
        for last, trade in watcher.trades.items():
            parts = range(last - watcher.fills[last] + 1, last + 1)
            assert trade == (emitted[last][0], sum(emitted[i][1] for i in parts))
            assert {prices[i - first] for i in parts} == {prices[last - first]}, "merged at one price"
        assert len(watcher.order) == len(watcher.trades), "a trade was seen twice"
        holes = [b for a, b in zip(watcher.order, watcher.order[1:], strict=False) if b != a + watcher.fills[b]]
        assert len(holes) <= 1, "only the disconnect may cost trades"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.close()
        await simulator.stop()


@pytest.mark.parametrize(("venue", "symbol", "market"), CASES)
async def test_independent_client_ends_with_the_simulators_own_book_and_trades(
    venue: str, symbol: str, market: str
) -> None:
    await follow(venue, symbol, market, events=500, limit_s=20)


@pytest.mark.chaos
@pytest.mark.parametrize(("venue", "symbol", "market"), CASES)
async def test_independent_client_follows_for_30_s_across_a_disconnect(venue: str, symbol: str, market: str) -> None:
    await follow(venue, symbol, market, events=12_000, limit_s=60)


SLOW = [case for case in CASES if case[2] != "BTC/USD:BTC-291228-100000-C"]


@pytest.mark.parametrize(("venue", "symbol", "market"), SLOW)
async def test_independent_client_reads_tickers_and_candles(venue: str, symbol: str, market: str) -> None:
    simulator = Simulator([venue], rate=400)
    await simulator.start()
    client = client_of(venue, simulator)
    truth = simulator.market.symbols[venue, symbol].truth
    try:
        await client.load_markets()
        async with asyncio.timeout(20):
            ticker = await client.watch_ticker(market)
            while ticker["last"] is None:
                ticker = await client.watch_ticker(market)
            (candle, *_) = await client.watch_ohlcv(market, "1m")
        traded = {float(price) for price in truth.prices}
        assert ticker["last"] in traded
        assert set(candle[1:5]) <= traded
        assert candle[0] % 60_000 == 0
        assert candle[5] > 0
    finally:
        await client.close()
        await simulator.stop()


@pytest.mark.parametrize(
    ("venue", "market"), [("binance_derivatives", "BTC/USDT:USDT"), ("okx_derivatives", "BTC/USDT:USDT")]
)
async def test_independent_client_reads_funding_and_open_interest(venue: str, market: str) -> None:
    simulator = Simulator([venue], rate=400)
    await simulator.start()
    client = client_of(venue, simulator)
    if venue == "binance_derivatives":
        client.urls["api"]["fapiData"] = f"http://127.0.0.1:{simulator.port}/{venue}/futures/data"
    try:
        await client.load_markets()
        (history, *_) = await client.fetch_funding_rate_history(market, limit=3)
        assert abs(history["fundingRate"]) < 0.001
        assert history["timestamp"] % 3_600_000 == 0
        interest = await client.fetch_open_interest(market)
        assert interest["openInterestAmount"] > 0
    finally:
        await client.close()
        await simulator.stop()
