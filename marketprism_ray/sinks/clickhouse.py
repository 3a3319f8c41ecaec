"""Arrow batches to ClickHouse: large inserts, a deduplication token each, tables made from the schemas."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import clickhouse_connect
import pyarrow as pa
import structlog
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError
from pydantic import SecretStr

from marketprism_ray.encoding import data_type_of
from marketprism_ray.errors import BadBatch, SchemaRefused, SinkUnavailable, shorten
from marketprism_ray.records import RECORDS, SEQUENCE_COLUMNS
from marketprism_ray.sinks import StreamId
from marketprism_ray.sinks.inherited import Inherited, Way
from marketprism_ray.sinks.inherited import read as inherited
from marketprism_ray.sinks.tables import Column, Table, plan, refusal

log = structlog.get_logger("clickhouse")
# It prints what it also raises.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)

REFUSED = {6, 16, 20, 26, 27, 38, 41, 53, 69, 70, 72, 117, 130, 131, 349, 407}
"""Codes that say the data is wrong: cannot parse, no such column, type mismatch, value out of range, ..."""
GONE = {60, 81}
"""Somebody dropped a table or the database: they are made again, and the write is tried again."""
LOOK_AGAIN_S = 5.0
"""Tables are compared with the schemas before data is called bad, at most this often."""
RECENT_MINUTES = 10
RECENT_DAYS = 2
SYMBOLS_PER_QUERY = 50


@dataclass(frozen=True)
class ClickHouseSettings:
    """How to reach the server, and what its tables look like."""

    host: str
    port: int
    database: str = "marketprism"
    user: str = "default"
    password: SecretStr | None = None
    secure: bool = False
    tls_ca: Path | None = None
    ttl_days: int | None = None
    ttl_days_of: Mapping[str, int] = field(default_factory=dict)


def connect(settings: ClickHouseSettings, *, database: str | None = None, **more: Any) -> Any:
    """Open a client.

    Raises
    ------
    SinkUnavailable
        If the server cannot be reached or refuses the user.
    """
    try:
        return clickhouse_connect.get_client(
            host=settings.host,
            port=settings.port,
            username=settings.user,
            password=settings.password.get_secret_value() if settings.password else "",
            secure=settings.secure,
            ca_cert=str(settings.tls_ca) if settings.tls_ca else None,
            database=database or settings.database,
            autogenerate_session_id=False,
            compress=False,
            **more,
        )
    except (ClickHouseError, OSError) as error:
        raise SinkUnavailable(f"ClickHouse at {settings.host}:{settings.port}: {shorten(str(error), 300)}") from error


class ClickHouseSink:
    """Writes to one database."""

    def __init__(self, settings: ClickHouseSettings) -> None:
        self.settings = settings
        self._client: Any = None
        self._looked: float | None = None

    async def open(self) -> None:
        """Connect, create database and tables, and change those that an earlier version made.

        Raises
        ------
        SinkUnavailable
            If the server is away.
        SchemaRefused
            If a table cannot hold our rows.
        """
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        self.prepare()
        self._client = connect(self.settings)

    def prepare(self) -> None:
        """Create what is not there, change what can be changed, refuse what does not fit.

        Raises
        ------
        SinkUnavailable
            If the server is away.
        SchemaRefused
            If a table cannot hold our rows.
        """
        settings = self.settings
        admin = connect(settings, database="default")
        try:
            admin.command(f"CREATE DATABASE IF NOT EXISTS `{settings.database}`")
            found = _tables(admin, settings.database)
            refused = {}
            for data_type in RECORDS:
                ttl = settings.ttl_days_of.get(data_type, settings.ttl_days)
                made = plan(data_type, found.get(data_type), database=settings.database, ttl_days=ttl)
                for statement in made.statements:
                    admin.command(statement)
                    if data_type in found:
                        log.info("table_changed", statement=statement)
                if made.refusals:
                    refused[data_type] = made.refusals
            if refused:
                raise SchemaRefused(refusal(settings.database, refused))
        except (ClickHouseError, OSError) as error:
            raise SinkUnavailable(f"ClickHouse: preparing tables: {shorten(str(error), 300)}") from error
        finally:
            admin.close()

    async def write(self, batches: Sequence[pa.RecordBatch], token: str) -> int:
        """Insert batches of one data type as one block."""
        return await asyncio.to_thread(self._write, batches, token)

    def _write(self, batches: Sequence[pa.RecordBatch], token: str) -> int:
        if self._client is None:
            raise SinkUnavailable("ClickHouse: not connected")
        data_type = data_type_of(batches[0])
        table = pa.Table.from_batches(batches).replace_schema_metadata(None).combine_chunks()
        try:
            self._insert(data_type, table, token)
        except BadBatch:
            if not self._looked_at_tables():
                raise
            # The table was not as it should be, or somebody else has just put it right.
            self._insert(data_type, table, token)
        return int(table.num_rows)

    def _insert(self, data_type: str, table: pa.Table, token: str) -> None:
        try:
            self._client.insert_arrow(
                data_type,
                table,
                settings={"insert_deduplication_token": token, "max_partitions_per_insert_block": 0},
            )
        except DatabaseError as error:
            code = getattr(error, "code", None) or _code(str(error))
            text = f"ClickHouse: {data_type}, {table.num_rows} rows: {shorten(str(error), 400)}"
            if code in REFUSED:
                raise BadBatch(text) from error
            if code in GONE:
                self._prepare_again()
            raise SinkUnavailable(text) from error
        except (OperationalError, ClickHouseError, OSError) as error:
            raise SinkUnavailable(f"ClickHouse: {shorten(str(error), 300)}") from error

    def _looked_at_tables(self) -> bool:
        """Compare the tables with the schemas again before data is called bad; False if that was just done.

        Raises
        ------
        SinkUnavailable
            If a table does not fit any more: its rows wait until somebody has put it right.
        """
        now = time.monotonic()
        if self._looked is not None and now - self._looked < LOOK_AGAIN_S:
            return False
        self._prepare_again()
        self._looked = now
        return True

    def _prepare_again(self) -> None:
        try:
            self.prepare()
        except SchemaRefused as error:
            raise SinkUnavailable(str(error)) from error

    async def last(self, streams: Sequence[StreamId]) -> dict[StreamId, tuple[int, int]]:
        """Ask the tables: the last minutes at once, then for what is not found there the last days, then everything."""
        found: dict[StreamId, tuple[int, int]] = {}
        for read in (self._last_minutes, partial(self._newest, RECENT_DAYS), partial(self._newest, None)):
            for place, group in groupby(sorted(set(streams) - found.keys()), key=lambda stream: stream[:3]):
                symbols = [stream[3] for stream in group]
                for chunk in (symbols[i : i + SYMBOLS_PER_QUERY] for i in range(0, len(symbols), SYMBOLS_PER_QUERY)):
                    rows = await asyncio.to_thread(read, place, chunk)
                    found |= {(*place, symbol): (last, at) for symbol, last, at in rows}
        return found

    def _last_minutes(self, place: tuple[str, str, str], symbols: list[str]) -> Sequence[Sequence[Any]]:
        data_type, exchange_name, market_type = place
        sequence = SEQUENCE_COLUMNS[data_type]
        return self._select(
            f"SELECT symbol_name, argMax({sequence}, (timestamp, {sequence})), "
            f"toUnixTimestamp64Nano(max(timestamp)) FROM {data_type} "
            f"WHERE exchange_name = %(exchange)s AND market_type = %(market)s AND symbol_name IN %(symbols)s "
            f"AND {sequence} IS NOT NULL AND timestamp > now() - INTERVAL {RECENT_MINUTES} MINUTE GROUP BY symbol_name",
            {"exchange": exchange_name, "market": market_type, "symbols": symbols},
        )

    def _newest(self, days: int | None, place: tuple[str, str, str], symbols: list[str]) -> Sequence[Sequence[Any]]:
        """Read the newest row of each symbol along the sorting key: however many rows there are, few are looked at."""
        data_type, exchange_name, market_type = place
        sequence = SEQUENCE_COLUMNS[data_type]
        since = "" if days is None else f"AND timestamp > now() - INTERVAL {days} DAY"
        each = (
            f"(SELECT %(symbol{i})s, {sequence}, toUnixTimestamp64Nano(timestamp) FROM {data_type} "
            f"WHERE exchange_name = %(exchange)s AND market_type = %(market)s AND symbol_name = %(symbol{i})s "
            f"AND {sequence} IS NOT NULL {since} ORDER BY timestamp DESC, {sequence} DESC LIMIT 1)"
            for i in range(len(symbols))
        )
        names = {f"symbol{i}": symbol for i, symbol in enumerate(symbols)}
        return self._select(" UNION ALL ".join(each), {"exchange": exchange_name, "market": market_type, **names})

    async def inherited(self, exchange_name: str, ways: Sequence[Way]) -> Inherited:
        """Ask the tables how far streams without a sequence are stored, and which of their holes are open."""
        return await asyncio.to_thread(inherited, self._select, exchange_name, ways)

    def _select(self, sql: str, parameters: dict[str, Any]) -> Sequence[Sequence[Any]]:
        if self._client is None:
            raise SinkUnavailable("ClickHouse: not connected")
        try:
            rows: Sequence[Sequence[Any]] = self._client.query(sql, parameters=parameters).result_rows
        except (ClickHouseError, OSError) as error:
            raise SinkUnavailable(f"ClickHouse: {shorten(str(error), 300)}") from error
        return rows

    async def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            await asyncio.to_thread(self._client.close)


def _tables(client: Any, database: str) -> dict[str, Table]:
    """Read how the tables of a database are."""
    columns: dict[str, dict[str, Column]] = defaultdict(dict)
    of = {"database": database}
    for table, name, kind, comment in client.query(
        "SELECT table, name, type, comment FROM system.columns WHERE database = %(database)s", parameters=of
    ).result_rows:
        columns[table][name] = Column(kind, comment)
    rows = client.query(
        "SELECT name, engine, engine_full, sorting_key FROM system.tables WHERE database = %(database)s", parameters=of
    ).result_rows
    return {name: Table(engine, full, sorting_key, columns[name]) for name, engine, full, sorting_key in rows}


def _code(text: str) -> int | None:
    _, _, rest = text.partition("Code: ")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return int(digits) if digits else None
