"""Sinks against the real servers: nats-server and the ClickHouse engine behind its HTTP interface."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_encoding import trade
from test_keys import APART, NEWER

from marketprism_ray.errors import BadBatch, BookError, ConfigError, MarketPrismError, SinkUnavailable
from marketprism_ray.extents import Claim, Run
from marketprism_ray.query import Store, stream_records
from marketprism_ray.records import RECORDS, Gap, Level, OrderBookDelta
from marketprism_ray.resume import OpenGap, Stored
from marketprism_ray.schemas import DECIMAL, arrow_schema, batch_from_records
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.sinks.clickhouse import ClickHouseSettings, ClickHouseSink
from marketprism_ray.sinks.memory import MemorySink
from marketprism_ray.sinks.nats import NatsSettings, NatsSink

DAY = 86_400 * 10**9
FITS = st.decimals(min_value=Decimal("0.000000000000000001"), max_value=Decimal("9e19"), places=18)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("servers")) as running:
        yield running


@pytest.fixture
def clickhouse(servers: EmbeddedServers, request: pytest.FixtureRequest) -> ClickHouseSettings:
    name = "t" + "".join(c for c in request.node.name if c.isalnum())[:50]
    return servers.clickhouse_settings(database=name)


def trades(first: int, last: int) -> pa.RecordBatch:
    return batch_from_records([trade(trade_id=str(n), sequence=n) for n in range(first, last + 1)])


async def test_every_table_exists_and_has_the_columns_of_its_record(clickhouse: ClickHouseSettings) -> None:
    sink = ClickHouseSink(clickhouse)
    await sink.open()
    await sink.open()  # what is there already stays
    store = Store(clickhouse)
    for name in RECORDS:
        assert store.query(f"SELECT * FROM {name}").num_rows == 0
        columns = store.query(
            f"SELECT name FROM system.columns WHERE database = currentDatabase() AND table = '{name}'"
        )
        assert set(columns["name"].to_pylist()) == set(arrow_schema(name).names)


async def test_a_repeated_insert_and_a_repeated_row_are_seen_once(clickhouse: ClickHouseSettings) -> None:
    sink = ClickHouseSink(clickhouse)
    await sink.open()
    for _ in range(2):
        await sink.write([trades(1, 5), trades(6, 9)], "c/1/1")
    await sink.write([trades(8, 12)], "c/2/1")
    found = Store(clickhouse).trades("okx_derivatives", "BTC-USDT-SWAP")
    assert found["sequence"].to_pylist() == list(range(1, 13))


async def test_the_store_keeps_observations_apart_and_the_newest_of_what_is_corrected(
    clickhouse: ClickHouseSettings,
) -> None:
    sink = ClickHouseSink(clickhouse)
    await sink.open()
    store = Store(clickhouse, write=True)
    for name, pair in APART.items():
        table = type(pair[0]).table
        for n in range(2):
            await sink.write([batch_from_records([row]) for row in pair], f"{name}/{n}")
        assert store.query(f"SELECT count() AS n FROM {table}")["n"].to_pylist() == [2], name
        store.query(f"TRUNCATE TABLE {table}")
    for name, rows in NEWER.items():
        table = type(rows[0]).table
        for n, row in enumerate(reversed(rows)):
            await sink.write([batch_from_records([row])], f"{name}/{n}")
        assert store.query(f"SELECT revision FROM {table}")["revision"].to_pylist() == [rows[-1].revision], name
        store.query(f"TRUNCATE TABLE {table}")
    store.close()
    await sink.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(FITS, min_size=1, max_size=50))
def test_every_number_that_fits_comes_back_from_the_store_exactly(
    clickhouse: ClickHouseSettings, values: list[Decimal]
) -> None:
    async def write() -> None:
        sink = ClickHouseSink(clickhouse)
        await sink.open()
        batch = batch_from_records(
            [trade(trade_id=str(n), sequence=n, price=format(v, "f"), raw_quantity=None) for n, v in enumerate(values)]
        )
        await sink.write([batch], repr(values))
        await sink.close()

    asyncio.run(write())
    store = Store(clickhouse, write=True)
    texts = store.query("SELECT toString(price) AS p FROM trade ORDER BY sequence")["p"].to_pylist()
    assert [Decimal(t) for t in texts] == values
    store.query("TRUNCATE TABLE trade")
    store.close()


@pytest.mark.parametrize("text", ["1e400", "NaN", "0.0000000000000000001", "100000000000000000000000", "", "1,5"])
def test_a_number_that_does_not_fit_is_an_error(text: str) -> None:
    with pytest.raises(pa.ArrowInvalid):
        batch_from_records([trade(price=text)])


async def test_a_table_that_somebody_dropped_is_made_again(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path, nats=None) as own:
        settings = own.clickhouse_settings()
        sink = ClickHouseSink(settings)
        await sink.open()
        await sink.write([trades(1, 5)], "a")
        store = Store(settings, write=True)
        store.query("DROP TABLE trade")
        with pytest.raises(SinkUnavailable, match="trade"):
            await sink.write([trades(6, 9)], "b")
        assert await sink.write([trades(6, 9)], "b") == 4
        assert store.counts() == {"trade": 4}
        store.close()
        await sink.close()


async def test_data_of_the_wrong_shape_is_refused_for_good(clickhouse: ClickHouseSettings) -> None:
    sink = ClickHouseSink(clickhouse)
    await sink.open()
    schema = pa.schema([pa.field("nonsense", pa.int64())], metadata={"data_type": "trade"})
    with pytest.raises(BadBatch, match="trade, 1 rows"):
        await sink.write([pa.RecordBatch.from_pydict({"nonsense": [1]}, schema=schema)], "x")


async def test_an_absent_server_is_unavailable() -> None:
    with pytest.raises(SinkUnavailable):
        await ClickHouseSink(ClickHouseSettings("127.0.0.1", 9)).open()
    with pytest.raises(SinkUnavailable):
        await NatsSink(NatsSettings(("nats://127.0.0.1:9",))).open()


def delta(previous: int, last: int, bids: list[Level], *, snapshot: bool = False) -> OrderBookDelta:
    return OrderBookDelta(
        exchange_name="okx_spot",
        market_type="spot",
        symbol_name="A-B",
        timestamp=10**18 + last,
        receive_timestamp=10**18 + last,
        source="stream",
        first_update_id=last,
        last_update_id=last,
        previous_update_id=previous,
        is_snapshot=snapshot,
        bids=bids,
        asks=[],
    )


async def test_a_book_is_rebuilt_from_its_changes_and_a_broken_chain_is_an_error(
    clickhouse: ClickHouseSettings,
) -> None:
    sink = ClickHouseSink(clickhouse)
    await sink.open()
    rows = [
        delta(-1, 5, [Level("10", "1"), Level("9", "2")], snapshot=True),
        delta(5, 7, [Level("10", "0")]),
        delta(7, 8, [Level("9.5", "3")]),
    ]
    await sink.write([batch_from_records(rows)], "a")
    store = Store(clickhouse)
    book = store.rebuild_book("okx_spot", "A-B")
    assert (book.last_update_id, book.bids) == (8, [(Decimal("9.5"), Decimal(3)), (Decimal(9), Decimal(2))])
    await sink.write([batch_from_records([delta(9, 11, [])])], "b")
    with pytest.raises(BookError, match="do not continue update id 8"):
        store.rebuild_book("okx_spot", "A-B")
    with pytest.raises(BookError, match="no snapshot"):
        store.rebuild_book("okx_spot", "C-D")


def test_a_wrong_query_gives_the_servers_message(clickhouse: ClickHouseSettings) -> None:
    with pytest.raises(MarketPrismError, match="nowhere"):
        Store(replace(clickhouse, database="default")).query("SELECT * FROM nowhere")


async def test_published_rows_are_on_the_stream_once_even_if_published_twice(servers: EmbeddedServers) -> None:
    sink = NatsSink(servers.nats_settings(window=50))
    await sink.open()
    assert await sink.write([trades(1, 3000)], "a") == 3000
    assert await sink.write([trades(2001, 4000)], "b") == 1000
    found = await stream_records(sink.settings, "trades-data.okx_derivatives.>")
    assert [record["sequence"] for record in found] == list(range(1, 4001))
    assert found[0]["price"] == Decimal("91249.9")
    await sink.close()


async def test_writes_that_overlap_each_wait_for_their_own_acknowledgements(
    servers: EmbeddedServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketprism_ray.sinks.nats.ACK_TIMEOUT_S", 0.5)
    sink = NatsSink(servers.nats_settings(window=50))
    await sink.open()
    client = sink._client
    publish = client.publish

    async def lossy(subject: str, payload: bytes, **more: Any) -> None:
        if not subject.startswith("gap-data."):
            await publish(subject, payload, **more)

    monkeypatch.setattr(client, "publish", lossy)
    lost = asyncio.create_task(sink.write([batch_from_records([gap(1), gap(2)])], "a"))
    written = [asyncio.create_task(sink.write([trades(n, n + 199)], f"b{n}")) for n in range(10_000, 12_000, 200)]
    assert await asyncio.gather(*written) == [200] * 10
    with pytest.raises(SinkUnavailable, match="acknowledge"):
        await lost
    monkeypatch.setattr(client, "publish", publish)
    assert await sink.write([batch_from_records([gap(1), gap(2)])], "a") == 2
    await sink.close()


def gap(first: int) -> Gap:
    return Gap(
        exchange_name="okx_derivatives",
        market_type="perpetual",
        symbol_name="BTC-USDT-SWAP",
        timestamp=first,
        receive_timestamp=first,
        source="stream",
        data_type="trade",
        reason="sequence",
        opened_at=first,
        first_missing=first,
    )


STREAM = ("trade", "binance_derivatives", "perpetual", "BTC-USDT-SWAP")
OLD = ("trade", "binance_derivatives", "perpetual", "ETH-USDT-SWAP")
CHANGES = ("orderbook_delta", "binance_derivatives", "perpetual", "BTC-USDT-SWAP")
NEVER = ("trade", "binance_derivatives", "perpetual", "XRP-USDT-SWAP")


ETH = ("trade", "okx_derivatives", "perpetual", "ETH-USDT-SWAP")


def trade_of(stream: tuple[str, ...], n: int, at: int) -> Any:
    """Make a trade of a stream."""
    return trade(
        trade_id=str(n),
        sequence=n,
        timestamp=at,
        receive_timestamp=time.time_ns(),
        exchange_name=stream[1],
        symbol_name=stream[3],
    )


def written_before(now: int) -> dict[str, list[pa.RecordBatch]]:
    """Give what an earlier run has written: trades to 7 (the venue counted afresh) and long ago, book changes to 9."""
    places = [(STREAM, 900, now - 50), (STREAM, 6, now - 20), (STREAM, 7, now - 20), (OLD, 3, now - 90 * DAY)]
    rows = [
        trade(
            trade_id=str(n),
            sequence=n,
            timestamp=at,
            receive_timestamp=at,
            exchange_name=exchange_name,
            symbol_name=symbol_name,
        )
        for (_, exchange_name, _, symbol_name), n, at in places
    ]
    change = OrderBookDelta(
        exchange_name="binance_derivatives",
        market_type="perpetual",
        symbol_name="BTC-USDT-SWAP",
        timestamp=now - 10,
        receive_timestamp=now,
        source="stream",
        first_update_id=9,
        last_update_id=9,
        previous_update_id=8,
        is_snapshot=False,
        bids=[],
        asks=[],
    )
    return {"trade": [batch_from_records(rows)], "orderbook_delta": [batch_from_records([change])]}


@pytest.mark.parametrize("kind", ["clickhouse", "nats"])
async def test_a_sink_says_what_was_stored_before_it(
    servers: EmbeddedServers, clickhouse: ClickHouseSettings, kind: str
) -> None:
    now = time.time_ns()
    sink: Any = ClickHouseSink(clickhouse) if kind == "clickhouse" else NatsSink(servers.nats_settings())
    await sink.open()
    assert await sink.stored({NEVER: None}) == {}
    for data_type, batches in written_before(now).items():
        await sink.write(batches, f"{data_type}/{now}")
    found = await sink.stored(dict.fromkeys((OLD, CHANGES, NEVER)))
    assert found == {
        OLD: Stored(Claim((Run(3, 3, now - 90 * DAY, now - 90 * DAY),)), Run(3, 3, now - 90 * DAY, now - 90 * DAY)),
        CHANGES: Stored(Claim((Run(9, 9, now - 10, now - 10),)), Run(9, 9, now - 10, now - 10)),
    }
    later = [trade_of(ETH, n, now + n) for n in (10, 11, 12, 15, 16, 20)]
    await sink.write([batch_from_records(later)], f"later/{now}")
    ranges = [Run(10, 12, now + 10, now + 12), Run(15, 16, now + 15, now + 16), Run(20, 20, now + 20, now + 20)]
    (stored,) = (await sink.stored({ETH: None})).values()
    assert stored == Stored(Claim(tuple(ranges)), Run(10, 10, now + 10, now + 10)), "row by row"
    (stored,) = (await sink.stored({ETH: Run(1, 11, now, now + 11)})).values()
    assert stored == Stored(Claim((Run(12, 12, now + 12, now + 12), *ranges[1:]))), "only what came after"
    (stored,) = (await sink.stored({ETH: Run(1, 99, now, now + 1)})).values()
    assert stored.claim == Claim((Run(20, 20, now + 20, now + 20),), now + 20), "the venue has counted afresh"
    (stored,) = (await sink.stored({ETH: Run(1, 99, now, now + 99)})).values()
    assert stored.claim.runs == tuple(ranges), "what is said to be there has been lost"
    await sink.close()


async def test_an_absent_server_does_not_say_what_is_stored() -> None:
    for sink in (ClickHouseSink(ClickHouseSettings("127.0.0.1", 9)), NatsSink(NatsSettings(("nats://127.0.0.1:9",)))):
        with pytest.raises(SinkUnavailable, match=r"not connected|127\.0\.0\.1:9: "):
            await sink.stored({STREAM: None})


@pytest.mark.parametrize("kind", ["clickhouse", "memory", "nats"])
async def test_a_sink_says_which_holes_are_open(
    servers: EmbeddedServers, clickhouse: ClickHouseSettings, kind: str
) -> None:
    sinks = {
        "clickhouse": ClickHouseSink(clickhouse),
        "memory": MemorySink(),
        "nats": NatsSink(servers.nats_settings()),
    }
    sink: Any = sinks[kind]
    await sink.open()

    def row(first: int, revision: int, **more: Any) -> Gap:
        made = msgspec.structs.replace(gap(first), receive_timestamp=time.time_ns(), revision=revision, **more)
        return msgspec.structs.replace(made, symbol_name="HOLES-USDT-SWAP")

    rows = [
        row(5, 1),
        row(5, 3, status="open", closed_at=9, last_missing=8),
        row(20, 1),
        row(20, 2, status="repaired", last_missing=22),
        row(30, 7, status="unrepairable"),
        row(40, 1),
    ]
    for number, one in enumerate(rows):
        await sink.write([batch_from_records([one])], f"gap/{number}")
    place = ("trade", "okx_derivatives", "perpetual", "HOLES-USDT-SWAP")
    found = await sink.open_gaps([place, ETH])
    assert {stream: sorted(there) for stream, there in found.items()} == {
        place: [OpenGap(5, 9, 5, 8, "sequence", 3), OpenGap(40, None, 40, None, "sequence", 1)]
    }
    await sink.close()


async def test_the_other_preset_of_subjects_carries_the_same_rows(servers: EmbeddedServers) -> None:
    sink = NatsSink(servers.nats_settings(stream="BY_MARKET", preset="market"))
    await sink.open()
    assert await sink.write([trades(1, 20)], "a") == 20
    found = await stream_records(sink.settings, "market.okx.btc_usdt_swap.trade")
    assert [record["sequence"] for record in found] == list(range(1, 21))
    assert found[0]["exchange_name"] == "okx_derivatives"
    await sink.close()


async def test_a_message_too_large_for_the_server_is_refused_by_name(servers: EmbeddedServers) -> None:
    sink = NatsSink(servers.nats_settings())
    await sink.open()
    with pytest.raises(BadBatch, match=r"trades-data\.okx_derivatives\.perpetual\.BTC-USDT-SWAP: a message of"):
        await sink.write([batch_from_records([trade(trade_id="x" * 1_100_000)])], "a")
    await sink.close()


async def until(check: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for a condition, with a deadline."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - another process changes it
            await asyncio.sleep(0.02)


async def test_killed_servers_come_back_on_their_ports_with_their_data(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path) as own:
        settings_ch = own.clickhouse_settings()
        sink, stream = ClickHouseSink(settings_ch), NatsSink(own.nats_settings())
        await sink.open()
        await stream.open()
        await sink.write([trades(1, 10)], "a")
        await stream.write([trades(1, 10)], "a")
        state = own.state()
        for name in ("nats", "clickhouse"):
            os.kill(state[name]["pid"], signal.SIGKILL)
        await until(lambda: all(own.state()[name]["restarts"] == 1 for name in ("nats", "clickhouse")))
        for number, target in enumerate((sink, stream)):
            async with asyncio.timeout(30):
                while True:
                    try:
                        await target.write([trades(6, 15)], f"b{number}")
                        break
                    except SinkUnavailable:
                        await asyncio.sleep(0.05)
        assert Store(settings_ch).trades("okx_derivatives", "BTC-USDT-SWAP")["sequence"].to_pylist() == list(
            range(1, 16)
        )
        records = await stream_records(stream.settings, "trades-data.>")
        assert [record["sequence"] for record in records] == list(range(1, 16))
        await sink.close()
        await stream.close()


async def test_a_server_that_stalls_is_published_to_again_when_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marketprism_ray.sinks.nats.ACK_TIMEOUT_S", 0.5)
    with EmbeddedServers(tmp_path, clickhouse=None) as own:
        sink = NatsSink(own.nats_settings())
        await sink.open()
        await sink.write([trades(1, 10)], "a")
        pid = own.state()["nats"]["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(SinkUnavailable, match="no acknowledgement"):
                await sink.write([trades(11, 20)], "b")
        finally:
            os.kill(pid, signal.SIGCONT)
        for first in (11, 21):
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(SinkUnavailable):
                        await sink.write([trades(first, first + 9)], f"again {first}")
                        break
        records = await stream_records(sink.settings, "trades-data.>")
        assert [record["sequence"] for record in records] == list(range(1, 31))
        await sink.close()


def test_a_second_supervisor_on_the_same_directory_is_refused(servers: EmbeddedServers) -> None:
    with pytest.raises(MarketPrismError, match="another process serves this directory"):
        EmbeddedServers(servers.data_dir).start()


def test_a_taken_port_is_named(servers: EmbeddedServers, tmp_path: Path) -> None:
    with pytest.raises(MarketPrismError, match=f"port {servers.clickhouse_port}: Address already in use"):
        EmbeddedServers(tmp_path, nats=servers.clickhouse_port).start()


def test_a_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MarketPrismError, match="file"):
        EmbeddedServers(tmp_path / "file").start()


__all__ = ["DECIMAL", "ConfigError"]


@pytest.mark.parametrize("chosen", [True, False])
async def test_whether_inserts_wait_for_the_disk_is_chosen_also_for_tables_that_are_there(
    clickhouse: ClickHouseSettings, chosen: bool
) -> None:
    for wanted in (not chosen, chosen, chosen):
        sink = ClickHouseSink(replace(clickhouse, fsync_after_insert=wanted))
        await sink.open()
        await sink.close()
    store = Store(clickhouse)
    for setting in ("fsync_after_insert", "fsync_part_directory"):
        found = store.query(
            f"SELECT countIf(position(engine_full, '{setting} = 1') > 0) AS n FROM system.tables "
            "WHERE database = currentDatabase()"
        )["n"].to_pylist()
        assert found == [len(RECORDS) if chosen else 0]
    store.close()
