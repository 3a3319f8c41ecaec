"""``up``, ``apply``, ``status`` and ``down``: a running system."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from marketprism_ray.commands import wide_console
from marketprism_ray.config import load
from marketprism_ray.errors import ConfigError, MarketPrismError
from marketprism_ray.logs import configure
from marketprism_ray.running import outcome_file, read_run, run_file, started

DATA_DIR = click.option(
    "--data-dir",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Of the running system.",
)
FILE = click.Path(path_type=Path, dir_okay=False)


UNDELIVERED = "some rows were not delivered: the next start writes gap rows, and fetches what the venues still have"


@click.command()
@click.argument("file", type=FILE, default=Path("config/collector.yaml"))
@click.option("--wait", default=120.0, show_default=True, help="Seconds to wait until everything is live.")
def up(file: Path, wait: float) -> None:
    """Start collecting; runs in the foreground until Ctrl-C or `marketprism down`.

    \b
    Example:
      marketprism up config/collector.yaml
    """
    from actors.app import System

    config = load(file)
    if not any(exchange.enabled for exchange in config.exchanges.values()):
        raise ConfigError(f"{file}: no venue is enabled under exchanges")
    configure(config.system.log_level, config.system.log_format)
    ended = threading.Event()
    system = System(config)
    system.start()
    # After Ray's start, which puts a handler of its own in place.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        click.echo(f"NATS {system.settings['nats'].address}")
        click.echo(f"ClickHouse http://{system.settings['clickhouse'].host}:{system.settings['clickhouse'].port}")
        click.echo(f"look with: marketprism status --data-dir {config.system.data_dir}")
        try:
            found = system.wait_live(wait, ended)
            for name, error in found["errors"].items():
                click.echo(f"{name}: {error}", err=True)
            if not ended.is_set():
                click.echo("everything else is live" if found["errors"] else "everything is live")
        except MarketPrismError as error:
            click.echo(f"{error}; going on trying", err=True)
        while not ended.wait(1.0):
            pass
        click.echo("draining ...")
    finally:
        whole = system.stop()
    click.echo("stopped" if whole else f"stopped; {UNDELIVERED}")
    sys.exit(0 if whole else 1)


@click.command()
@click.argument("file", type=FILE)
@DATA_DIR
def apply(file: Path, data_dir: Path) -> None:
    """Change what runs to a new configuration; only what differs is restarted.

    \b
    Example:
      marketprism apply config/collector.yaml
    """
    from actors.app import attach

    config = load(file)
    system = attach(data_dir)
    absolute = config.system.model_copy(update={"data_dir": data_dir.absolute()})
    click.echo(system.call("apply", config.model_copy(update={"system": absolute})))
    system.wait_live()


@click.command()
@DATA_DIR
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("--story", is_flag=True, help="Also print the coordinator's last steps.")
def status(data_dir: Path, as_json: bool, story: bool) -> None:
    """Show what runs and how it is.

    \b
    Example:
      marketprism status --story
    """
    from actors.app import attach

    found = attach(data_dir).status()
    if as_json:
        click.echo(json.dumps(found))
        return
    wide_console().print(_tables(found))
    for name, error in found["errors"].items():
        click.echo(f"error: {name}: {error}")
    if story:
        click.echo("\n".join(found["story"]))


def _tables(found: dict[str, Any]) -> Table:
    table = Table(title=f"MarketPrism Ray {found['version']}: {found['streams']} streams", title_justify="left")
    for name in (
        "actor",
        "state",
        "pid",
        "epoch",
        "starts",
        "rows",
        "last frame",
        "books live",
        "missing",
        "repaired",
        "gaps open",
        "last error",
    ):
        table.add_column(name)
    for c in found["collectors"]:
        cut = [
            f"{x['name']} {x['state']}: {x['error']}"
            for x in c.get("connections", [])
            if x["state"] not in ("open", "replacing")
        ]
        errors = [c.get("error"), *c.get("errors", []), *cut]
        table.add_row(
            c["name"],
            c["state"],
            str(c.get("pid", "")),
            str(c["epoch"]),
            str(c["starts"]),
            f"{c.get('records', 0):,}",
            _age(c.get("last_received")),
            f"{c.get('books_live', 0)}/{c.get('books', 0)}",
            str(c.get("trades_missing", "")),
            str(c.get("trades_repaired", "")),
            str(c.get("gaps_open", "")),
            next((e for e in reversed(errors) if e), ""),
        )
    for s in found["sinks"]:
        rows = f"{s.get('rows', 0):,}"
        table.add_row(
            s["name"],
            s["state"],
            str(s.get("pid", "")),
            "",
            str(s["starts"]),
            rows,
            "",
            "",
            "",
            "",
            "",
            s.get("last_error", ""),
        )
    return table


def _age(received: int | None) -> str:
    return f"{max(time.time_ns() - received, 0) / 1e9:.0f} s ago" if received else "-"


@click.command()
@DATA_DIR
def redeliver(data_dir: Path) -> None:
    """Try rows again that a server refused for good (dead letters), after their reason is gone.

    Each of them is an open gap row with reason dead_letter; it is closed when the row is delivered.

    \b
    Example:
      marketprism redeliver
    """
    from actors.app import attach

    click.echo(attach(data_dir).call("redeliver", timeout_s=600))


@click.command()
@DATA_DIR
@click.option("--wait", default=150.0, show_default=True, help="Seconds to wait until it has stopped.")
def down(data_dir: Path, wait: float) -> None:
    """Drain and stop the system that `marketprism up` started.

    \b
    Example:
      marketprism down
    """
    path = run_file(data_dir)
    try:
        run = read_run(data_dir)
        pid = run["pid"]
        if started(pid) != run["started"]:
            raise MarketPrismError(f"{path}: process {pid} is on another machine: run `marketprism down` there")
        os.kill(pid, signal.SIGTERM)
    except (ConfigError, ProcessLookupError) as error:
        if not path.exists():
            raise
        path.unlink()
        raise ConfigError(f"{error}; removed the file") from None
    deadline = time.monotonic() + wait
    while path.exists():
        if time.monotonic() > deadline:
            raise MarketPrismError(f"process {pid} has not stopped within {wait:g} s; it may still be delivering")
        time.sleep(0.1)
    outcome = outcome_file(data_dir)
    if outcome.exists() and not json.loads(outcome.read_text())["whole"]:
        raise MarketPrismError(f"stopped; {UNDELIVERED}")
    click.echo("stopped")
