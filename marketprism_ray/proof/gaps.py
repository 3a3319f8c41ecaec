"""Gap rows against what is really missing: nothing claimed that is there, nothing `repaired` that is not. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from marketprism_ray.proof.findings import Findings, shortly
from marketprism_ray.proof.truth import Said

SEQUENCES = {"trade": "sequence", "orderbook_delta": "last_update_id"}
HAVE_HISTORY = ("trade", "kline", "lsr_top_position", "lsr_all_account")
"""Types whose rows every simulated venue gives back for as long as a run takes."""
SYSTEM = ("clock",)
"""Gap rows that are about no stream."""
EVERYTHING = ("all", "*", "")
WIDEST_NS = 2_000_000_000
"""By how much a time of ours may miss a row that carries no time of the venue's."""
_SHOWN = (
    "data_type",
    "channel",
    "reason",
    "status",
    "first_missing",
    "last_missing",
    "missing_count",
    "repaired_count",
)


class Gaps:
    """The gap rows of a store."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = [row for row in rows if row["data_type"] not in SYSTEM]
        self.after: list[dict[str, Any]] = []
        """Rows that were written because the market was stopped for the verdict."""
        self._of: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in self.rows:
            self._of[row["exchange_name"], row["data_type"]].append(row)

    def about(self, data_type: str, one: Said) -> list[dict[str, Any]]:
        """Give the rows that claim something that a venue said."""
        return [row for row in self._of[one.place[0], data_type] if claims(row, one)]

    def covered(self, data_type: str, one: Said) -> str:
        """Give the status that accounts for something missing: an open gap before any other; "" if none does."""
        found = {row["status"] for row in self.about(data_type, one)}
        return next((status for status in ("open", "unrepairable") if status in found), "")


def claims(gap: dict[str, Any], one: Said, *, strictly: bool = False) -> bool:
    """Tell whether a gap row says that this is, or was, missing.

    A span of time lies between two good rows, which may have the times of others that are missing: ``strictly`` leaves
    out its ends.
    """
    if gap["symbol_name"] not in (one.place[1], *EVERYTHING):
        return False
    if gap["channel"] and one.expected.channel and gap["channel"] != one.expected.channel:
        return False
    column = SEQUENCES.get(gap["data_type"])
    first, last = gap["first_missing"], gap["last_missing"]
    if column is not None and first is not None and (last is None or last >= first):
        sequence = one.row[column]
        return first <= sequence and (last is None or sequence <= last)
    if column is not None and first is not None and last is not None and last == first - 1:
        return False  # a hole that turned out to be none
    # Bounds of candles are the open times of those before and after.
    stamp, slack = one.row["open_time" if gap["data_type"] == "kline" else "timestamp"], 0
    if not isinstance(stamp, int):
        stamp, slack = one.time, WIDEST_NS
    begin, until = gap["opened_at"] - slack, gap["closed_at"]
    if strictly:
        return bool(gap["opened_at"] + slack < stamp and (until is None or stamp < until - slack))
    return bool(begin <= stamp and (until is None or stamp <= until + slack))


def judge_gaps(
    gaps: Gaps, said: dict[str, list[Said]], found: Collection[int], until: int, findings: Findings
) -> list[float]:
    """Compare each row with what is missing in the store; gives how long repaired holes of trades took, s.

    Parameters
    ----------
    found : ``id`` of what was said and is stored
    until : what was said later may still be under way (ns)
    """
    recoveries: list[float] = []
    places: dict[tuple[str, str, str], list[Said]] = defaultdict(list)
    for data_type, spoken in said.items():
        for one in spoken:
            if (
                one.time <= until
                and one.expected.kind in ("event", "delta", "state")
                and one.expected.source == "stream"
            ):
                for symbol in (one.place[1], EVERYTHING[0]):
                    places[one.place[0], symbol, data_type].append(one)
    for gap in gaps.rows:
        symbol = EVERYTHING[0] if gap["symbol_name"] in EVERYTHING else gap["symbol_name"]
        claimed = [one for one in places[gap["exchange_name"], symbol, gap["data_type"]] if claims(gap, one)]
        if gap["data_type"] == "kline":
            # Its bounds are candles that were seen: they are none of those that it claims.
            claimed = [one for one in claimed if claims(gap, one, strictly=True)]
        absent = [one for one in claimed if id(one) not in found]
        if gap["receive_timestamp"] > until and not absent and gap["status"] != "repaired":
            gaps.after.append(gap)
            continue
        surely = [one for one in claimed if claims(gap, one, strictly=True)]
        problem = _untrue(gap, surely, absent)
        if problem:
            findings.untrue_gaps += 1
            name = f"{gap['exchange_name']} {gap['symbol_name']}"
            findings.problem(f"gap row untrue: {problem}", f"{name}: {shortly(gap, _SHOWN)}")
        elif gap["status"] == "repaired" and claimed and gap["data_type"] in SEQUENCES:
            recoveries.append(max(0.0, (gap["receive_timestamp"] - claimed[0].time) / 1e9))
    return recoveries


def _untrue(gap: dict[str, Any], claimed: list[Said], absent: list[Said]) -> str:
    """Say what is wrong with a row, if anything."""
    has_sequences = gap["data_type"] == "trade" and gap["first_missing"] is not None
    is_bounded = has_sequences and gap["last_missing"] is not None and gap["last_missing"] >= gap["first_missing"]
    if gap["status"] == "repaired":
        return f"`repaired`, and {len(absent)} are not there" if absent else ""
    if is_bounded and not claimed:
        return "nothing of it was ever said"
    if claimed and not absent:
        return "all that it claims is there"
    if gap["status"] == "unrepairable" and absent and gap["data_type"] in HAVE_HISTORY:
        return "`unrepairable`, and the venue has it in its history"
    if is_bounded and gap["missing_count"] is not None:
        left = gap["missing_count"] - gap["repaired_count"]
        if left != len(absent):
            return f"{left} missing by the row, {len(absent)} in truth"
    return ""
