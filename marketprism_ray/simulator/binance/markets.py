"""The three markets: sockets, limits and endpoints of each."""

from __future__ import annotations

from collections.abc import Mapping

from marketprism_ray.simulator.binance import frames, info, polls, rest
from marketprism_ray.simulator.binance.facts import FUTURES_INTERVALS, Endpoint, Facts
from marketprism_ray.simulator.binance.intervals import LENGTHS_MS
from marketprism_ray.simulator.rules import Rules

_PAGES = ((99, 1), (499, 2), (1000, 5), (1500, 10))
_SPOT = {
    "time": Endpoint(rest.time),
    "ping": Endpoint(rest.ping),
    "exchangeInfo": Endpoint(info.exchange, 20),
    "depth": Endpoint(rest.depth, steps=((100, 5), (500, 25), (1000, 50), (5000, 250)), page=(100, 5000)),
    "trades": Endpoint(rest.trades, 25),
    "historicalTrades": Endpoint(rest.trades, 25),
    "aggTrades": Endpoint(rest.aggregates, 4),
    "klines": Endpoint(rest.klines, 2),
    "uiKlines": Endpoint(rest.klines, 2),
    "avgPrice": Endpoint(rest.average_price, 2),
    "ticker/24hr": Endpoint(rest.tickers, 2, 80),
    "ticker/price": Endpoint(rest.prices, 2, 4),
    "ticker/bookTicker": Endpoint(rest.book_tickers, 2, 4),
}
_FUTURES = {
    "time": Endpoint(rest.time),
    "ping": Endpoint(rest.ping),
    "exchangeInfo": Endpoint(info.exchange),
    "depth": Endpoint(rest.futures_depth, steps=((50, 2), (100, 5), (500, 10), (1000, 20))),
    "trades": Endpoint(rest.newest_trades, 5),
    "aggTrades": Endpoint(rest.futures_aggregates, 20),
    "historicalTrades": Endpoint(rest.trades, 200, page=(100, 500), needs_key=True),
    "continuousKlines": Endpoint(rest.continuous_klines, steps=_PAGES, page=(500, 1500)),
    "klines": Endpoint(rest.klines, steps=_PAGES, page=(500, 1500)),
    "premiumIndex": Endpoint(polls.premium, 1, 10),
    "fundingRate": Endpoint(polls.funding, 0, page=(100, 1000), quota="funding"),
    "fundingInfo": Endpoint(polls.funding_info, 0, quota="funding"),
    "openInterest": Endpoint(polls.interest),
    "ticker/24hr": Endpoint(rest.tickers, 1, 40),
    "ticker/price": Endpoint(rest.prices, 1, 2),
    "ticker/bookTicker": Endpoint(rest.book_tickers, 2, 5),
}
_COINM = {
    **_FUTURES,
    "premiumIndex": Endpoint(polls.premium, 10),
    "fundingRate": Endpoint(polls.funding, 1, page=(100, 1000), quota="funding"),
}


def _statistics(weight: int) -> dict[str, Endpoint]:
    return {
        f"futures/data/{name}": Endpoint(answer, weight, page=(30, 500), quota="statistics")
        for name, answer in (
            ("openInterestHist", polls.interest_history),
            ("topLongShortPositionRatio", polls.top_positions),
            ("topLongShortAccountRatio", polls.top_accounts),
            ("globalLongShortAccountRatio", polls.all_accounts),
        )
    }


def _below(path: str, endpoints: Mapping[str, Endpoint]) -> dict[str, Endpoint]:
    return {f"{path}/{name}": endpoint for name, endpoint in endpoints.items()}


_DAY_S = 86_400
_SPOT_RULES = Rules(messages=5, streams=1024, connects=(300, 300), ping_s=20, pong_s=60, lifetime_s=_DAY_S)
# How many sockets may be opened is published for spot only.
_FUTURES_RULES = Rules(messages=10, streams=1024, ping_s=180, pong_s=600, lifetime_s=_DAY_S)
FACTS = {
    "binance_spot": Facts(
        pool="spot",
        weight_per_minute=6000,
        sockets={"public": "stream"},
        paths=("",),
        rest=("api/v3",),
        endpoints=_below("api/v3", _SPOT),
        intervals=tuple(LENGTHS_MS),
        rules=_SPOT_RULES,
        trade=frames.trade,
        aggregate=frames.aggregate,
        depth=frames.depth,
        window=frames.window,
        depth_ms=(1000, 100),
        kline_ms=2000,
        ticker_ms=1000,
        has_pairs=False,
        has_microseconds=True,
        has_notice=True,
    ),
    "binance_derivatives": Facts(
        pool="futures",
        weight_per_minute=2400,
        sockets={"public": "public/stream", "market": "market/stream"},
        # The old path without a class acknowledges everything and delivers what the public one does.
        # What is private needs an account, and is silent here.
        paths=("public/", "market/", "private/", ""),
        rest=("fapi/v1", "futures/data"),
        endpoints={**_below("fapi/v1", _FUTURES), **_statistics(0)},
        intervals=FUTURES_INTERVALS,
        rules=_FUTURES_RULES,
        trade=frames.futures_trade,
        aggregate=frames.futures_aggregate,
        depth=frames.futures_depth,
        window=frames.futures_depth,
        depth_ms=(250, 0, 100, 500),
        kline_ms=250,
        ticker_ms=2000,
        has_rpi=True,
    ),
    "binance_coinm": Facts(
        pool="futures",
        weight_per_minute=2400,
        sockets={"public": "stream"},
        paths=("",),
        rest=("dapi/v1", "futures/data"),
        endpoints={**_below("dapi/v1", _COINM), **_statistics(1)},
        intervals=FUTURES_INTERVALS,
        rules=_FUTURES_RULES,
        trade=frames.futures_trade,
        aggregate=frames.futures_aggregate,
        depth=frames.futures_depth,
        window=frames.futures_depth,
        depth_ms=(250, 0, 100, 500),
        kline_ms=250,
        ticker_ms=500,
        has_ids_of_pairs=True,
    ),
}
