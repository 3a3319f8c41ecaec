"""The words in which the markets of this house differ, and what every part of it needs to know."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marketprism_ray.simulator.binance.intervals import LENGTHS_MS
from marketprism_ray.simulator.rules import Rules

if TYPE_CHECKING:
    from marketprism_ray.simulator.binance.desk import Desk

UNIVERSES = {"binance_derivatives": 1, "binance_coinm": 2}
"""``st`` of the futures markets: their all-market streams carry the symbols of both."""
FUTURES_INTERVALS = tuple(name for name in LENGTHS_MS if name != "1s")
PERIODS_MS = {name: LENGTHS_MS[name] for name in ("5m", "15m", "30m", "1h", "2h", "4h", "6h", "12h", "1d")}
NO_SYMBOL = (-1121, "Invalid symbol.")
Body = Callable[[int], str]
"""Scale of times (1 for ms, 1000 for µs) -> JSON text."""


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
    quota: str | None = None
    """Quota of requests besides that of weight."""
    needs_key: bool = False

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
    intervals: tuple[str, ...]
    """Lengths of candles."""
    rules: Rules
    """What is demanded of a socket."""
    trade: Callable[[Any, int], str]
    """Writes a fill; the others an aggregate, a batch of changes and the best levels, with the time of sending."""
    aggregate: Callable[[Any, int, int], str]
    depth: Callable[[Any, int, int], str]
    window: Callable[[Any, int, int], str]
    depth_ms: tuple[int, ...]
    """Times between batches of changes, the usual one first; 0 is each change by itself."""
    kline_ms: int
    ticker_ms: int
    has_ids_of_pairs: bool = False
    """COIN-M: names the pair beside the symbol, answers in lists, and gives candles from the end of the time asked."""
    has_pairs: bool = True
    """Futures: candles of a pair and kind of contract; spot has other time zones in their place."""
    has_rpi: bool = False
    has_microseconds: bool = False
    has_notice: bool = False


def class_of(stream: str) -> str:
    """Tell on which of the routed paths a stream flows."""
    channel = stream[1:] if stream.startswith("!") else stream.partition("@")[2]
    return "public" if channel == "trade" or channel.startswith(("bookTicker", "depth", "rpiDepth")) else "market"
