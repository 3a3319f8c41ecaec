"""The words in which the markets of this house differ, and what every part of it needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marketprism_ray.simulator.rules import Rules
from marketprism_ray.simulator.summaries import DAY_MS

if TYPE_CHECKING:
    from marketprism_ray.simulator.binance.desk import Desk

UNIVERSES = {"binance_derivatives": 1, "binance_coinm": 2}
"""``st`` of the futures markets: their all-market streams carry the symbols of both."""
INTERVALS_MS = {
    "1s": 1000,
    "1m": 60_000,
    "3m": 180_000,
    "5m": 300_000,
    "15m": 900_000,
    "30m": 1_800_000,
    "1h": 3_600_000,
    "2h": 7_200_000,
    "4h": 14_400_000,
    "6h": 21_600_000,
    "8h": 28_800_000,
    "12h": 43_200_000,
    "1d": DAY_MS,
}
FUTURES_INTERVALS_MS = {name: ms for name, ms in INTERVALS_MS.items() if name != "1s"}
PERIODS_MS = {name: INTERVALS_MS[name] for name in ("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d")}
HOUR_MS = 3_600_000
NO_SYMBOL = (-1121, "Invalid symbol.")
Body = Callable[[Any, int], str]
"""(event, its time in the socket's unit) -> JSON text."""


@dataclass(frozen=True)
class Ask:
    """A request to the REST API."""

    query: Mapping[str, str]
    limit: int
    numbers: Mapping[str, int]
    """``fromId``, ``startTime`` and ``endTime``, where given."""
    now_ms: int


@dataclass(frozen=True)
class Endpoint:
    """A REST endpoint: who answers, what it costs, how long its pages are."""

    answer: Callable[[Desk, Ask], Any]
    weight: int = 1
    weight_of_all: int | None = None
    """Weight without a symbol, where it differs."""
    steps: tuple[tuple[int, int], ...] = ()
    """Weights by ``limit``: (up to, weight)."""
    page: tuple[int, int] = (500, 1000)
    """``limit`` if none is given, and the highest."""
    limiter: str | None = None
    """Limiter of requests besides that of weight."""

    def cost(self, limit: int, *, is_of_all: bool) -> int:
        """Give the weight of a request."""
        for most, weight in self.steps:
            if limit <= most:
                return weight
        if self.steps:
            return self.steps[-1][1]
        return self.weight_of_all if is_of_all and self.weight_of_all is not None else self.weight


@dataclass(frozen=True)
class Facts:
    """In what a market of this house differs from the others."""

    pool: str
    weight_per_minute: int
    sockets: Mapping[str, str]
    """Name of an endpoint -> its path."""
    paths: tuple[str, ...]
    """What comes before ``ws`` and ``stream``; with more than one, each delivers the streams of its class only."""
    rest: tuple[str, ...]
    """What comes before the names of the REST endpoints."""
    endpoints: Mapping[str, Endpoint]
    intervals_ms: Mapping[str, int]
    rules: Rules
    """What is demanded of a socket."""
    trades: Mapping[str, Body]
    """Channel of trades -> its writer."""
    depth: Body
    has_ids_of_pairs: bool = False
    """COIN-M: names the pair beside the symbol, answers in lists, and gives candles from the end of the time asked."""
    has_microseconds: bool = False
    has_notice: bool = False
    kline_s: int = 1
    ticker_s: int = 1


def class_of(stream: str) -> str:
    """Tell on which of the routed paths a stream flows."""
    channel = stream[1:] if stream.startswith("!") else stream.partition("@")[2]
    return "public" if channel == "trade" or channel.startswith(("bookTicker", "depth", "rpiDepth")) else "market"
