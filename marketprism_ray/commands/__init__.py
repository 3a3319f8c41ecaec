"""The commands of ``marketprism``, one module a group. What needs a cluster imports ``actors`` when it runs."""

from __future__ import annotations

from rich.console import Console


def wide_console() -> Console:
    """Give a console that does not squeeze tables when its output goes to a file or a pipe."""
    console = Console()
    return console if console.is_terminal else Console(width=200)
