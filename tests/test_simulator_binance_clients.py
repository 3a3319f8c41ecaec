"""Clients of other makers at the simulated Binance: each follows it as it would the venue, and ends with its book."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from binance_bench import COINM, USDM

from marketprism_ray.simulator.server import Simulator

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


async def test_a_second_client_follows_the_book_of_spot_to_the_letter() -> None:
    binance = pytest.importorskip("binance", reason="make clients installs it")
    simulator = Simulator(["binance_spot"], rate=400)
    await simulator.start()
    host = f"127.0.0.1:{simulator.port}/binance_spot"

    class Client(binance.AsyncClient):  # type: ignore[name-defined,misc]
        API_URL = f"http://{host}/api"

    client = await Client.create()
    try:
        manager = binance.BinanceSocketManager(client)
        manager.STREAM_URL = f"ws://{host}/"
        cache = binance.DepthCacheManager(
            client, "BTCUSDT", bm=manager, limit=5000, conv_type=Decimal, ws_interval=100, refresh_interval=0
        )
        truth = simulator.market.symbols["binance_spot", "BTC-USDT"]
        async with cache, asyncio.timeout(60):
            while simulator.events < 1500:
                await cache.recv()
            simulator.paused = True
            while cache._last_update_id != truth.update_id:
                await cache.recv()
            book = cache.get_depth_cache()
            for side, levels in zip((book.get_bids(), book.get_asks()), truth.book(200), strict=True):
                assert [tuple(level) for level in side[:200]] == [(Decimal(p), Decimal(q)) for p, q in levels]
    finally:
        await client.close_connection()
        await simulator.stop()


# --- the venue's own clients -----------------------------------------------------------------------------------------


def oddities(value: Any, path: str = "") -> set[str]:
    """Give the fields that a model of the venue's client does not know (``+``), and those it has and got none of."""
    inner = getattr(value, "actual_instance", None)
    if inner is not None:
        return oddities(inner, path)
    if isinstance(value, list):
        return set().union(*(oddities(one, path) for one in value[:5]))
    found = set()
    for name in getattr(type(value), "model_fields", ()):
        field = getattr(value, name)
        if name == "additional_properties":
            found |= {f"{path}+{extra}" for extra in field}
        elif field is None:
            found.add(f"{path}.{name}")
        else:
            found |= oddities(field, f"{path}.{name}")
    return found


def own_client(venue: str, simulator: Simulator) -> Any:
    """Make the venue's own client, with the simulator's addresses for the venue's."""
    module, name = {
        "binance_spot": ("binance_sdk_spot.spot", "Spot"),
        "binance_derivatives": (
            "binance_sdk_derivatives_trading_usds_futures.derivatives_trading_usds_futures",
            "DerivativesTradingUsdsFutures",
        ),
        "binance_coinm": (
            "binance_sdk_derivatives_trading_coin_futures.derivatives_trading_coin_futures",
            "DerivativesTradingCoinFutures",
        ),
    }[venue]
    make = getattr(pytest.importorskip(module, reason="make clients installs it"), name)
    settings = pytest.importorskip("binance_common.configuration")
    host = f"127.0.0.1:{simulator.port}/{venue}"
    return make(
        settings.ConfigurationRestAPI(base_path=f"http://{host}", timeout=20_000),
        None,
        settings.ConfigurationWebSocketStreams(stream_url=f"ws://{host}"),
    )


OWN_ANSWERS = {
    "binance_spot": {
        "exchange_info": (),
        "depth": ("BTCUSDT",),
        "agg_trades": ("BTCUSDT",),
        "get_trades": ("BTCUSDT",),
        "historical_trades": ("BTCUSDT",),
        "klines": ("BTCUSDT", "1M"),
        "ui_klines": ("BTCUSDT", "3d"),
        "avg_price": ("BTCUSDT",),
        "ticker24hr": ("BTCUSDT",),
        "ticker_price": (),
        "ticker_book_ticker": (),
        "time": (),
    },
    "binance_derivatives": {
        "exchange_information": (),
        "order_book": ("BTCUSDT",),
        "compressed_aggregate_trades_list": ("BTCUSDT",),
        "recent_trades_list": ("BTCUSDT",),
        "kline_candlestick_data": ("BTCUSDT", "1w"),
        "continuous_contract_kline_candlestick_data": ("BTCUSDT", "PERPETUAL", "1m"),
        "mark_price": ("BTCUSDT",),
        "get_funding_rate_history": (),
        "get_funding_rate_info": (),
        "open_interest": ("BTCUSDT",),
        "ticker24hr_price_change_statistics": ("BTCUSDT",),
        "symbol_price_ticker": (),
        "symbol_order_book_ticker": (),
        "open_interest_statistics": ("BTCUSDT", "5m"),
        "long_short_ratio": ("BTCUSDT", "5m"),
        "top_trader_long_short_ratio_positions": ("BTCUSDT", "5m"),
        "top_trader_long_short_ratio_accounts": ("BTCUSDT", "5m"),
    },
    "binance_coinm": {
        "exchange_information": (),
        "order_book": ("BTCUSD_PERP",),
        "compressed_aggregate_trades_list": ("BTCUSD_PERP",),
        "recent_trades_list": ("BTCUSD_PERP",),
        "kline_candlestick_data": ("BTCUSD_PERP", "1m"),
        "continuous_contract_kline_candlestick_data": ("BTCUSD", "PERPETUAL", "1m"),
        "index_price_and_mark_price": ("BTCUSD_PERP",),
        "get_funding_rate_history_of_perpetual_futures": ("BTCUSD_PERP",),
        "open_interest": ("BTCUSD_PERP",),
        "ticker24hr_price_change_statistics": ("BTCUSD_PERP",),
        "symbol_price_ticker": (),
        "symbol_order_book_ticker": (),
        "open_interest_statistics": ("BTCUSD", "5m", "PERPETUAL"),
        "long_short_ratio": ("BTCUSD", "5m"),
        "top_trader_long_short_ratio_positions": ("BTCUSD", "5m"),
        "top_trader_long_short_ratio_accounts": ("BTCUSD", "5m"),
    },
}
KNOWN_ODDITIES = {
    # Each kind of filter has some of the fields; the number of orders counted is for who has an account.
    "exchange_info": {".rate_limits.count", ".sors"},
    "exchange_information": {"+futuresType"},
    # Captured messages have them inside the order.
    "all_market_liquidation_order_streams": {".ps", ".st"},
}


def odd_ones(answers: dict[str, Any]) -> dict[str, set[str]]:
    """Give what is odd and not known to be."""
    found = {
        name: {odd for odd in oddities(answer) if ".filters." not in odd} - KNOWN_ODDITIES.get(name, set())
        for name, answer in answers.items()
    }
    return {name: odd for name, odd in found.items() if odd}


@pytest.mark.parametrize("venue", list(OWN_ANSWERS))
async def test_the_venues_own_client_knows_every_answer(venue: str) -> None:
    simulator = Simulator([venue], rate=400)
    await simulator.start()
    try:
        api = own_client(venue, simulator).rest_api
        while simulator.events < 500:  # noqa: ASYNC110 - the market runs by itself
            await asyncio.sleep(0.01)
        found = {}
        for name, arguments in OWN_ANSWERS[venue].items():
            answer = (await asyncio.to_thread(getattr(api, name), *arguments)).data()
            assert answer, name
            found[name] = answer
        assert odd_ones(found) == {}
    finally:
        await simulator.stop()


OWN_STREAMS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "binance_spot": [
        ("agg_trade", {"symbol": "btcusdt"}),
        ("trade", {"symbol": "btcusdt"}),
        ("diff_book_depth", {"symbol": "btcusdt"}),
        ("kline", {"symbol": "btcusdt", "interval": "1s"}),
        ("kline_offset", {"symbol": "btcusdt", "interval": "1d"}),
        ("ticker", {"symbol": "btcusdt"}),
        ("avg_price", {"symbol": "btcusdt"}),
        ("rolling_window_ticker", {"symbol": "btcusdt", "window_size": "4h"}),
        ("all_market_rolling_window_ticker", {"window_size": "1h"}),
        ("partial_book_depth", {"symbol": "btcusdt", "levels": "20"}),
        ("mini_ticker", {"symbol": "btcusdt"}),
        ("all_mini_ticker", {}),
        ("book_ticker", {"symbol": "btcusdt"}),
    ],
    "binance_derivatives": [
        ("aggregate_trade_streams", {"symbol": "btcusdt"}),
        ("mark_price_stream", {"symbol": "btcusdt"}),
        ("mark_price_stream_for_all_market", {}),
        ("diff_book_depth_streams", {"symbol": "btcusdt"}),
        ("partial_book_depth_streams", {"symbol": "btcusdt", "levels": "5"}),
        ("rpi_diff_book_depth_streams", {"symbol": "btcusdt"}),
        ("kline_candlestick_streams", {"symbol": "btcusdt", "interval": "1M"}),
        (
            "continuous_contract_kline_candlestick_streams",
            {"pair": "btcusdt", "contract_type": "perpetual", "interval": "1m"},
        ),
        ("individual_symbol_ticker_streams", {"symbol": "btcusdt"}),
        ("individual_symbol_mini_ticker_stream", {"symbol": "btcusdt"}),
        ("all_market_tickers_streams", {}),
        ("all_market_mini_tickers_stream", {}),
        ("individual_symbol_book_ticker_streams", {"symbol": "btcusdt"}),
        ("all_market_liquidation_order_streams", {}),
    ],
    "binance_coinm": [
        ("aggregate_trade_streams", {"symbol": "btcusd_perp"}),
        ("mark_price_stream", {"symbol": "btcusd_perp"}),
        ("mark_price_of_all_symbols_of_a_pair", {"pair": "btcusd"}),
        ("index_price_stream", {"pair": "btcusd"}),
        ("diff_book_depth_streams", {"symbol": "btcusd_perp"}),
        ("partial_book_depth_streams", {"symbol": "btcusd_perp", "levels": "10"}),
        ("kline_candlestick_streams", {"symbol": "btcusd_perp", "interval": "1m"}),
        (
            "continuous_contract_kline_candlestick_streams",
            {"pair": "btcusd", "contract_type": "perpetual", "interval": "1m"},
        ),
        ("individual_symbol_ticker_streams", {"symbol": "btcusd_perp"}),
        ("all_market_mini_tickers_stream", {}),
        ("individual_symbol_book_ticker_streams", {"symbol": "btcusd_perp"}),
    ],
}


@pytest.mark.parametrize("venue", list(OWN_STREAMS))
async def test_the_venues_own_client_knows_every_stream(venue: str) -> None:
    simulator = Simulator([venue], rate=400)
    await simulator.start()
    try:
        streams = own_client(venue, simulator).websocket_streams
        connection = await streams.create_connection()
        seen: dict[str, Any] = {}
        for name, arguments in OWN_STREAMS[venue]:
            # The client says one message a stream: it may say so many a second.
            await asyncio.sleep(0.25)
            stream = await getattr(connection, name)(**arguments)
            stream.on("message", lambda message, name=name: seen.setdefault(name, message))  # type: ignore[misc]
        async with asyncio.timeout(30):
            while len(seen) < len(OWN_STREAMS[venue]):  # noqa: ASYNC110 - the client calls back
                await asyncio.sleep(0.05)
        assert odd_ones(seen) == {}
        await connection.close_connection(close_session=True)
    finally:
        await simulator.stop()
