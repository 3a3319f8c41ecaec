"""The three markets: sockets, limits and endpoints of each."""

from __future__ import annotations

from collections.abc import Mapping

from marketprism_ray.simulator.binance import frames, info, polls, rest
from marketprism_ray.simulator.binance.facts import FUTURES_INTERVALS_MS, INTERVALS_MS, Endpoint, Facts
from marketprism_ray.simulator.rules import Rules

_SPOT = {
    "time": Endpoint(rest.time),
    "ping": Endpoint(rest.ping),
    "exchangeInfo": Endpoint(info.exchange, 20),
    "depth": Endpoint(rest.depth, steps=((100, 5), (500, 25), (1000, 50), (5000, 250)), page=(100, 5000)),
    "trades": Endpoint(rest.trades, 25),
    "historicalTrades": Endpoint(rest.trades, 25),
    "aggTrades": Endpoint(rest.aggregates, 4),
    "klines": Endpoint(rest.klines, 2),
    "ticker/24hr": Endpoint(rest.tickers, 2, 80),
    "ticker/bookTicker": Endpoint(rest.book_tickers, 2, 4),
}
_FUTURES = {
    "time": Endpoint(rest.time),
    "ping": Endpoint(rest.ping),
    "exchangeInfo": Endpoint(info.exchange),
    "depth": Endpoint(rest.futures_depth, steps=((50, 2), (100, 5), (500, 10), (1000, 20))),
    "trades": Endpoint(rest.newest_trades, 5),
    "aggTrades": Endpoint(rest.futures_aggregates, 20),
    "klines": Endpoint(rest.klines, steps=((99, 1), (499, 2), (1000, 5), (1500, 10)), page=(500, 1500)),
    "premiumIndex": Endpoint(polls.premium, 1, 10),
    "fundingRate": Endpoint(polls.funding, 0, page=(100, 1000), limiter="funding"),
    "fundingInfo": Endpoint(polls.funding_info, 0, limiter="funding"),
    "openInterest": Endpoint(polls.interest),
    "ticker/24hr": Endpoint(rest.tickers, 1, 40),
    "ticker/bookTicker": Endpoint(rest.book_tickers, 2, 5),
}
_COINM = {
    **_FUTURES,
    "premiumIndex": Endpoint(polls.premium, 10),
    "fundingRate": Endpoint(polls.funding, 1, page=(100, 1000), limiter="funding"),
}


def _statistics(weight: int) -> dict[str, Endpoint]:
    return {
        f"futures/data/{name}": Endpoint(answer, weight, page=(30, 500), limiter="statistics")
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
_FUTURES_TRADES = {"trade": frames.futures_trade, "aggTrade": frames.futures_aggregate}

FACTS = {
    "binance_spot": Facts(
        pool="spot",
        weight_per_minute=6000,
        sockets={"public": "stream"},
        paths=("",),
        rest=("api/v3",),
        endpoints=_below("api/v3", _SPOT),
        intervals_ms=INTERVALS_MS,
        rules=_SPOT_RULES,
        trades={"trade": frames.trade, "aggTrade": frames.aggregate},
        depth=frames.depth,
        has_microseconds=True,
        has_notice=True,
        kline_s=2,
    ),
    "binance_derivatives": Facts(
        pool="futures",
        weight_per_minute=2400,
        sockets={"public": "public/stream", "market": "market/stream"},
        # The old path without a class acknowledges everything and delivers what the public one does.
        paths=("public/", "market/", ""),
        rest=("fapi/v1", "futures/data"),
        endpoints={**_below("fapi/v1", _FUTURES), **_statistics(0)},
        intervals_ms=FUTURES_INTERVALS_MS,
        rules=_FUTURES_RULES,
        trades=_FUTURES_TRADES,
        depth=frames.futures_depth,
        ticker_s=2,
    ),
    "binance_coinm": Facts(
        pool="futures",
        weight_per_minute=2400,
        sockets={"public": "stream"},
        paths=("",),
        rest=("dapi/v1", "futures/data"),
        endpoints={**_below("dapi/v1", _COINM), **_statistics(1)},
        intervals_ms=FUTURES_INTERVALS_MS,
        rules=_FUTURES_RULES,
        trades=_FUTURES_TRADES,
        depth=frames.futures_depth,
        has_ids_of_pairs=True,
    ),
}
