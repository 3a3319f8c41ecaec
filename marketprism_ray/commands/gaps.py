"""``gaps`` and ``backfill``: what is missing, and what brings it back."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from marketprism_ray import query as reading
from marketprism_ray.commands import wide_console
from marketprism_ray.commands.reading import DATA_DIR
from marketprism_ray.config import load
from marketprism_ray.credentials import WRITER
from marketprism_ray.encoding import decode_json
from marketprism_ray.errors import ConfigError
from marketprism_ray.fetching import Fetched, Wanted, fetch
from marketprism_ray.moments import lasting, moment
from marketprism_ray.records import RECORDS
from marketprism_ray.running import read_run
from marketprism_ray.sinks.settings import reader_settings
from marketprism_ray.venues import VENUES

STATUSES = ("open", "repaired", "unrepairable")
COLUMNS = ("venue", "symbol", "data type", "reason", "from", "to", "lasted", "missing", "repaired", "status")


@click.command()
@click.option("--watch", is_flag=True, help="Go on printing gaps as they open and close.")
@click.option("--venue", type=click.Choice(list(VENUES)))
@click.option("--symbol", help="Canonical, for example BTC-USDT-SWAP.")
@click.option("--type", "data_type", type=click.Choice([*RECORDS, "clock"]))
@click.option("--status", type=click.Choice(STATUSES))
@click.option("--since", help="Gaps that ended or last after this: 2h, 7d, 2026-11-20, 2026-11-20T08:00:00Z.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@DATA_DIR
def gaps(
    watch: bool,
    venue: str | None,
    symbol: str | None,
    data_type: str | None,
    status: str | None,
    since: str | None,
    as_json: bool,
    data_dir: Path,
) -> None:
    """Show what is missing, from when to when, and why.

    \b
    Examples:
      marketprism gaps --status open
      marketprism gaps --venue okx_spot --since 2h
      marketprism gaps --watch
    """
    asked = {"exchange_name": venue, "symbol_name": symbol, "data_type": data_type, "status": status}
    wanted = {name: value for name, value in asked.items() if value is not None}
    nats, clickhouse = reader_settings(read_run(data_dir), data_dir)
    store = reading.Store(clickhouse)
    try:
        rows = store.gaps(wanted, None if since is None else moment(since, time.time_ns()))
    finally:
        store.close()
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        _print(rows)
    if watch:
        try:
            asyncio.run(_watch(nats, wanted, as_json))
        except KeyboardInterrupt:
            return


async def _watch(nats: Any, wanted: dict[str, str], as_json: bool) -> None:
    subject = "gap-data.>" if nats.preset == "default" else ">"
    async for _, message in reading.tail(nats, subject):
        row = decode_json(message)
        if "missing_count" not in row or any(row[name] != value for name, value in wanted.items()):
            continue
        click.echo(message.decode() if as_json else "  ".join(_cells(row)))


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table()
    for name in COLUMNS:
        table.add_column(name)
    for row in rows:
        table.add_row(*_cells(row))
    wide_console().print(table)
    counts = {status: sum(row["status"] == status for row in rows) for status in STATUSES}
    said = ", ".join(f"{count:,} {status}" for status, count in counts.items() if count)
    click.echo(said or "nothing is missing")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    opened, closed = row["opened_at"], row["closed_at"]
    channel = f" {row['channel']}" if row["channel"] else ""
    return (
        row["exchange_name"],
        row["symbol_name"],
        row["data_type"] + channel,
        row["reason"],
        _clock(opened),
        "lasts" if closed is None else _clock(closed),
        "" if closed is None else lasting(max(0.0, (_ns(closed) - _ns(opened)) / 1e9)),
        "?" if row["missing_count"] is None else f"{row['missing_count']:,}",
        f"{row['repaired_count']:,}",
        row["status"],
    )


def _clock(text: str) -> str:
    return text[:19].replace("T", " ")


def _ns(text: str) -> int:
    return moment(text[:26].rstrip("Z") + "+00:00", 0)


@click.command()
@click.argument("venue", type=click.Choice(list(VENUES)))
@click.argument("symbol")
@click.argument("data_type", metavar="TYPE")
@click.option("--from", "since", required=True, help="2h, 7d, 2026-11-20, 2026-11-20T08:00:00Z.")
@click.option("--to", "until", default="0s", show_default="now", help="As --from.")
@click.option("--interval", default="1m", show_default=True, help="Of candles.")
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("config/collector.yaml"),
    show_default=True,
    help="Whose endpoints are asked.",
)
@DATA_DIR
def backfill(
    venue: str, symbol: str, data_type: str, since: str, until: str, interval: str, file: Path, data_dir: Path
) -> None:
    """Fetch the past of one stream from the venue into the store and onto NATS; what is there is left alone.

    TYPE is a data type that the venue has a history of: kline, funding_rate, open_interest, lsr_top_position,
    lsr_all_account, volatility_index. Open gaps that it fills are closed. Run it again as often as you like.

    \b
    Examples:
      marketprism backfill binance_spot BTC-USDT kline --from 7d --interval 1h
      marketprism backfill okx_derivatives BTC-USDT-SWAP funding_rate --from 2026-11-01 --to 2026-11-20
    """
    now = time.time_ns()
    first, last = moment(since, now), moment(until, now)
    if first >= last:
        raise ConfigError(f"--from {since} is not before --to {until}")
    nats, clickhouse = reader_settings(read_run(data_dir), data_dir, WRITER)
    wanted = Wanted(VENUES[venue], symbol, data_type, interval if data_type == "kline" else "", first, last)

    def show(fetched: Fetched) -> None:
        click.echo(f"\r{fetched.done:5.0%}  {fetched.new:,} new, {fetched.known:,} known", nl=False, err=True)

    fetched = asyncio.run(fetch(wanted, load(file), nats, clickhouse, show))
    click.echo("", err=True)
    click.echo(
        f"{fetched.new:,} rows new, {fetched.known:,} known; {fetched.closed:,} open gaps closed, {fetched.left:,} left"
    )
