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
from marketprism_ray.extents import Claim, Run
from marketprism_ray.records import RECORDS, SEQUENCE_COLUMNS
from marketprism_ray.resume import OpenGap, Stored
from marketprism_ray.sinks import StreamId, counted_afresh, counted_on
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
BROKEN_PARTS = 10_000
BROKEN_BYTES = 1 << 40
LOOK_AGAIN_S = 5.0
"""Tables are compared with the schemas before data is called bad, at most this often."""
RECENT_MINUTES = 10
RECENT_DAYS = 2
SYMBOLS_PER_QUERY = 50
OWED_DAYS = 7
"""A sink that comes anew to a stream which another has is owed at most these days of it."""
MOST_GAPS = 10_000


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
    fsync_after_insert: bool | None = None
    """Whether an insert is acknowledged only when it is on the disk itself; None leaves it to the server."""


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
                if settings.fsync_after_insert is not None:
                    self._synchronise(admin, data_type, found.get(data_type))
            if refused:
                raise SchemaRefused(refusal(settings.database, refused))
        except (ClickHouseError, OSError) as error:
            raise SinkUnavailable(f"ClickHouse: preparing tables: {shorten(str(error), 300)}") from error
        finally:
            admin.close()

    def _synchronise(self, admin: Any, data_type: str, found: Table | None) -> None:
        """Make inserts and merges wait for the disk, or not.

        A merge that a power cut has broken is set aside, and the parts that were merged are taken: any number of them
        is no reason to refuse the table.
        """
        wanted = int(bool(self.settings.fsync_after_insert))
        settings = {
            "fsync_after_insert": wanted,
            "fsync_part_directory": wanted,
            "min_rows_to_fsync_after_merge": wanted,
            "max_suspicious_broken_parts": BROKEN_PARTS,
            "max_suspicious_broken_parts_bytes": BROKEN_BYTES,
        }
        texts = [f"{name} = {value}" for name, value in settings.items()]
        if found is None or not all(text in found.engine_full for text in texts):
            admin.command(f"ALTER TABLE `{self.settings.database}`.`{data_type}` MODIFY SETTING {', '.join(texts)}")

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

    async def stored(self, streams: Mapping[StreamId, Run | None]) -> dict[StreamId, Stored]:
        """Ask for the newest rows, then row by row for what came with them."""
        found: dict[StreamId, Stored] = {}
        for stream, newest in (await self._last(list(streams))).items():
            after = streams[stream]
            afresh = counted_afresh(after, newest)
            if afresh is not None:
                found[stream] = afresh
                continue
            after = counted_on(after, newest)
            begin = None if after is not None else await asyncio.to_thread(self._first, stream, newest)
            if stream[0] != "trade":
                # Changes of books are written in their order: those before the newest are there.
                at = newest if after is None else (after.high + 1, after.ended)
                runs: tuple[Run, ...] = (Run(at[0], newest[0], at[1], newest[1]),)
            else:
                runs = await asyncio.to_thread(self._ranges, stream, after, newest)
            found[stream] = Stored(Claim(tuple(run for run in runs if run.low <= run.high)), begin)
        return found

    def _ranges(self, stream: StreamId, after: Run | None, newest: tuple[int, int]) -> tuple[Run, ...]:
        """Give the ranges without a hole after a known one, or of the minutes before the newest row."""
        table, exchange_name, market_type, symbol_name = stream
        column = SEQUENCE_COLUMNS[table]
        since = (newest[1] if after is None else after.ended) - RECENT_MINUTES * 60_000_000_000
        rows = self._select(
            f"SELECT min(n), max(n), argMin(at, n), argMax(at, n) FROM ("
            f"SELECT n, at, n - toInt64(row_number() OVER (ORDER BY n)) AS island FROM ("
            f"SELECT {column} AS n, toUnixTimestamp64Nano(min(timestamp)) AS at FROM {table} "
            f"WHERE exchange_name = %(exchange)s AND market_type = %(market)s AND symbol_name = %(symbol)s "
            f"AND timestamp >= fromUnixTimestamp64Nano(%(since)s) AND {column} > %(after)s AND {column} <= %(newest)s "
            f"GROUP BY n)) GROUP BY island ORDER BY 1",
            {
                "exchange": exchange_name,
                "market": market_type,
                "symbol": symbol_name,
                "since": since,
                "after": -1 if after is None else after.high,
                "newest": newest[0],
            },
        )
        return tuple(Run(*(int(value) for value in row)) for row in rows)

    def _first(self, stream: StreamId, newest: tuple[int, int]) -> Run:
        """Give the first row of a stream, at most ``OWED_DAYS`` before the newest."""
        table, exchange_name, market_type, symbol_name = stream
        column = SEQUENCE_COLUMNS[table]
        rows = self._select(
            f"SELECT {column}, toUnixTimestamp64Nano(timestamp) FROM {table} "
            f"WHERE exchange_name = %(exchange)s AND market_type = %(market)s AND symbol_name = %(symbol)s "
            f"AND {column} IS NOT NULL AND timestamp >= fromUnixTimestamp64Nano(%(since)s) "
            f"ORDER BY timestamp, {column} LIMIT 1",
            {
                "exchange": exchange_name,
                "market": market_type,
                "symbol": symbol_name,
                "since": newest[1] - OWED_DAYS * 86_400_000_000_000,
            },
        )
        sequence, at = next(iter(rows), newest)
        # A venue that has counted afresh since: what came before has nothing to say.
        sequence = min(int(sequence), newest[0])
        return Run(sequence, sequence, int(at), int(at))

    async def open_gaps(self, streams: Sequence[StreamId]) -> dict[StreamId, tuple[OpenGap, ...]]:
        """Ask the table of gaps."""
        found: dict[StreamId, tuple[OpenGap, ...]] = {}
        for place, group in groupby(sorted(streams), key=lambda stream: stream[:3]):
            symbols = [stream[3] for stream in group]
            rows = await asyncio.to_thread(self._open_gaps, place, symbols)
            for symbol, *values in rows:
                row = OpenGap(*values)
                stream = (*place, str(symbol))
                found[stream] = (*found.get(stream, ()), row)
        return found

    def _open_gaps(self, place: tuple[str, str, str], symbols: list[str]) -> Sequence[Sequence[Any]]:
        data_type, exchange_name, market_type = place
        return self._select(
            "SELECT symbol_name, toUnixTimestamp64Nano(opened_at) AS at, "
            "argMax(tuple(toUnixTimestamp64Nano(closed_at)), revision).1, first_missing, "
            "argMax(tuple(last_missing), revision).1, argMax(reason, revision), max(revision) AS newest FROM gap "
            "WHERE exchange_name = %(exchange)s AND market_type = %(market)s AND symbol_name IN %(symbols)s "
            "AND data_type = %(type)s AND first_missing IS NOT NULL GROUP BY symbol_name, at, first_missing "
            f"HAVING argMax(status, revision) = 'open' ORDER BY at DESC LIMIT {MOST_GAPS} SETTINGS final = 0",
            {"exchange": exchange_name, "market": market_type, "symbols": symbols, "type": data_type},
        )

    async def _last(self, streams: Sequence[StreamId]) -> dict[StreamId, tuple[int, int]]:
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

    async def inherited(self, exchange_name: str, ways: Sequence[Way], before: int) -> Inherited:
        """Ask the tables how far streams without a sequence are stored, and which of their holes are open."""
        return await asyncio.to_thread(inherited, self._select, exchange_name, ways, before)

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
