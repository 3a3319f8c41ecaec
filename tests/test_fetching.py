"""The past by hand: rows come once, however often it is asked for, and gaps that it fills are closed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from marketprism_ray.commands.gaps import gaps
from marketprism_ray.config import Config
from marketprism_ray.errors import ConfigError
from marketprism_ray.fetching import BY_HAND, Fetched, Wanted, fetch
from marketprism_ray.moments import lasting, moment
from marketprism_ray.query import Store, stream_records
from marketprism_ray.records import Gap
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.simulator.server import Simulator
from marketprism_ray.sinks.clickhouse import ClickHouseSink
from marketprism_ray.venues import VENUES

SECOND = 1_000_000_000
SPOT = VENUES["binance_spot"]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("servers")) as running:
        yield running


def a_gap(opened_at: int, closed_at: int) -> Gap:
    return Gap(
        exchange_name="binance_spot", market_type="spot", symbol_name="BTC-USDT", timestamp=opened_at,
        receive_timestamp=opened_at, source="stream", data_type="kline", channel="1s", reason="disconnected",
        opened_at=opened_at, closed_at=closed_at, missing_count=1, status="open", revision=5,
    )  # fmt: skip


async def test_rows_are_written_once_and_the_gap_they_fill_is_closed(servers: EmbeddedServers) -> None:
    clickhouse = servers.clickhouse_settings(database="fetching")
    nats = servers.nats_settings()
    simulator = Simulator(["binance_spot"], seed=5, rate=300)
    await simulator.start()
    try:
        begun = time.time_ns()
        while time.time_ns() < begun + 4 * SECOND:  # noqa: ASYNC110 - candles of a second take seconds
            await asyncio.sleep(0.05)
        endpoints = simulator.endpoints()["binance_spot"]
        exchange = {"symbols": ["BTC-USDT"], "endpoints": endpoints}
        config = Config.model_validate({"exchanges": {"binance_spot": exchange}})
        end = time.time_ns() // SECOND * SECOND
        wanted = Wanted(SPOT, "BTC-USDT", "kline", "1s", end - 60 * SECOND, end - 1)
        shown: list[Fetched] = []
        first = await fetch(wanted, config, nats, clickhouse, shown.append)
        assert first.new >= 2
        assert shown
        store = Store(clickhouse)
        opens = sorted(store.times(_place("1s"), end - 60 * SECOND, end))
        assert len(opens) == first.new
        sink = ClickHouseSink(clickhouse)
        await sink.open()
        await sink.write([batch_from_records([a_gap(opens[0] - SECOND, opens[0] + SECOND)])], "gap")
        again = await fetch(wanted, config, nats, clickhouse, shown.append)
        assert (again.new, again.known, again.closed, again.left) == (0, first.new, 1, 0)
        (row,) = store.gaps({})
        assert (row["status"], row["repaired_count"]) == ("repaired", 1)
        assert row["revision"] == BY_HAND  # the collector of this epoch, at 5 now, will not count as far
        published = await stream_records(nats, "kline-data.binance_spot.spot.BTC-USDT.>")
        assert len(published) == first.new
        with pytest.raises(ConfigError, match="keeps no past of ticker"):
            await fetch(Wanted(SPOT, "BTC-USDT", "ticker", "", 0, 1), config, nats, clickhouse, shown.append)
        store.close()
    finally:
        await simulator.stop()


def _place(interval: str) -> Any:
    from marketprism_ray.gaps import Place

    return Place("binance_spot", "spot", "BTC-USDT", "kline", interval)


def test_gaps_are_shown_and_counted(servers: EmbeddedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = servers.clickhouse_settings(database="shown")
    sink = ClickHouseSink(settings)
    asyncio.run(sink.open())
    at = time.time_ns() // SECOND * SECOND
    asyncio.run(sink.write([batch_from_records([a_gap(at - 90 * SECOND, at)])], "gap"))
    monkeypatch.setattr("marketprism_ray.commands.gaps.read_run", lambda _: {})
    monkeypatch.setattr("marketprism_ray.commands.gaps.reader_settings", lambda *_: (None, settings))
    shown = CliRunner().invoke(gaps, ["--data-dir", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "kline 1s" in shown.output
    assert "1.5 min" in shown.output
    assert "1 open" in shown.output
    none = CliRunner().invoke(gaps, ["--data-dir", str(tmp_path), "--status", "repaired", "--since", "1h"])
    assert "nothing is missing" in none.output
    rows = CliRunner().invoke(gaps, ["--data-dir", str(tmp_path), "--json", "--since", "2h"]).output
    assert json.loads(rows)["missing_count"] == 1


def test_moments_are_read_as_people_write_them() -> None:
    now = 1_795_132_800 * SECOND
    assert moment("2h", now) == now - 7_200 * SECOND
    assert moment("0s", now) == now
    assert moment("2026-11-20", now) == moment("2026-11-20T00:00:00Z", now) == moment("2026-11-20T01:00:00+01:00", now)
    with pytest.raises(ConfigError, match="no moment"):
        moment("yesterday", now)
    assert [lasting(s) for s in (5, 90, 7_200, 200_000)] == ["5.0 s", "1.5 min", "2.0 h", "2.3 d"]
