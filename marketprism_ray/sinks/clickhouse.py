"""Arrow batches to ClickHouse: large inserts, a deduplication token each, tables made from the schemas."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import clickhouse_connect
import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError

from marketprism_ray.encoding import data_type_of
from marketprism_ray.errors import BadBatch, SinkUnavailable, shorten
from marketprism_ray.records import RECORDS, SEQUENCE_COLUMNS
from marketprism_ray.schemas import create_table
from marketprism_ray.sinks import StreamId

# It prints what it also raises.
logging.getLogger("clickhouse_connect").setLevel(logging.CRITICAL)

REFUSED = {6, 16, 20, 26, 27, 38, 41, 53, 69, 70, 72, 117, 130, 131, 349, 407}
"""Codes that say the data is wrong: cannot parse, no such column, type mismatch, value out of range, ..."""
GONE = {60, 81}
"""Somebody dropped a table or the database: they are made again, and the write is tried again."""
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
    password: str = ""
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
            password=settings.password,
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

    async def open(self) -> None:
        """Connect, create database and tables."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        self._prepare()
        self._client = connect(self.settings)

    def _prepare(self) -> None:
        """Create what is not there."""
        settings = self.settings
        admin = connect(settings, database="default")
        try:
            admin.command(f"CREATE DATABASE IF NOT EXISTS `{settings.database}`")
            for data_type in RECORDS:
                ttl = settings.ttl_days_of.get(data_type, settings.ttl_days)
                admin.command(create_table(data_type, database=settings.database, ttl_days=ttl))
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
        table = pa.Table.from_batches(batches).replace_schema_metadata(None)
        try:
            self._client.insert_arrow(
                data_type_of(batches[0]),
                table.combine_chunks(),
                settings={"insert_deduplication_token": token, "max_partitions_per_insert_block": 0},
            )
        except DatabaseError as error:
            code = getattr(error, "code", None) or _code(str(error))
            text = f"ClickHouse: {data_type_of(batches[0])}, {table.num_rows} rows: {shorten(str(error), 400)}"
            if code in REFUSED:
                raise BadBatch(text) from error
            if code in GONE:
                self._prepare()
            raise SinkUnavailable(text) from error
        except (OperationalError, ClickHouseError, OSError) as error:
            raise SinkUnavailable(f"ClickHouse: {shorten(str(error), 300)}") from error
        return int(table.num_rows)

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


def _code(text: str) -> int | None:
    _, _, rest = text.partition("Code: ")
    digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
    return int(digits) if digits else None
