"""What a collector inherits from the stores, asked of the real servers, and what a session does with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import instrument

from marketprism_ray.amounts import instrument_record
from marketprism_ray.continuity import Hole
from marketprism_ray.gaps import Place
from marketprism_ray.records import FundingRate, Gap, Kline, Record, Ticker
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.sinks.clickhouse import ClickHouseSink
from marketprism_ray.sinks.inherited import Inherited, Way, merged
from marketprism_ray.sinks.nats import NatsSink

MINUTE = 60 * 10**9
HOUR = 60 * MINUTE
NOW = time.time_ns() // MINUTE * MINUTE
VENUE = "binance_derivatives"
STATISTICS = Way("ticker", "perpetual", "A-USDT-SWAP", True, "statistics")
BEST = Way("ticker", "perpetual", "A-USDT-SWAP", True, "best_prices")
MARKS = Way("funding_rate", "perpetual", "A-USDT-SWAP", True, "")
CHARGED = Way("funding_rate", "perpetual", "A-USDT-SWAP", False, "")
CANDLES = Way("kline", "perpetual", "A-USDT-SWAP", True, "1m")
BEGUN = Way("instrument", "perpetual", "A-USDT-SWAP", False, "")
WAYS = [BEGUN, STATISTICS, BEST, MARKS, CHARGED, CANDLES, Way("ticker", "perpetual", "B-USDT-SWAP", True, "statistics")]


def common(at: int, source: str = "stream") -> dict[str, Any]:
    return {
        "exchange_name": VENUE, "market_type": "perpetual", "symbol_name": "A-USDT-SWAP",
        "timestamp": at, "receive_timestamp": at, "source": source,
    }  # fmt: skip


def candle(minute: int, source: str = "stream", *, is_closed: bool) -> Kline:
    prices = dict.fromkeys(("open_price", "high_price", "low_price", "close_price", "volume"), "1")
    times = {"open_time": NOW + minute * MINUTE, "close_time": NOW + (minute + 1) * MINUTE}
    return Kline(
        **common(NOW + (minute + 1) * MINUTE, source), interval="1m", **times, **prices, is_closed=is_closed, revision=1
    )


def gap(opened_at: int, closed_at: int | None, status: Any, revision: int, **more: Any) -> Gap:
    fields = {"data_type": "kline", "channel": "1m", "reason": "disconnected", **more}
    return Gap(
        **common(opened_at), opened_at=opened_at, closed_at=closed_at, status=status, revision=revision, **fields
    )


SWAP = instrument(exchange_name=VENUE, market_type="perpetual", symbol_name="A-USDT-SWAP")
ROWS: list[list[Record]] = [
    [
        instrument_record(
            instrument(exchange_name=VENUE, market_type="perpetual", symbol_name="A-USDT-SWAP"), NOW - HOUR
        )
    ],
    [Ticker(**common(NOW - HOUR * n), content="statistics") for n in (30, 40)]
    + [Ticker(**common(NOW - MINUTE * n), content="best_prices") for n in (5, 2)],
    [FundingRate(**common(NOW - 7 * HOUR, "poll")), FundingRate(**common(NOW - MINUTE))],
    [candle(-9, is_closed=True), candle(-8, "backfill", is_closed=True), candle(-7, is_closed=False)],
    [
        gap(NOW - 50 * MINUTE, NOW - 40 * MINUTE, "open", 1, missing_count=9),
        gap(NOW - 30 * MINUTE, NOW - 20 * MINUTE, "open", 1),
        gap(NOW - 30 * MINUTE, NOW - 20 * MINUTE, "repaired", 2),
        gap(NOW - 3 * MINUTE, None, "unrepairable", 1, data_type="ticker", channel="bookTicker"),
        gap(NOW - 3 * MINUTE, NOW - 2 * MINUTE, "unrepairable", 1, data_type="ticker", channel="ticker"),
        gap(NOW - 4 * MINUTE, NOW - 4 * MINUTE, "open", 1, reason="dead_letter"),
        gap(NOW - 5 * MINUTE, None, "open", 1, data_type="trade", channel="", first_missing=7),
    ],
]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("servers")) as running:
        yield running


async def test_the_store_says_how_far_each_stream_came_and_what_is_open(servers: EmbeddedServers) -> None:
    sink = ClickHouseSink(servers.clickhouse_settings(database="inherited"))
    await sink.open()
    assert (await sink.inherited(VENUE, WAYS, NOW + HOUR)).newest == {}
    for n, records in enumerate(ROWS):
        await sink.write([batch_from_records(records)], f"c/1/{n}")
    found = await sink.inherited(VENUE, WAYS, NOW + HOUR)
    assert {way: at for way, at in found.newest.items() if way in WAYS} == {
        STATISTICS: NOW - 30 * HOUR,
        BEGUN: NOW - HOUR,
        BEST: NOW - 2 * MINUTE,
        MARKS: NOW - MINUTE,
        CHARGED: NOW - 7 * HOUR,
        CANDLES: NOW - 8 * MINUTE,
    }
    candles = Place(VENUE, "perpetual", "A-USDT-SWAP", "kline", "1m")
    quotes = Place(VENUE, "perpetual", "A-USDT-SWAP", "ticker", "bookTicker")
    assert found.of(candles) == ([Hole(NOW - 50 * MINUTE, NOW - 40 * MINUTE, "disconnected", 9)], ())
    assert found.of(quotes) == ([], (NOW - 3 * MINUTE, "disconnected"))
    assert len(found.open) == 2
    earlier = await sink.inherited(VENUE, WAYS, NOW - 3 * MINUTE)
    assert earlier.newest[BEST] == NOW - 5 * MINUTE, "rows of the heir itself do not count"


async def test_the_stream_says_how_far_what_was_pushed_came(servers: EmbeddedServers) -> None:
    sink = NatsSink(servers.nats_settings())
    await sink.open()
    for n, records in enumerate(ROWS[:4]):
        await sink.write([batch_from_records(records)], f"c/1/{n}")
    found = await sink.inherited(VENUE, WAYS, NOW + HOUR)
    assert found.newest == {BEST: NOW - 2 * MINUTE, MARKS: NOW - MINUTE}
    await sink.close()


def test_a_row_is_durable_where_all_stores_have_it() -> None:
    both = merged([Inherited({BEST: 5, MARKS: 9}), Inherited({BEST: 7})])
    assert both.newest == {BEST: 5, MARKS: 9}
