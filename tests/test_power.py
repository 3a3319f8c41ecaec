"""A power cut takes nothing that was acknowledged from where it is said not to; and the cut is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_encoding import trade

from marketprism_ray.errors import MarketPrismError
from marketprism_ray.proof.power import Disk, why_not
from marketprism_ray.query import Store, stream_records
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.servers import EmbeddedServers, NatsOptions
from marketprism_ray.sinks.clickhouse import ClickHouseSink
from marketprism_ray.sinks.nats import NatsSink

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "the power can be cut")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path / "image", tmp_path / "disk") as made:
        yield made


def test_what_is_not_synced_is_lost_and_what_is_stays(disk: Disk) -> None:
    def write(name: str, *, sync: bool) -> None:
        file = os.open(disk.place / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(file, b"x" * 1000)
        if sync:
            os.fsync(file)
        os.close(file)

    write("synced", sync=True)
    write("synced", sync=False)
    write("lost", sync=False)
    disk.cut()
    with pytest.raises(OSError, match="Input/output error"):
        write("after", sync=True)
    disk.restore()
    assert {path.name: path.stat().st_size for path in disk.place.iterdir() if path.is_file()} == {"synced": 1000}


async def stored_after_a_cut(disk: Disk, *, synced: bool) -> tuple[int, int]:
    """Write 40 batches of 10 rows to both, cut as soon as they are acknowledged; gives the rows that are there then."""
    options = NatsOptions(sync_s=0 if synced else 3600)
    servers = EmbeddedServers(disk.place / "data", options=options)
    servers.start()
    sinks = (
        ClickHouseSink(replace(servers.clickhouse_settings(), fsync_after_insert=synced)),
        NatsSink(servers.nats_settings(max_bytes=100 << 20)),
    )
    for sink in sinks:
        await sink.open()
    os.sync()  # what was made before is not what is asked about
    for number in range(40):
        batch = batch_from_records([trade(trade_id=f"{number}-{n}", sequence=number * 10 + n) for n in range(10)])
        for sink in sinks:
            assert await sink.write([batch], f"t{number}") == 10
    state = servers.state()
    disk.cut([state["supervisor"], *(state[name]["pid"] for name in ("clickhouse", "nats"))])
    for sink in sinks:
        await sink.close()
    servers.stop()
    disk.restore()
    with EmbeddedServers(disk.place / "data", options=options) as again:
        store = Store(again.clickhouse_settings("reader"))
        rows = store.query("SELECT count() AS n FROM trade")["n"].to_pylist()[0]
        store.close()
        try:
            messages = len(await stream_records(again.nats_settings("reader"), "trades-data.>"))
        except MarketPrismError:
            messages = 0  # not even the stream
    return rows, messages


async def test_a_power_cut_takes_nothing_acknowledged_where_servers_wait_for_the_disk(disk: Disk) -> None:
    assert await stored_after_a_cut(disk, synced=True) == (400, 400)


async def test_and_takes_much_where_they_do_not(disk: Disk) -> None:
    rows, messages = await stored_after_a_cut(disk, synced=False)
    assert rows < 400
    assert messages < 400
