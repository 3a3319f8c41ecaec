"""Open gaps and the time that gaps cover, by data type and reason: for `status` and metrics. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict

from marketprism_ray.records import Gap

KNOWN_GAPS = 10_000
"""Gaps that are remembered until they are whole or over; those of a session are few."""

_Key = tuple[str, str, str, int, int | None]


class GapTally:
    """Counts the gap rows of one collector."""

    def __init__(self) -> None:
        self._open: dict[_Key, Gap] = {}
        """Newest row of each gap that lasts or may still be repaired."""
        self._seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._counted: set[_Key] = set()
        self._names: set[tuple[str, str]] = set()

    def note(self, gap: Gap) -> None:
        """Take a row."""
        key = (gap.data_type, gap.symbol_name, gap.channel, gap.opened_at, gap.first_missing)
        name = (gap.data_type, gap.reason)
        self._names.add(name)
        if gap.closed_at is not None and gap.closed_at > gap.opened_at and key not in self._counted:
            self._seconds[name] += (gap.closed_at - gap.opened_at) / 1e9
            self._counted.add(key)
        if gap.status == "open" or gap.closed_at is None:
            self._open[key] = gap
            while len(self._open) > KNOWN_GAPS:
                del self._open[next(iter(self._open))]
        else:
            self._open.pop(key, None)
            self._counted.discard(key)

    @property
    def open(self) -> int:
        """Give how many gaps last or may still be repaired."""
        return len(self._open)

    def rows(self) -> list[dict[str, object]]:
        """Give one row for each data type and reason: gaps that are open, seconds covered by gaps that have ended."""
        open_ = Counter((gap.data_type, gap.reason) for gap in self._open.values())
        return [
            {"data_type": name[0], "reason": name[1], "open": open_[name], "seconds": round(self._seconds[name], 3)}
            for name in sorted(self._names)
        ]
