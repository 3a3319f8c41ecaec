"""A disk that was full takes nothing from the store of what it had acknowledged."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from test_encoding import trade

from marketprism_ray.errors import SinkUnavailable
from marketprism_ray.proof.disk import CannotTry, fill, small_disk
from marketprism_ray.query import Store
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.sinks.clickhouse import ClickHouseSettings, ClickHouseSink
from marketprism_ray.sinks.nats import NatsSettings, NatsSink

PATIENCE_S = 60.0
ROWS = 50
WRITERS = 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    try:
        with small_disk(place, 160 << 20):
            yield place
    except CannotTry as error:
        pytest.skip(str(error))


class Writer(threading.Thread):
    """Inserts batch after batch; one that fails is tried again, as the sinks do."""

    def __init__(self, settings: ClickHouseSettings, symbol: str) -> None:
        super().__init__(daemon=True)
        self.symbol = symbol
        self.ended = threading.Event()
        self.acknowledged = self.failed = 0
        self._settings = settings

    def run(self) -> None:
        asyncio.run(self._run())

    async def _run(self) -> None:
        sink = ClickHouseSink(self._settings)
        await sink.open()
        while not self.ended.is_set():
            numbers = range(self.acknowledged, self.acknowledged + ROWS)
            rows = [trade(symbol_name=self.symbol, sequence=n, trade_id=str(n)) for n in numbers]
            try:
                await sink.write([batch_from_records(rows)], f"{self.symbol}/{self.acknowledged}")
                self.acknowledged += ROWS
            except SinkUnavailable:
                self.failed += 1
        await sink.close()

    def goes_on(self) -> None:
        """Wait until more is acknowledged."""
        before = self.acknowledged
        wait_until(lambda: self.acknowledged >= before + 20 * ROWS or not self.is_alive())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def be_full_for_a_while(disk: Path, writers: list[Writer]) -> None:
    """Let the disk be full until every writer was refused several times."""
    for writer in writers:
        writer.goes_on()
    before = [writer.failed for writer in writers]
    ballast = fill(disk)
    wait_until(lambda: all(writer.failed > failed + 2 for writer, failed in zip(writers, before, strict=True)))
    ballast.unlink()


def has_restarted(servers: EmbeddedServers, times: int) -> bool:
    return bool(servers.state()["clickhouse"]["restarts"] >= times)


def test_what_was_acknowledged_can_be_read_after_the_disk_was_full_while_parts_were_merged(disk: Path) -> None:
    with EmbeddedServers(disk / "data", nats=None) as servers:
        asyncio.run(prepare(servers.clickhouse_settings()))
        writers = [Writer(servers.clickhouse_settings(), f"BTC-USDT-{i}") for i in range(WRITERS)]
        for writer in writers:
            writer.start()
        for times in (1, 2):
            be_full_for_a_while(disk, writers)
            wait_until(partial(has_restarted, servers, times))
        for writer in writers:
            writer.goes_on()
            writer.ended.set()
            writer.join(PATIENCE_S)
        store = Store(servers.clickhouse_settings("reader"))
        found = store.query(
            "SELECT symbol_name, count() AS n, uniqExact(sequence) AS d, sum(price) FROM trade GROUP BY 1"
        )
        store.close()
        counts = {row["symbol_name"]: (row["n"], row["d"]) for row in found.to_pylist()}
    assert counts == {writer.symbol: (writer.acknowledged, writer.acknowledged) for writer in writers}


async def prepare(settings: ClickHouseSettings) -> None:
    sink = ClickHouseSink(settings)
    await sink.open()
    await sink.close()


async def open_nats(settings: NatsSettings) -> None:
    sink = NatsSink(settings)
    await sink.open()
    await sink.close()


async def test_a_stream_that_may_take_most_of_the_disk_is_opened_again(disk: Path) -> None:
    with EmbeddedServers(disk / "data", clickhouse=None) as servers:
        settings = servers.nats_settings(max_bytes=90 << 20)
        await open_nats(settings)
        await open_nats(settings)
        await open_nats(replace(settings, max_age_s=3600.0))
