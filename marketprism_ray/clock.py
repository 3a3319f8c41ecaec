"""The wall clock of a session, and how its steps are noticed.

Rows carry wall time; deadlines must not depend on it. A feed keeps its deadlines in wall time all the same, because
every frame brings that along for nothing. So whoever looks at deadlines reads the clock through `Clock.tick_ns`: when
the clock has stepped (a first synchronisation, a resumed virtual machine, an operator), everybody who keeps deadlines
is told first, and moves them by as much.
"""

from __future__ import annotations

import time
from collections.abc import Callable

TOLERANCE_NS = 250_000_000
"""What the clock may move against the monotonic one between two looks; synchronisation slews far less."""
READING_NS = 10_000_000
"""Two readings further apart than this say nothing: the process stood still between them."""


class StepWatch:
    """Notices steps of the wall clock by looking at it beside the monotonic one. Pure.

    Parameters
    ----------
    wall_ns, monotonic_ns : both clocks now
    """

    def __init__(self, wall_ns: int, monotonic_ns: int, tolerance_ns: int = TOLERANCE_NS) -> None:
        self._difference = wall_ns - monotonic_ns
        self._tolerance = tolerance_ns

    def look(self, wall_ns: int, monotonic_ns: int) -> int:
        """Give by how many ns the wall clock has stepped since the last look; 0 if it has not.

        Slow drift is followed.
        """
        moved = wall_ns - monotonic_ns - self._difference
        self._difference += moved
        return moved if abs(moved) > self._tolerance else 0


class Clock:
    """Wall time in ns since the epoch, UTC; tells its listeners of steps before anybody acts on the new time."""

    def __init__(self, wall_ns: Callable[[], int] = time.time_ns) -> None:
        self._read = wall_ns
        self._shift = 0
        self._watch = StepWatch(wall_ns(), time.monotonic_ns())
        self._listeners: list[Callable[[int, int], None]] = []
        self.steps = 0

    def on_step(self, listener: Callable[[int, int], None]) -> None:
        """Have (time now, by how much it stepped, both ns) told."""
        self._listeners.append(listener)

    def wall_ns(self) -> int:
        """Read the clock: for timestamps."""
        return self._read() + self._shift

    def tick_ns(self) -> int:
        """Read the clock before looking at deadlines."""
        before = time.monotonic_ns()
        now = self.wall_ns()
        after = time.monotonic_ns()
        if after - before <= READING_NS and (moved := self._watch.look(now, after)):
            self.steps += 1
            for listener in self._listeners:
                listener(now, moved)
        return now

    def shift(self, by_ns: int) -> None:
        """Let the clock step, as a drill."""
        self._shift += by_ns
