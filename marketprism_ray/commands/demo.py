"""``demo`` and ``prove``: simulated venues through the whole pipeline, disturbed or not, and a verdict."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from marketprism_ray.proof.disk import NOT_TRIED, CannotTry
from marketprism_ray.proof.probes import Latency
from marketprism_ray.proof.run import Order, run
from marketprism_ray.proof.scenarios import SCENARIOS, reference
from marketprism_ray.proof.verdict import Verdict


def _run(order: Order, *, as_json: bool) -> None:
    """Run with a live screen where somebody looks; print the verdict and end with its exit status."""
    console = Console(stderr=True)
    quiet = as_json or not sys.stderr.isatty()
    last: dict[str, tuple[float, float]] = {}
    with Live(console=console, refresh_per_second=4, transient=True) if not quiet else contextlib.nullcontext() as live:

        def show(status: dict[str, Any], latency: Latency, passed: float) -> None:
            assert live is not None
            live.update(_table(status, latency, passed, order.seconds, last))

        try:
            verdict = run(order, lambda line: console.print(line, style="dim"), None if live is None else show)
        except CannotTry as error:
            console.print(f"not tried: {error}")
            if as_json:
                click.echo(json.dumps({"not_tried": str(error)}))
            sys.exit(NOT_TRIED)
    _finish(verdict, as_json)


def _table(
    status: dict[str, Any], latency: Latency, passed: float, seconds: float, last: dict[str, tuple[float, float]]
) -> Table:
    p = latency.percentiles()
    delay = f"p50 {p['p50']} ms, p99 {p['p99']} ms" if p["p50"] is not None else "-"
    table = Table(
        title=f"MarketPrism Ray  {passed:.0f} of {seconds:.0f} s   trade to subscriber: {delay}", title_justify="left"
    )
    for name in ("actor", "state", "epoch", "rows", "rows/s", "books live", "gaps repaired/found", "retries"):
        table.add_column(name, justify="left" if name in ("actor", "state") else "right")
    for collector in status["collectors"]:
        rows = collector.get("records", 0)
        table.add_row(
            collector["shard"],
            collector["state"],
            str(collector["epoch"]),
            f"{rows:,}",
            _rate(collector["shard"], rows, last),
            f"{collector.get('books_live', 0)}/{collector.get('books', 0)}",
            f"{collector.get('trades_repaired', 0)}/{collector.get('trades_missing', 0)}",
            str(sum(lane["retries"] for lane in collector.get("lanes", {}).values())),
        )
    for sink in status["sinks"]:
        rows = sink.get("rows", 0)
        table.add_row(
            f"sink {sink['kind']}",
            sink["state"],
            "",
            f"{rows:,}",
            _rate(sink["kind"], rows, last),
            "",
            "",
            str(sink.get("retries", 0)),
        )
    return table


def _rate(name: str, rows: int, last: dict[str, tuple[float, float]]) -> str:
    now = time.monotonic()
    before, since = last.get(name, (rows, now))
    if now - since > 2 or name not in last or rows < before:
        last[name] = (rows, now)
    return f"{(rows - before) / (now - since):,.0f}" if now > since and rows >= before else "-"


def _finish(verdict: Verdict, as_json: bool) -> None:
    words = verdict.in_words()
    for line in words:
        click.echo(line, err=as_json)
    latency = verdict.latency_ms
    if latency["p50"] is not None:
        click.echo(f"Latency, venue to NATS subscriber: p50 {latency['p50']} ms, p99 {latency['p99']} ms.", err=as_json)
    age = verdict.store_age_ms
    if age["p50"] is not None:
        click.echo(f"Newest trade in the store, its age: p50 {age['p50']} ms, p99 {age['p99']} ms.", err=as_json)
    if as_json:
        click.echo(json.dumps(verdict.as_json()))
    sys.exit(verdict.exit_code)


class _Moment(click.ParamType[tuple[float, str]]):
    """A moment of the run: a part of it (``0.75``, ``75%``) or seconds from its beginning (``12``, ``0.5s``)."""

    name = "moment"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, str]:
        """Give (number, "part" or "s")."""
        text = str(value).strip()
        number, unit = (text[:-1], text[-1]) if text[-1:] in ("%", "s") else (text, "")
        try:
            found = float(number)
        except ValueError:
            self.fail(f"{value!r} is no moment; give 0.75 or 75% of the run, or 12 or 12s after its beginning")
        if unit == "%":
            return found / 100, "part"
        return found, "part" if not unit and found <= 1 else "s"


_OPTIONS = [
    click.option("--seed", default=1, show_default=True, help="Of the market and of what is drawn: who is hit, when."),
    click.option(
        "--at", type=_Moment(), help="When the first fault happens: 0.75 or 75% of the run, or 12s. Unset: drawn."
    ),
    click.option("--rate", default=300.0, show_default=True, help="Market events a second over all venues."),
    click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON in the last line of stdout."),
    click.option("--data-dir", type=click.Path(path_type=Path), help="Keep the data here instead of throwing it away."),
]


def _with_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.option("--seconds", default=30.0, show_default=True, help="How long the market runs.")
@click.option("--chaos", is_flag=True, help="Kill a collector and cut sockets midway.")
@_with_options
def demo(
    seconds: float,
    chaos: bool,
    seed: int,
    at: tuple[float, str] | None,
    rate: float,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Run simulated venues through the whole pipeline and prove the result.

    Starts simulated venues, NATS, ClickHouse and a local Ray; at the end compares store and stream with the truth
    ledger. The exit status is 1 if anything is silently missing, doubled, altered or invented, 3 if all is whole but
    for open gaps.

    \b
    Example:
      marketprism demo --seconds 60 --chaos
    """
    _run(_order("chaos" if chaos else None, seconds, seed, at, 1.0, rate, data_dir), as_json=as_json)


@click.command(
    help=f"""Inject faults into a running demo and judge the data.

\b
SCENARIO is one of:
{reference()}

The exit status is {NOT_TRIED} if this machine does not allow the scenario, else that of the verdict.

\b
Examples:
  marketprism prove kill-collector --json
  marketprism prove kill-collector --seed 7 --at 0.75
  marketprism prove soak --seconds 600 --seed 7 --intensity 2
"""
)
@click.argument("scenario", type=click.Choice(list(SCENARIOS)), metavar="SCENARIO")
@click.option("--seconds", type=float, help="How long the market runs; unset: as the scenario needs.")
@click.option("--intensity", default=1.0, show_default=True, help="Faults in 10 s, of soak.")
@_with_options
def prove(
    scenario: str,
    seconds: float | None,
    intensity: float,
    seed: int,
    at: tuple[float, str] | None,
    rate: float,
    as_json: bool,
    data_dir: Path | None,
) -> None:
    """Inject faults into a running demo and judge the data."""
    _run(_order(scenario, seconds or SCENARIOS[scenario].seconds, seed, at, intensity, rate, data_dir), as_json=as_json)


def _order(
    scenario: str | None,
    seconds: float,
    seed: int,
    at: tuple[float, str] | None,
    intensity: float,
    rate: float,
    data_dir: Path | None,
) -> Order:
    at_s = None if at is None else at[0] * seconds if at[1] == "part" else at[0]
    if at_s is not None and not 0 <= at_s < seconds:
        raise click.BadParameter(f"the run lasts {seconds:g} s", param_hint="--at")
    return Order(seconds, rate, scenario, seed, at_s, intensity, data_dir)
