"""The command ``marketprism``. Commands are imported when they are used, so that help is quick and Ray stays out."""

from __future__ import annotations

import importlib
import sys

import click

from marketprism_ray import __version__
from marketprism_ray.errors import ConfigError, MarketPrismError, mask_urls

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("demo:demo", "Simulated venues through the whole pipeline, with a verdict."),
    "up": ("cluster:up", "Start collecting."),
    "apply": ("cluster:apply", "Change what runs to a new configuration."),
    "status": ("cluster:status", "Show what runs and how it is."),
    "redeliver": ("cluster:redeliver", "Try rows again that a server refused."),
    "down": ("cluster:down", "Drain and stop."),
    "validate": ("settings:validate", "Check a configuration file, with --connect also its endpoints."),
    "tail": ("reading:tail", "Print live records from NATS."),
    "query": ("reading:query", "Run SQL against the store."),
    "credentials": ("credentials:credentials", "Print how other clients connect."),
    "gaps": ("gaps:gaps", "Show what is missing, from when to when, and why."),
    "backfill": ("gaps:backfill", "Fetch the past of one stream from its venue."),
    "record": ("recordings:record", "Record a venue's raw frames."),
    "replay": ("recordings:replay", "Replay recordings and report what a reader gets."),
    "simulate": ("recordings:simulate", "Run the simulated venues."),
    "prove": ("demo:prove", "Inject one fault into a demo and judge the data."),
    "venues": ("settings:venues", "Show venues, data types, limits and endpoints."),
    "instruments": ("settings:instruments", "List a venue's instruments."),
    "config": ("settings:config", "Print the effective configuration, or every option."),
}


class _Lazy(click.Group):
    """A group whose commands are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(f"marketprism_ray.commands.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="marketprism")
def cli() -> None:
    """Collect crypto market data and prove that it is complete.

    \b
    Begin with:
      marketprism demo
    """


def main() -> None:
    """Run a command; a known error is one message on standard error, without traceback."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except ConfigError as error:
        click.echo(mask_urls(f"marketprism: {error}"), err=True)
        sys.exit(2)
    except MarketPrismError as error:
        click.echo(mask_urls(f"marketprism: {error}"), err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
