"""The generated parts of the README: tables of records, metrics and options. ``make docs`` renews them.

A part stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from marketprism_ray import config, metrics
from marketprism_ray.cli import COMMANDS
from marketprism_ray.proof import scenarios
from marketprism_ray.records import RECORDS
from marketprism_ray.schemas import common_markdown_table, markdown_table


def _records() -> str:
    parts = ["Every record has these fields:", "", common_markdown_table()]
    for name, record in RECORDS.items():
        text = " ".join((record.__doc__ or "").split())
        parts += ["", f"#### `{name}`", "", text, "", f"NATS: `{record.kind}`. Key: {', '.join(record.key)}."]
        parts += ["", markdown_table(name)]
    return "\n".join(parts)


def _commands() -> str:
    rows = [f"| `marketprism {name}` | {text} |" for name, (_, text) in COMMANDS.items()]
    return "\n".join(["| command | what it does |", "|---|---|", *rows])


PARTS: dict[str, Callable[[], str]] = {
    "commands": _commands,
    "scenarios": scenarios.markdown_table,
    "records": _records,
    "metrics": metrics.reference,
    "options": config.reference,
}


def render(text: str) -> str:
    """Put the current parts into a README.

    Raises
    ------
    ValueError
        If a part has no place.
    """
    for name, make in PARTS.items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)", re.S)
        part = make()
        text, count = pattern.subn(lambda match, part=part: f"{match[1]}{part}\n{match[2]}", text)  # type: ignore[misc]
        if count != 1:
            raise ValueError(f"README.md has {count} places for {name}")
    return text


if __name__ == "__main__":
    path = Path(__file__).parents[1] / "README.md"
    path.write_text(render(path.read_text()))
