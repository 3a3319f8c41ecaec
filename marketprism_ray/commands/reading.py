"""``tail`` and ``query``: live records and history of a running system."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import click
import pyarrow as pa
from rich.table import Table

from marketprism_ray import query as reading
from marketprism_ray.commands import wide_console
from marketprism_ray.config import load
from marketprism_ray.credentials import READER, WRITER
from marketprism_ray.errors import ConfigError, MarketPrismError
from marketprism_ray.records import RECORDS
from marketprism_ray.running import read_run
from marketprism_ray.sinks.clickhouse import ClickHouseSettings
from marketprism_ray.sinks.nats import NatsSettings
from marketprism_ray.sinks.settings import reader_settings

SUBJECT = re.compile(r"[^\s.]+(\.[^\s.]+)*")
HINT_S = 10.0

DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Of the running system.",
)


@click.command()
@click.argument("subject", default=">")
@click.option("--server", help="NATS address; without it that of the running system.")
@click.option("--count", type=int, help="Stop after this many records.")
@DATA_DIR
def tail(subject: str, server: str | None, count: int | None, data_dir: Path) -> None:
    """Print live records from NATS, one JSON object a line.

    With --server user and secrets are those of the environment (MARKETPRISM_NATS__USER, MARKETPRISM_NATS__PASSWORD or
    MARKETPRISM_NATS__TOKEN).

    \b
    Examples:
      marketprism tail 'trades-data.>'
      marketprism tail 'orderbook-data.okx_spot.spot.BTC-USDT' --count 1
    """
    if not SUBJECT.fullmatch(subject):
        raise ConfigError(f"subject {subject!r}: words between dots, without blanks; * is any word, > any rest")
    if server:
        given = load(None).nats
        settings = NatsSettings((server,), user=given.user, password=given.password, token=given.token)
    else:
        settings = reader_settings(read_run(data_dir), data_dir)[0]

    async def hint() -> None:
        await asyncio.sleep(HINT_S)
        known = ", ".join(f"{record.kind}.>" for record in RECORDS.values())
        click.echo(f"nothing yet under {subject}; subjects begin with {known}", err=True)

    async def read() -> None:
        left = count
        waiting = asyncio.create_task(hint())
        async for name, record in reading.tail(settings, subject):
            if name.startswith(("_INBOX", "$")):
                continue
            waiting.cancel()
            click.echo(record.decode())
            if left is not None:
                left -= 1
                if left <= 0:
                    return

    try:
        asyncio.run(read())
    except KeyboardInterrupt:
        return


@click.command()
@click.argument("sql")
@click.option("--url", help="host:port of the ClickHouse HTTP interface; without it that of the running system.")
@click.option("--database", help="Without it that of the running system, or marketprism.")
@click.option("--write", is_flag=True, help="Allow statements that change the store.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True)
@DATA_DIR
def query(sql: str, url: str | None, database: str | None, write: bool, form: str, data_dir: Path) -> None:
    """Run SQL against the store; repeats are never seen (final = 1).

    The server refuses statements that change anything, unless --write is given. With --url the user and the password
    are those of the environment (MARKETPRISM_CLICKHOUSE__USER, MARKETPRISM_CLICKHOUSE__PASSWORD).

    \b
    Examples:
      marketprism query "SELECT symbol_name, count() FROM trade GROUP BY 1"
      marketprism query "SELECT * FROM gap ORDER BY opened_at" --format json
    """
    if not sql.strip():
        raise ConfigError("the statement is empty")
    if url is not None:
        host, _, port = url.rpartition(":")
        if not port.isdigit():
            raise ConfigError(f"--url {url!r}: give host:port, for example 127.0.0.1:8123")
        given = load(None).clickhouse
        settings = ClickHouseSettings(
            host, int(port), database=database or "marketprism", user=given.user, password=given.password
        )
    else:
        _, settings = reader_settings(read_run(data_dir), data_dir, WRITER if write else READER)
        settings = replace(settings, database=database or settings.database)
    store = reading.Store(settings, write=write)
    try:
        try:
            found = store.query(sql)
        except MarketPrismError as error:
            if write or not re.search(r"\b(READONLY|code: 164)\b", str(error)):
                raise
            raise MarketPrismError(f"{error}; --write runs statements that change the store") from error
        _print(found, form)
    finally:
        store.close()


def _print(table: pa.Table, form: str) -> None:
    rows = table.to_pylist()
    if form == "json":
        for row in rows:
            click.echo(json.dumps(row, default=str))
    elif form == "csv":
        writer = csv.writer(sys.stdout)
        writer.writerow(table.column_names)
        writer.writerows([_plain(value) for value in row.values()] for row in rows)
    else:
        shown = Table()
        for name in table.column_names:
            shown.add_column(name)
        for row in rows:
            shown.add_row(*(_cell(value) for value in row.values()))
        wide_console().print(shown)
        click.echo("1 row" if len(rows) == 1 else f"{len(rows):,} rows")


def _plain(value: object) -> object:
    return json.dumps(value, default=str) if isinstance(value, (list, dict)) else value


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return f"[{len(value)} values]" if len(value) > 3 else str(_plain(value))
    text = str(value)
    return text.rstrip("0").rstrip(".") if "." in text and text.replace(".", "").replace("-", "").isdigit() else text
