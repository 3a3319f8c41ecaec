"""``record``, ``replay`` and ``simulate``: raw frames in and out."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path

import click
from rich.table import Table

from marketprism_ray.commands import wide_console
from marketprism_ray.config import validate
from marketprism_ray.errors import ConfigError, RecordingError
from marketprism_ray.logs import configure
from marketprism_ray.recording import Recorder
from marketprism_ray.replay import replay_folder
from marketprism_ray.session import Session, Shard, find_instruments, make_rest
from marketprism_ray.simulator.server import VENUES as SIMULATED
from marketprism_ray.simulator.server import serve
from marketprism_ray.venues import VENUES


@click.command()
@click.argument("venue", type=click.Choice(list(VENUES)))
@click.option("--symbols", required=True, help="Names or patterns, separated by commas.")
@click.option("--seconds", default=60.0, show_default=True)
@click.option("--out", type=click.Path(path_type=Path), default=Path("recordings"), show_default=True)
@click.option("--data-types", default="trade,orderbook", show_default=True)
@click.option("--endpoint", "endpoints", multiple=True, help="NAME=URL, for other hosts or simulated venues.")
def record(venue: str, symbols: str, seconds: float, out: Path, data_types: str, endpoints: tuple[str, ...]) -> None:
    """Record a venue's raw frames with their receive times; `replay` reads them.

    \b
    Example:
      marketprism record binance_spot --symbols BTC-USDT,ETH-USDT --seconds 60
    """
    urls = {}
    for item in endpoints:
        name, equals, url = item.partition("=")
        if not equals:
            raise ConfigError(f"--endpoint {item!r}: give NAME=URL")
        urls[name] = url
    exchange = {"symbols": symbols.split(","), "data_types": data_types.split(","), "endpoints": urls}
    config = validate({"exchanges": {venue: exchange}}, "record")
    configure("info")

    out.mkdir(parents=True, exist_ok=True)

    async def run() -> None:
        path = out / f"{venue}-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}.jsonl.zst"
        rest = make_rest(VENUES[venue], config.exchanges[venue], config)
        await rest.open()
        try:
            _, wanted, problems = await find_instruments(VENUES[venue], rest, config.exchanges[venue].symbols)
        finally:
            await rest.close()
        if problems:
            raise ConfigError("\n".join(problems))
        found = [instrument.symbol_name for instrument in wanted]
        streams = tuple((data_type, symbol) for symbol in found for data_type in config.exchanges[venue].data_types)
        with Recorder(path, VENUES[venue]) as recorder:
            session = Session(Shard(venue, venue, streams), config, tap=recorder.frame, on_answer=recorder.answer)
            await session.start()
            try:
                end = time.monotonic() + seconds
                while (left := end - time.monotonic()) > 0:
                    await asyncio.sleep(min(left, 0.5))
                    session.drain(force=True)  # rows are checked and thrown away; the raw frames are kept
            finally:
                await session.stop()
        click.echo(f"{path}: {recorder.frames:,} frames, {path.stat().st_size:,} bytes")

    asyncio.run(run())


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in the last line of stdout.")
def replay(folder: Path, as_json: bool) -> None:
    """Replay recordings through the feed core and report what a reader gets.

    Reads every recording of a known venue in FOLDER, segment by segment as `expected.json` beside them says, and gives
    trades and books in the venue's own units.

    \b
    Example:
      marketprism replay ../shared/recordings --json
    """
    begin = time.monotonic()
    results = replay_folder(folder)
    unread = [result["error"] for result in results.values() if "error" in result]
    if as_json:
        click.echo(json.dumps(results))
        _refuse(unread)
        return
    for name, result in results.items():
        if "types" in result:
            read = ", ".join(f"{kind} {count}" for kind, count in result["types"].items())
            click.echo(f"{name}: {result['lines']} single messages: {read}")
            for text in result["not_read"]:
                click.echo(f"  not read: {text}")
            continue
        for segment in result["segments"]:
            table = Table(title=f"{name}  segment {segment['id']}", title_justify="left")
            for column in (
                "instrument",
                "channel",
                "count",
                "first id",
                "last id",
                "gaps",
                "crossed",
                "best bid",
                "best ask",
                "levels",
            ):
                table.add_column(column)
            for symbol, channels in segment["symbols"].items():
                for channel, f in channels.items():
                    if "first_id" not in f and "state" not in f:
                        shown = ", ".join(f"{k} {v}" for k, v in f["last"].items() if not isinstance(v, dict))
                        cells = [f["count"], "", "", "", "", shown, "", ""]
                    elif "count" in f:
                        cells = [
                            f["count"],
                            f["first_id"],
                            f["last_id"],
                            f["missing"],
                            "",
                            f"sum {f['quantity_sum']}",
                            "",
                            "",
                        ]
                    else:
                        best = [" x ".join(f.get(side) or ["-"]) for side in ("best_bid", "best_ask")]
                        levels = f"{f.get('bid_levels', 0)} / {f.get('ask_levels', 0)}"
                        cells = [
                            f["applied"],
                            f["state"],
                            f.get("last_update_id", "-"),
                            f["gaps"],
                            f["crossed"],
                            *best,
                            levels,
                        ]
                    table.add_row(symbol, channel, *(str(cell) for cell in cells))
            wide_console().print(table)
            if segment["not_read"]:
                click.echo(f"not read: {', '.join(f'{c} ({n})' for c, n in segment['not_read'].items())}")
            for error in segment["errors"]:
                click.echo(f"error: {error}")
    click.echo(f"{time.monotonic() - begin:.1f} s")
    _refuse(unread)


def _refuse(unread: list[str]) -> None:
    """End with what could not be read, after what could."""
    if unread:
        raise RecordingError("; ".join(unread))


@click.command()
@click.option("--venues", default=",".join(SIMULATED), show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=200.0,
    show_default=True,
    help="Market events a second; 0 is as fast as the machine allows.",
)
@click.option("--seed", default=1, show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 takes a free one.")
@click.option("--extra", default=0, show_default=True, help="Made-up coins that each venue lists besides.")
@click.option(
    "--unrest",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Halts, auctions, listings and delistings a minute, drawn from the seed.",
)
@click.option(
    "--clock-offset-ms",
    default=0,
    show_default=True,
    help="By how much the venues' clock is ahead of this machine's.",
)
def simulate(venues: str, rate: float, seed: int, port: int, extra: int, unrest: float, clock_offset_ms: int) -> None:
    """Run the simulated venues on loopback until Ctrl-C.

    Prints one JSON line with the endpoints, as `exchanges.<venue>.endpoints` takes them.

    \b
    Example:
      marketprism simulate --port 9999 --rate 1000
    """
    names = venues.split(",")
    unknown = set(names) - set(SIMULATED)
    if unknown:
        raise ConfigError(f"--venues: cannot simulate {', '.join(sorted(unknown))}; known: {', '.join(SIMULATED)}")

    async def run() -> None:
        market = serve(
            names,
            seed=seed,
            rate=rate,
            port=port,
            extra=extra,
            unrest=unrest,
            clock_offset_ms=clock_offset_ms,
        )
        task = asyncio.ensure_future(market)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return

    try:
        asyncio.run(run())
    except OSError as error:
        click.echo(f"marketprism: port {port}: {error.strerror}; choose another, or 0 for a free one", err=True)
        sys.exit(2)
