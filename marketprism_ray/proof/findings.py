"""What a comparison found, type by type."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

SHOWN = 3


@dataclass
class Count:
    """Figures of one data type.

    ``missing`` is in no gap row; ``waiting`` is in an open one, ``lost`` in an unrepairable one. ``altered`` rows say
    something else than the venue did; ``invented`` ones nothing that it ever said; ``doubled`` ones are there twice.
    """

    emitted: int = 0
    stored: int = 0
    published: int = 0
    missing: int = 0
    stream_missing: int = 0
    waiting: int = 0
    lost: int = 0
    altered: int = 0
    invented: int = 0
    doubled: int = 0
    stream_doubled: int = 0


@dataclass
class Findings:
    """All figures, and examples of what is wrong in words."""

    types: dict[str, Count] = field(default_factory=lambda: defaultdict(Count))
    untrue_gaps: int = 0
    problems: list[str] = field(default_factory=list)
    stopped: list[dict[str, Any]] = field(default_factory=list)
    """Gap rows that were written because the market was stopped for the verdict."""
    _shown: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def problem(self, kind: str, text: str) -> None:
        """Keep an example; of one kind the first few."""
        self._shown[kind] += 1
        if self._shown[kind] <= SHOWN:
            self.problems.append(f"{kind}: {text}")

    def total(self, name: str) -> int:
        """Sum a figure over all types."""
        return sum(int(getattr(count, name)) for count in self.types.values())


def shortly(row: dict[str, Any], columns: tuple[str, ...] = ()) -> str:
    """Write a row for people: a few of its columns, or those that are not null and no levels."""
    chosen = columns or tuple(name for name, value in row.items() if value is not None and name not in ("bids", "asks"))
    return ", ".join(f"{name}={row.get(name)}" for name in chosen)
