"""When everything was well again after a mishap. Pure: statuses and times in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SETTLE_S = 0.1
"""What an actor says of itself counts if it is younger than the mishap by so much: a cut socket is seen by then."""
SLACK_ROWS = 500


@dataclass
class Injected:
    """A mishap as it was carried out.

    Parameters
    ----------
    began, ended : UTC ns; ended is None while it lasts
    failed : why it could not be carried out
    """

    kind: str
    target: str
    began: int
    words: str = ""
    ended: int | None = None
    ended_s: float | None = None
    """By the monotonic clock."""
    recovered_s: float | None = None
    """From its end until everything was well; None if that was never seen."""
    failed: str = ""

    def as_json(self) -> dict[str, Any]:
        """Give plain values; times in UTC ns."""
        return {
            "kind": self.kind,
            "target": self.target,
            "from": self.began,
            "to": self.ended,
            "recovered_s": self.recovered_s,
            "failed": self.failed,
        }


class Recovery:
    """Looks at statuses and notes after which time each mishap was over for a user.

    Well means: every collector and sink that was there before answers, every book is live, every socket is open, and
    no more rows wait for a sink than did before anything went wrong. The coordinator hears an actor once a second, so
    a time is exact to about that.
    """

    def __init__(self) -> None:
        self.injected: list[Injected] = []
        self._shards: set[str] = set()
        self._most_waiting = 0

    def look(self, status: Mapping[str, Any], now: float) -> None:
        """Take a status of the system.

        Parameters
        ----------
        now : s, monotonic, when it was asked for
        """
        if not self.injected:
            self._shards |= {collector["shard"] for collector in status["collectors"]}
            self._most_waiting = max(self._most_waiting, *_waiting(status), 0)
        waiting_for = [i for i in self.injected if i.ended_s is not None and i.recovered_s is None and not i.failed]
        if not waiting_for:
            return
        since = self._well_since(status, now)
        for injected in waiting_for:
            assert injected.ended_s is not None
            if since is not None and since > injected.ended_s + SETTLE_S:
                injected.recovered_s = round(now - injected.ended_s, 2)

    def _well_since(self, status: Mapping[str, Any], now: float) -> float | None:
        """Give the time of the oldest word on which it is believed that everything is well; None if it is not."""
        collectors, sinks = status["collectors"], status["sinks"]
        if {collector["shard"] for collector in collectors} < self._shards:
            return None
        if not all(_is_well(collector) for collector in collectors):
            return None
        if not all(sink["state"] == "alive" for sink in sinks):
            return None
        if max(_waiting(status), default=0) > 2 * self._most_waiting + SLACK_ROWS:
            return None
        return min((now - float(actor["heard_s"]) for actor in (*collectors, *sinks)), default=None)

    def seconds(self) -> dict[str, float | None]:
        """Give p50 and max in s of those that ended."""
        return percentiles([i.recovered_s for i in self.injected if i.recovered_s is not None])


def percentiles(found: Collection[float]) -> dict[str, float | None]:
    """Give p50 and max."""
    if not found:
        return {"p50": None, "max": None}
    return {"p50": round(pc.quantile(pa.array(found, pa.float64())).to_pylist()[0], 2), "max": max(found)}


def _is_well(collector: Mapping[str, Any]) -> bool:
    return (
        collector["state"] == "live"
        and collector.get("books_live") == collector.get("books")
        and not collector.get("paused")
        and not collector.get("spilled_bytes")
        and all(socket["state"] in ("open", "replacing") for socket in collector.get("connections", []))
    )


def _waiting(status: Mapping[str, Any]) -> list[int]:
    return [lane["rows"] for collector in status["collectors"] for lane in collector.get("lanes", {}).values()]
