"""``validate``, ``venues``, ``instruments`` and ``config``: what is configured, and what can be."""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec
from rich.table import Table
from websockets.asyncio.client import connect as connect_socket
from websockets.exceptions import WebSocketException

from marketprism_ray.commands import wide_console
from marketprism_ray.config import Config, Exchange, dump, load, reference
from marketprism_ray.errors import ConfigError, MarketPrismError
from marketprism_ray.instruments import Instrument
from marketprism_ray.session import find_instruments, make_rest
from marketprism_ray.sinks.clickhouse import connect as connect_clickhouse
from marketprism_ray.sinks.nats import connect as connect_nats
from marketprism_ray.sinks.settings import clickhouse_settings, nats_settings
from marketprism_ray.venues import VENUES

FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("file", type=FILE)
@click.option("--connect", is_flag=True, help="Also open every socket, REST API and server that is configured.")
def validate(file: Path, connect: bool) -> None:
    """Check a configuration file.

    Names path, value and what is allowed for everything that is wrong. Exit status 2 if the file is wrong, 1 if an
    endpoint cannot be reached.

    \b
    Example:
      marketprism validate config/collector.yaml --connect
    """
    config = load(file)
    enabled = [name for name, exchange in config.exchanges.items() if exchange.enabled]
    click.echo(f"{file}: valid; venues: {', '.join(enabled) or 'none enabled'}")
    if connect and not asyncio.run(_connect_all(config)):
        sys.exit(1)


async def _connect_all(config: Config) -> bool:
    whole = True

    def report(what: str, error: Exception | None, more: str = "") -> None:
        nonlocal whole
        whole = whole and error is None
        click.echo(f"  {'ok    ' if error is None else 'FAILED'} {what}{more if error is None else f': {error}'}")

    for name, exchange in config.exchanges.items():
        if not exchange.enabled:
            continue
        venue = VENUES[name]
        for endpoint, default in venue.sockets.items():
            url = exchange.endpoints.get(endpoint) or default
            try:
                async with asyncio.timeout(config.networking.connect_timeout_s):
                    socket = await connect_socket(url, proxy=config.networking.proxy_url or True)
                    await socket.close()
                report(f"{name} {endpoint} {url}", None)
            except (OSError, TimeoutError, WebSocketException) as error:
                report(f"{name} {endpoint} {url}", error)
        rest = make_rest(venue, exchange, config)
        await rest.open()
        try:
            table, found, problems = await find_instruments(venue, rest, exchange.symbols)
            if problems:
                raise ConfigError("; ".join(problems))
            report(f"{name} rest {rest.base_url}", None, f": {len(table)} instruments, {len(found)} wanted")
        except MarketPrismError as error:
            report(f"{name} rest {rest.base_url}", error)
        finally:
            await rest.close()
    if config.nats.mode == "external":
        try:
            client = await connect_nats(nats_settings(config))
            await client.close()
            report(f"nats {', '.join(config.nats.servers)}", None)
        except MarketPrismError as error:
            report("nats", error)
    if config.clickhouse.mode == "external":
        settings = clickhouse_settings(config)
        try:
            store = connect_clickhouse(settings, database="default")
            store.close()
            report(f"clickhouse {settings.host}:{settings.port}", None)
        except MarketPrismError as error:
            report("clickhouse", error)
    return whole


@click.command()
@click.argument("venue", type=click.Choice(list(VENUES)))
@click.argument("patterns", nargs=-1)
@click.option("--config", "file", type=FILE, help="Take endpoints and proxy from this file.")
@click.option("--url", help="Base URL of the venue's REST API, for example of a simulated venue.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def instruments(venue: str, patterns: tuple[str, ...], file: Path | None, url: str | None, as_json: bool) -> None:
    """List a venue's instruments, as it describes them now.

    PATTERNS are canonical names, venue names, shell patterns, or the most traded ones: top:N, top:N:PATTERN.

    \b
    Examples:
      marketprism instruments binance_spot "*-USDT"
      marketprism instruments okx_derivatives "BTC-USD-*-C" --json
      marketprism instruments binance_derivatives "top:20:*-USDT-SWAP"
    """
    settings = load(file)
    exchange = settings.exchanges.get(venue) or Exchange()
    if url is not None:
        exchange = exchange.model_copy(update={"endpoints": {**exchange.endpoints, "rest": url}})

    async def fetch() -> tuple[list[Instrument], list[str]]:
        rest = make_rest(VENUES[venue], exchange, settings)
        await rest.open()
        try:
            _, found, problems = await find_instruments(VENUES[venue], rest, patterns or ("*",))
        finally:
            await rest.close()
        return found, problems

    found, problems = asyncio.run(fetch())
    if as_json:
        for instrument in found:
            click.echo(msgspec.json.encode(instrument).decode())
    else:
        table = Table()
        for column in ("symbol", "venue's name", "type", "tick", "lot", "contract", "expiry", "status"):
            table.add_column(column, no_wrap=True)
        for i in found:
            contract = "" if i.is_base else f"{i.contract_size} {i.quote if i.is_inverse else i.base}"
            expiry = (
                "" if i.expiry is None else datetime.fromtimestamp(i.expiry // 10**9, UTC).strftime("%Y-%m-%d %H:%M")
            )
            row = (i.symbol_name, i.venue_symbol, i.market_type, i.tick_size or "", i.lot_size or "", contract, expiry)
            table.add_row(*row, i.status)
        wide_console().print(table)
        click.echo(f"{len(found):,} instruments")
    if problems:
        raise ConfigError("\n".join(problems))


@click.command()
def venues() -> None:
    """Show venues, data types, limits and endpoints.

    \b
    Example:
      marketprism venues
    """
    table = Table(show_lines=True)
    for column in ("venue", "data types", "limits", "endpoints"):
        table.add_column(column, overflow="fold")
    for venue in VENUES.values():
        limits = venue.limits
        lifetime = f"{limits.lifetime_s / 3600:g} h a socket" if limits.lifetime_s else "no forced cut"
        budgets = [
            f"REST {b.name}: {b.capacity} per {b.period_s:g} s{' of the house' if b.pool else ''}"
            for b in venue.rest.budgets
        ]
        sockets = [
            f"{limits.connects} new sockets per {limits.connects_period_s:g} s",
            f"{limits.messages_per_second:g} messages a second",
        ]
        types = [f"kline ({', '.join(venue.intervals)})" if name == "kline" else name for name in venue.data_types]
        table.add_row(
            venue.name,
            "\n".join(types),
            "\n".join([f"{limits.streams_per_socket} streams a socket", lifetime, *sockets, *budgets]),
            "\n".join([*(f"{name} {url}" for name, url in venue.sockets.items()), f"rest {venue.rest_url}"]),
        )
    wide_console().print(table)


@click.command()
@click.argument("file", type=FILE, required=False)
@click.option("--options", is_flag=True, help="List every option with its default and meaning instead.")
def config(file: Path | None, options: bool) -> None:
    """Print the effective configuration: defaults, file and environment together; secrets redacted.

    \b
    Examples:
      marketprism config config/collector.yaml
      marketprism config --options
    """
    click.echo(reference() if options else dump(load(file)), nl=options)
