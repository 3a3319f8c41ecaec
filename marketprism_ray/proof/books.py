"""Books and their changes: chains from snapshot to snapshot, and every published book against the venue's own. Pure."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from marketprism_ray.proof.compare import Sink
from marketprism_ray.proof.findings import Findings
from marketprism_ray.proof.truth import Place, Said

Levels = tuple[tuple[Decimal, Decimal], ...]
NO_PREVIOUS = -1
_UNSAID = -1
"""Stands for a time that a venue does not say of a snapshot."""


class _Side:
    """One side of a book; ``order`` has the prices times ``sign``, so that the best is first."""

    def __init__(self, sign: int, levels: Levels) -> None:
        self._sign = sign
        self._levels = {sign * level[0]: level for level in levels}
        self._order = sorted(self._levels)

    def apply(self, levels: Levels) -> None:
        for level in levels:
            key = self._sign * level[0]
            if level[1]:
                if key not in self._levels:
                    insort(self._order, key)
                self._levels[key] = level
            elif self._levels.pop(key, None) is not None:
                del self._order[bisect_left(self._order, key)]

    def top(self, depth: int) -> Levels:
        return tuple(map(self._levels.__getitem__, self._order[:depth]))


class _Book:
    def __init__(self, snapshot: dict[str, Any]) -> None:
        self.last: int = snapshot["last_update_id"]
        self.bids = _Side(-1, snapshot["bids"])
        self.asks = _Side(1, snapshot["asks"])

    def apply(self, delta: dict[str, Any]) -> None:
        self.bids.apply(delta["bids"])
        self.asks.apply(delta["asks"])
        self.last = delta["last_update_id"]

    def top(self, depth: int) -> tuple[Levels, Levels]:
        return self.bids.top(depth), self.asks.top(depth)


def continues(last: int, delta: dict[str, Any]) -> bool:
    """Tell whether a change is the next one of a book: by what it continues, or by its first id."""
    previous = delta["previous_update_id"]
    if previous == last or delta["first_update_id"] <= last + 1 <= delta["last_update_id"]:
        return True
    return previous is not None and previous <= last < delta["last_update_id"]


def states(said: Sequence[Said]) -> Iterator[_Book]:
    """Give the venue's own book after each of its changes, and each snapshot: the same object, or a new one.

    Nothing is lost in what a venue says, heard or not: one usable snapshot is enough. Snapshots of REST may lag
    behind the changes or run ahead of them; those that are pushed stand where they are.
    """
    deltas = [one for one in said if one.expected.kind == "delta"]
    book: _Book | None = None
    at = 0
    for one in said:
        if one.expected.kind != "snapshot":
            continue
        yield _Book(one.row)
        if book is not None:
            continue
        begin = 0
        if one.is_greeting:
            begin = next((i for i, delta in enumerate(deltas) if delta.order > one.order), len(deltas))
        last = one.row["last_update_id"]
        while begin < len(deltas) and not one.is_greeting and deltas[begin].row["last_update_id"] <= last:
            begin += 1
        if begin == len(deltas) or continues(last, deltas[begin].row):
            book, at = _Book(one.row), begin
    if book is not None:
        for delta in deltas[at:]:
            book.apply(delta.row)
            yield book


def judge_published(
    said: Sequence[Said], rows: Mapping[Sink, Sequence[dict[str, Any]]], findings: Findings
) -> dict[Sink, int]:
    """Compare published books of one place with the venue's own of the same update id; gives how many are equal."""
    wanted: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for kept in rows.values():
        for row in kept:
            wanted[row["last_update_id"]].append(row)
    right: set[int] = set()
    times: dict[int, set[int]] = defaultdict(set)
    for one in said:
        stamp = one.row["timestamp"]
        times[one.row["last_update_id"]].add(stamp if isinstance(stamp, int) else _UNSAID)
    for book in states(said):
        tops: dict[int, tuple[Levels, Levels]] = {}
        for row in wanted.get(book.last, ()):
            depth = row["depth"]
            if depth not in tops:
                tops[depth] = book.top(depth)
            if tops[depth] == (row["bids"], row["asks"]):
                right.add(id(row))
    return {sink: _count_right(sink, kept, right, times, findings) for sink, kept in rows.items()}


def _count_right(
    sink: Sink, rows: Sequence[dict[str, Any]], right: set[int], times: Mapping[int, set[int]], findings: Findings
) -> int:
    """Count the rows whose levels and time are right; write down the others."""
    count, equal = findings.types["orderbook"], 0
    for row in rows:
        place = f"{row['exchange_name']} {row['symbol_name']}"
        stamps = times.get(row["last_update_id"], set())
        if not stamps:
            count.invented += 1
            findings.problem(f"orderbook in the {sink} of no known update", f"{place} {row['last_update_id']}")
        elif id(row) not in right or not (row["timestamp"] in stamps or _UNSAID in stamps):
            count.altered += 1
            what = "its time" if id(row) in right else "its levels"
            findings.problem(f"orderbook in the {sink} is not the venue's", f"{place} {row['last_update_id']}: {what}")
        else:
            equal += 1
    return equal


def judge_chain(said: Sequence[Said], rows: Sequence[dict[str, Any]], sink: Sink, findings: Findings) -> None:
    """Check what each stored change of one place says it continues: a stored row before it, in the venue's order."""
    ends = {row["last_update_id"] for row in rows}
    snapshots = {row["last_update_id"] for row in rows if row["is_snapshot"]}
    changes = [one.row for one in said if one.expected.kind == "delta"]
    own = {(change["first_update_id"], change["last_update_id"]): change for change in changes}
    count = findings.types["orderbook_delta"]
    for row in rows:
        if row["is_snapshot"]:
            is_right = row["previous_update_id"] == NO_PREVIOUS
        else:
            last = row["previous_update_id"]
            venue = own.get((row["first_update_id"], row["last_update_id"]))
            said_previous = None if venue is None else venue["previous_update_id"]
            is_right = last in ends and continues(last, row | {"previous_update_id": said_previous})
            if last in snapshots:
                # The first change of futures after a snapshot has U <= id <= u: it may end where the snapshot does.
                is_right = is_right or row["first_update_id"] <= last <= row["last_update_id"]
            elif said_previous is not None:
                is_right = last == said_previous
        if not is_right:
            count.altered += 1
            place = f"{row['exchange_name']} {row['symbol_name']}"
            findings.problem(
                f"orderbook_delta in the {sink} continues nothing",
                f"{place} {row['first_update_id']}..{row['last_update_id']} after {row['previous_update_id']}",
            )


def begin_of(rows: Sequence[dict[str, Any]]) -> dict[Place, dict[str, Any]]:
    """Give the first snapshot of each place by receipt: what changes before it say, it says as well."""
    found: dict[Place, dict[str, Any]] = {}
    for row in rows:
        place = (row["exchange_name"], row["symbol_name"])
        if row["is_snapshot"] and (place not in found or row["receive_timestamp"] < found[place]["receive_timestamp"]):
            found[place] = row
    return found
