"""Tables that an earlier version, or somebody's hand, made: changed where that is safe, else refused before a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from test_sinks import trades

from actors.app import System
from marketprism_ray.config import validate
from marketprism_ray.errors import SchemaRefused, SinkUnavailable
from marketprism_ray.query import Store
from marketprism_ray.records import RECORDS
from marketprism_ray.schemas import create_table, fields_of, order_by
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.sinks.clickhouse import ClickHouseSettings, ClickHouseSink, _tables, connect
from marketprism_ray.sinks.tables import Column, Table, plan


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path_factory.mktemp("servers"), nats=None) as running:
        yield running


@pytest.fixture
def settings(servers: EmbeddedServers, request: pytest.FixtureRequest) -> ClickHouseSettings:
    name = "t" + "".join(c for c in request.node.name if c.isalnum())[:50]
    return servers.clickhouse_settings(database=name, ttl_days=30)


async def opened(settings: ClickHouseSettings) -> ClickHouseSink:
    sink = ClickHouseSink(settings)
    await sink.open()
    return sink


def found(settings: ClickHouseSettings) -> dict[str, Table]:
    client = connect(settings)
    try:
        return _tables(client, settings.database)
    finally:
        client.close()


def statements(settings: ClickHouseSettings, ttl_days: int | None) -> list[str]:
    tables = found(settings)
    plans = [plan(name, tables[name], database=settings.database, ttl_days=ttl_days) for name in RECORDS]
    assert [made.refusals for made in plans if made.refusals] == []
    return [statement for made in plans for statement in made.statements]


async def test_tables_that_fit_are_left_alone(settings: ClickHouseSettings) -> None:
    sink = await opened(settings)
    assert statements(settings, 30) == []
    await sink.close()
    sink = await opened(replace(settings, ttl_days=None))
    assert statements(settings, None) == []
    await sink.close()


async def test_what_is_missing_is_added_and_what_is_older_is_changed(settings: ClickHouseSettings) -> None:
    sink = await opened(settings)
    store = Store(settings, write=True)
    for change in (
        "ticker DROP COLUMN trade_count",
        "trade COMMENT COLUMN price 'an older word'",
        "trade ADD COLUMN note_of_the_owner String",
        "orderbook_delta MODIFY COLUMN is_snapshot UInt8",
        "kline RESET SETTING non_replicated_deduplication_window",
    ):
        store.query(f"ALTER TABLE {change}")
    later = replace(settings, ttl_days_of={"trade": 7, "ticker": 0})
    await (await opened(later)).close()
    tables = found(settings)
    assert list(tables["ticker"].columns) == [field.name for field in fields_of("ticker")], "in its place"
    assert tables["trade"].columns["price"].comment == "quote per base"
    assert tables["orderbook_delta"].columns["is_snapshot"].kind == "Bool"
    assert "note_of_the_owner" in tables["trade"].columns
    assert "toIntervalDay(7)" in tables["trade"].engine_full
    assert "TTL" not in tables["ticker"].engine_full
    assert "toIntervalDay(30)" in tables["kline"].engine_full
    assert "non_replicated_deduplication_window" in tables["kline"].engine_full
    assert await sink.write([trades(1, 3)], "a") == 3
    store.close()
    await sink.close()


async def test_a_rule_of_the_owner_about_how_long_rows_are_kept_stays(settings: ClickHouseSettings) -> None:
    await (await opened(settings)).close()
    store = Store(settings, write=True)
    store.query("ALTER TABLE trade MODIFY TTL toDateTime(timestamp) + INTERVAL 1 DAY WHERE symbol_name = 'A'")
    await (await opened(settings)).close()
    assert "WHERE" in found(settings)["trade"].engine_full
    store.close()


OLDER: dict[str, tuple[Callable[[str], str], str]] = {
    "version": (
        lambda text: text.replace("ReplacingMergeTree()", "ReplacingMergeTree(receive_timestamp)"),
        "its version column is receive_timestamp, not none",
    ),
    "engine": (lambda text: text.replace("ReplacingMergeTree()", "MergeTree"), "its engine is MergeTree"),
    "sorting key": (
        lambda text: text.replace("timestamp, trade_id)", "timestamp)"),
        r"it is sorted by \(exchange_name, symbol_name, timestamp\), not",
    ),
    "type": (
        lambda text: text.replace("`price` Decimal(38, 18)", "`price` Float64"),
        r"column price is Float64, not Decimal\(38, 18\)",
    ),
    "null": (
        lambda text: text.replace("`trade_count` Nullable(Int64)", "`trade_count` Int64"),
        r"column trade_count is Int64, not Nullable\(Int64\)",
    ),
}


@pytest.mark.parametrize("older", OLDER)
async def test_what_cannot_be_changed_in_place_is_refused_at_start(settings: ClickHouseSettings, older: str) -> None:
    change, sentence = OLDER[older]
    statement = create_table("trade", database=settings.database, ttl_days=None)
    assert change(statement) != statement
    store = Store(replace(settings, database="default"), write=True)
    store.query(f"CREATE DATABASE {settings.database}")
    store.query(change(statement))
    with pytest.raises(SchemaRefused, match=f"table {settings.database}.trade: .*{sentence}.*RENAME TABLE"):
        await opened(settings)
    store.query(f"RENAME TABLE {settings.database}.trade TO {settings.database}.trade_before")
    sink = await opened(settings)
    assert await sink.write([trades(1, 3)], "a") == 3
    await sink.close()
    store.close()


async def test_a_column_that_somebody_drops_while_we_write_is_made_again(settings: ClickHouseSettings) -> None:
    sink = await opened(settings)
    store = Store(settings, write=True)
    store.query("ALTER TABLE trade DROP COLUMN raw_quantity")
    assert await sink.write([trades(1, 3)], "a") == 3
    assert store.query("SELECT count() AS n FROM trade WHERE raw_quantity = 12.5")["n"].to_pylist() == [3]
    store.close()
    await sink.close()


async def test_rows_wait_while_a_table_does_not_fit(settings: ClickHouseSettings) -> None:
    sink = await opened(settings)
    store = Store(settings, write=True)
    store.query("ALTER TABLE trade DROP COLUMN side")
    store.query("ALTER TABLE trade ADD COLUMN side Array(UInt8)")
    for _ in range(2):
        with pytest.raises(SinkUnavailable, match=r"trade: column side is Array\(UInt8\)"):
            await sink.write([trades(1, 3)], "a")
    store.query("DROP TABLE trade SYNC")
    with pytest.raises(SinkUnavailable):
        await sink.write([trades(1, 3)], "a")
    assert await sink.write([trades(1, 3)], "a") == 3
    store.close()
    await sink.close()


@pytest.mark.parametrize(
    ("engine_full", "version"),
    [
        ("ReplicatedReplacingMergeTree('/clickhouse/{shard}/gap', '{replica}', revision) ORDER BY x", "revision"),
        ("SharedReplacingMergeTree('/p', 'r') ORDER BY x", ""),
        ("ReplacingMergeTree ORDER BY x", ""),
        ("ReplacingMergeTree(revision) ORDER BY x", "revision"),
    ],
)
def test_the_version_of_a_table_is_known_in_all_its_forms(engine_full: str, version: str) -> None:
    name = "gap" if version else "trade"
    columns = {f.name: Column(f.clickhouse.replace("LowCardinality(String)", "String"), f.description)
               for f in fields_of(name)}  # fmt: skip
    table = Table(engine_full.split("(")[0].split()[0], engine_full, ", ".join(order_by(name)), columns)
    assert plan(name, table, database="d", ttl_days=None).refusals == ()
    other = "trade" if version else "gap"
    assert any("version" in text for text in plan(other, table, database="d", ttl_days=None).refusals)


def test_a_system_does_not_start_on_a_store_that_cannot_hold_its_rows(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path, nats=None) as before:
        store = Store(before.clickhouse_settings(database="default"), write=True)
        store.query("CREATE DATABASE marketprism")
        statement = create_table("trade", database="marketprism", ttl_days=None)
        store.query(OLDER["version"][0](statement))
        store.close()
    system = System(validate({"system": {"data_dir": str(tmp_path)}}, "test"))
    with pytest.raises(SchemaRefused, match=r"table marketprism\.trade: its version column is receive_timestamp"):
        system.start()
    assert not system.run_file.exists()
    assert not ray.is_initialized()
