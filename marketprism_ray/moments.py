"""Moments as people write them: dates, times, and how long ago."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from marketprism_ray.errors import ConfigError

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def moment(text: str, now: int) -> int:
    """Read a moment, ns since the epoch.

    Parameters
    ----------
    text : ``90m``, ``2h``, ``7d`` (ago), or a date or time as ISO 8601 has it; UTC where it does not say
    now : ns since the epoch

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    found = _AGO.fullmatch(text.strip())
    if found is not None:
        return now - int(float(found[1]) * _SECONDS[found[2]] * 1e9)
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise ConfigError(f"{text!r} is no moment: give 2h, 7d, 2026-11-20 or 2026-11-20T08:00:00Z") from error
    at = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    return round(at.timestamp() * 1e6) * 1_000


def lasting(seconds: float) -> str:
    """Write a length of time for people."""
    for unit, size, limit in (("s", 1, 60), ("min", 60, 3_600), ("h", 3_600, 86_400)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} d"
