"""An independent client against the simulated venues: are they faithful?

ccxt.pro subscribes trades and books of each venue, lives through a cut, and must end with the simulator's own book.
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from typing import Any

import pytest

from marketprism_ray.simulator.server import Simulator

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import ccxt.pro as ccxtpro

CASES = {
    "binance_spot": ("binance", ["BTC/USDT", "ETH/USDT"], {"BTC/USDT": "BTC-USDT", "ETH/USDT": "ETH-USDT"}),
    "okx_spot": ("okx", ["BTC/USDT", "ETH/USDT"], {"BTC/USDT": "BTC-USDT", "ETH/USDT": "ETH-USDT"}),
    "okx_derivatives": (
        "okx",
        ["BTC/USDT:USDT", "BTC/USD:BTC"],
        {"BTC/USDT:USDT": "BTC-USDT-SWAP", "BTC/USD:BTC": "BTC-USD-SWAP"},
    ),
}


def client(simulator: Simulator, venue: str) -> Any:
    urls = simulator.endpoints()[venue]
    if CASES[venue][0] == "binance":
        exchange = ccxtpro.binance({"options": {"defaultType": "spot", "fetchMarkets": {"types": ["spot"]}}})
        exchange.urls["api"]["public"] = f"{urls['rest']}/api/v3"
        exchange.urls["api"]["ws"]["spot"] = urls["public"].replace("/stream", "/ws")
    else:
        exchange = ccxtpro.okx({"options": {"fetchMarkets": {"types": ["spot", "swap"]}}})
        exchange.urls["api"]["rest"] = urls["rest"]
        exchange.urls["api"]["ws"] = urls["public"].rpartition("/")[0]
        exchange.options["checksum"] = False
    exchange.options["fetchCurrencies"] = False
    exchange.has["fetchCurrencies"] = False
    exchange.enableRateLimit = False
    exchange.newUpdates = True
    return exchange


async def follow(exchange: Any, simulator: Simulator, venue: str, seconds: float) -> None:
    """Watch trades and books; cut the sockets midway; compare at the end."""
    _, symbols, names = CASES[venue]
    trades: dict[str, set[str]] = {symbol: set() for symbol in symbols}
    books: dict[str, Any] = {}

    async def again(watch: Any) -> None:
        while True:
            with contextlib.suppress(ccxtpro.NetworkError):
                await watch()

    def watcher(symbol: str) -> list[Any]:
        async def watch_trades() -> None:
            for trade in await exchange.watch_trades(symbol):
                trades[symbol].add(trade["id"])

        async def watch_book() -> None:
            books[symbol] = await exchange.watch_order_book(symbol)

        return [watch_trades, watch_book]

    tasks = [asyncio.ensure_future(again(watch)) for symbol in symbols for watch in watcher(symbol)]

    def equal(symbol: str) -> bool:
        truth = simulator.market.symbols[venue, names[symbol]]
        bids, asks = truth.book(100)
        book = books.get(symbol)
        return book is not None and all(
            [[level[0], level[1]] for level in book[side][:100]] == [[float(p), float(q)] for p, q in wanted]
            for side, wanted in (("bids", bids), ("asks", asks))
        )

    try:
        await asyncio.sleep(seconds / 2)
        assert simulator.wire.disconnect(venue) > 0
        counts = {symbol: len(ids) for symbol, ids in trades.items()}
        await asyncio.sleep(seconds / 2)
        async with asyncio.timeout(20):
            while any(len(trades[symbol]) <= counts[symbol] for symbol in symbols):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        simulator.paused = True
        async with asyncio.timeout(20):
            while not all(equal(symbol) for symbol in symbols):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        for symbol in symbols:
            known = {str(i) for i in simulator.market.symbols[venue, names[symbol]].truth.ids}
            assert trades[symbol]
            assert trades[symbol] <= known
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def run(venue: str, seconds: float) -> None:
    simulator = Simulator((venue,), rate=200)
    await simulator.start()
    exchange = client(simulator, venue)
    try:
        await exchange.load_markets()
        assert set(CASES[venue][1]) <= set(exchange.markets)
        await follow(exchange, simulator, venue, seconds)
    finally:
        await exchange.close()
        await simulator.stop()


pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("venue", list(CASES))
async def test_an_independent_client_ends_with_the_simulators_book_across_a_cut(venue: str) -> None:
    await run(venue, 4)


@pytest.mark.chaos
@pytest.mark.parametrize("venue", list(CASES))
async def test_an_independent_client_for_thirty_seconds(venue: str) -> None:
    await run(venue, 30)
