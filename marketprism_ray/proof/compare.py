"""Rows against what the venues said: every field of every row of a type, in one sink. Pure.

A row is good if the venue said exactly it. What the venue said and no row says is missing, unless a gap row covers it.
A row that shares its identity with something said and differs is altered; one that shares none is invented.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from marketprism_ray.proof.derive.common import ANY, OPEN_ENDED, RECEIVED
from marketprism_ray.proof.findings import Findings, shortly
from marketprism_ray.proof.truth import Place, Said
from marketprism_ray.schemas import fields_of

Sink = Literal["store", "stream"]
Covered = Callable[[str, Said], str]
"""(data type, what is missing) -> "" or the status of the gap row that accounts for it."""

OURS = ("exchange_name", "symbol_name", "receive_timestamp", "source", "revision", "digest")
"""Columns that no venue says: who saw it when, and what tells rows apart."""
IDENTITY = {
    "trade": ("trade_id",),
    "liquidation": ("timestamp", "side", "price", "quantity"),
    "kline": ("interval", "open_time"),
    "volatility_index": ("timestamp", "index_name", "resolution"),
    "lsr_top_position": ("timestamp", "period"),
    "lsr_all_account": ("timestamp", "period"),
    "ticker": ("timestamp", "content", "sequence"),
}
"""By what an altered row is still known; elsewhere its time."""
UNCOUNTED = ("ticker", "funding_rate", "open_interest", "option_greeks", "volatility_index")
"""Types whose streams have no sequence."""
MAY_BE = ("history", "snapshot")
"""Kinds of what was asked for when it was needed: right if it is there."""
SLACK_NS = 20_000_000
"""By how much a time of receipt may be wrong: the clock that makes it is our own."""
LATEST_NS = 300_000_000_000
"""What is received so long after the market stopped was not."""


@dataclass(frozen=True)
class Shape:
    """Which columns of a type are compared, for rows of one source at one venue."""

    columns: tuple[str, ...]
    open_ended: tuple[tuple[str, str], ...]

    def of_row(self, row: dict[str, Any]) -> tuple[Any, ...]:
        """Give what is compared of a stored row."""
        return tuple([row[name] for name in self.columns])

    def of_said(self, said: Said) -> tuple[Any, ...]:
        """Give what is compared of what a venue said."""
        row = {"market_type": said.expected.contract.market_type, **said.row}
        return tuple([row.get(name) for name in self.columns])

    def holds(self, row: dict[str, Any]) -> bool:
        """Tell whether a row is right where the venue leaves it to us."""
        return all(rule != RECEIVED or row[name] == row["receive_timestamp"] for name, rule in self.open_ended)


def shape_of(data_type: str, said: Iterable[Said], ignored: Sequence[str] = ()) -> Shape:
    """Give the shape of what a venue says of a type: what it leaves open anywhere is compared nowhere."""
    open_ended: dict[str, str] = {}
    for one in said:
        for name, value in one.row.items():
            if isinstance(value, str) and value in OPEN_ENDED and open_ended.get(name) != ANY:
                open_ended[name] = value
    names = [field.name for field in fields_of(data_type)]
    left_out = {*OURS, *open_ended, *ignored}
    return Shape(
        tuple(name for name in names if name not in left_out),
        tuple((name, rule) for name, rule in open_ended.items() if name in names),
    )


def by_source(said: Iterable[Said]) -> dict[str, list[Said]]:
    """Sort what was said by where rows of it come from."""
    found: dict[str, list[Said]] = defaultdict(list)
    for one in said:
        found[one.expected.source].append(one)
    return found


class Comparison:
    """Compares the rows of one data type in one sink, place by place.

    Parameters
    ----------
    must_until : what was said later may be missing: it was still under way (ns)
    covered : tells whether a gap row accounts for something missing
    optional : ``id`` of what need not be there
    broken : venues whose connections broke: what a candle was meanwhile is in no gap row, only what it became is
    clock_is_right : False if times of receipt are not to be trusted, because a clock was stepped
    """

    def __init__(
        self,
        data_type: str,
        sink: Sink,
        findings: Findings,
        must_until: int,
        covered: Covered,
        optional: Collection[int] = (),
        *,
        clock_is_right: bool = True,
        broken: Collection[str] = (),
    ) -> None:
        self.data_type = data_type
        self.sink = sink
        self.findings = findings
        self.count = findings.types[data_type]
        self._until = must_until
        self._covered = covered
        self._optional = optional
        self._clock_is_right = clock_is_right
        self._broken = broken
        self._identity = IDENTITY.get(data_type, ("timestamp",))
        self._first: dict[int, int] = {}
        """``id`` of a state -> when it was said as it is for the first time."""
        self.found: set[int] = set()
        """``id`` of what was said and found as a row."""

    def compare(self, said: Sequence[Said], rows: Sequence[dict[str, Any]]) -> None:
        """Compare all rows of the type."""
        spoken: dict[Place, list[Said]] = defaultdict(list)
        for one in said:
            spoken[one.place].append(one)
        kept: dict[Place, list[dict[str, Any]]] = defaultdict(list)
        for row in rows:
            kept[row["exchange_name"], row["symbol_name"]].append(row)
        for place in sorted(spoken.keys() | kept.keys()):
            self._place(place, spoken.get(place, []), kept.get(place, []))

    def _place(self, place: Place, said: list[Said], rows: list[dict[str, Any]]) -> None:
        ignored = ("previous_update_id",) if self.data_type == "orderbook_delta" else ()
        known: dict[str, tuple[Shape, dict[tuple[Any, ...], Said]]] = {}
        twins: list[tuple[Said, dict[tuple[Any, ...], Said], tuple[Any, ...]]] = []
        for source, spoken in by_source(said).items():
            for_kind: dict[bool, list[Said]] = defaultdict(list)
            for one in spoken:
                for_kind[one.expected.kind == "snapshot"].append(one)
            for is_snapshot, group in for_kind.items():
                shape = shape_of(self.data_type, group, ignored)
                contents: dict[tuple[Any, ...], Said] = {}
                for one in group:
                    # What is said again as it was (a greeting repeats the last push) was said when it was said first.
                    content = shape.of_said(one)
                    first = contents.setdefault(content, one)
                    if first is not one:
                        twins += [(one, contents, content), (first, contents, content)]
                    if one.expected.kind == "state":
                        contents[content] = one
                        self._first[id(one)] = self._first.get(id(first), first.time)
                known[f"{source}/{is_snapshot}"] = shape, contents
        found: set[int] = set()
        strange: list[dict[str, Any]] = []
        seen: set[tuple[Any, ...]] = set()
        for row in rows:
            match = self._match(row, known)
            if match is None:
                strange.append(row)
                continue
            found.add(id(match))
            whole = tuple(
                row[name] for name in row if name not in ("receive_timestamp", "source", "digest", "revision")
            )
            if whole in seen:
                self._double(place, row)
            seen.add(whole)
            self._check_receipt(place, row, match)
        self.found |= found
        # Of what was said twice as it is, one was kept: both are there.
        self.found |= {id(one) for one, contents, content in twins if id(contents[content]) in found}
        missing = self._missing(found, known, rows)
        self._strange(place, strange, said)
        for one in missing:
            self._miss(place, one)

    def _match(self, row: dict[str, Any], known: dict[str, tuple[Shape, dict[tuple[Any, ...], Said]]]) -> Said | None:
        """Find what was said that a row repeats: by the same way, or asked for as poll or to fill a hole."""
        sources = {"stream": ("stream",), "poll": ("poll", "backfill"), "backfill": ("backfill", "poll")}
        for source in sources.get(row["source"], ()):
            for is_snapshot in (False, True):
                entry = known.get(f"{source}/{is_snapshot}")
                if entry is None:
                    continue
                shape, contents = entry
                one = contents.get(shape.of_row(row))
                if one is not None and shape.holds(row):
                    return one
        return None

    def _check_receipt(self, place: Place, row: dict[str, Any], said: Said) -> None:
        """Check that a row is received after it was said; ``timestamp`` may be ahead as far as clocks differ."""
        if not self._clock_is_right:
            return
        since = self._first.get(id(said), said.time)
        if row["receive_timestamp"] < since - SLACK_NS or row["receive_timestamp"] > self._until + LATEST_NS:
            self.count.altered += 1
            self.findings.problem(
                f"{self.data_type} received before it was said, or long after",
                f"{place[0]} {place[1]} in the {self.sink}: said {since}, {shortly(row)}",
            )

    def _missing(
        self,
        found: set[int],
        known: dict[str, tuple[Shape, dict[tuple[Any, ...], Said]]],
        rows: list[dict[str, Any]],
    ) -> list[Said]:
        """Give what had to be there and is not: events each, states the last of their identity."""
        contents = [one for _, spoken in known.values() for one in spoken.values()]
        musts = [
            one
            for one in contents
            if one.time <= self._until
            and one.expected.kind not in MAY_BE
            and id(one) not in self._optional
            and not self._is_beyond_knowing(one)
        ]
        if self.data_type == "trade":
            there = {row["trade_id"] for row in rows}
            absent = [one for one in musts if one.row["trade_id"] not in there]
            self.found |= {id(one) for one in musts if one.row["trade_id"] in there}
            return absent
        if self.data_type == "kline" and self.sink == "stream" and musts and musts[0].place[0] not in self._broken:
            # An update that changes nothing but its time need not come again.
            states = {_timeless(one) for one in contents if id(one) in found}
            return [one for one in musts if id(one) not in found and _timeless(one) not in states]
        # What history gave back is the same row, whoever brought it.
        returned = {self._key(one) for one in contents if id(one) in found and one.expected.source == "backfill"}
        there = found | {id(one) for one in musts if self._key(one) in returned and one.expected.kind == "event"}
        self.found |= there
        return self._stale(musts, contents, there)

    def _is_beyond_knowing(self, one: Said) -> bool:
        """Tell whether no client could know: one frame less in a stream that goes on and counts nothing.

        A candle's last word is missed by the candle that follows, and liquidations of trades by the trades' sequence.
        Of a candle that is not over the last word is yet to come, whoever heard what it was meanwhile.
        """
        if self.data_type == "kline" and not one.heard and one.row["close_time"] >= self._until:
            return True
        if one.eaten != "drop" or one.heard:
            return False
        if self.data_type == "kline":
            return self.sink == "stream"
        return self.data_type in UNCOUNTED or (
            self.data_type == "liquidation" and "-" not in str(one.row["liquidation_id"])
        )

    def _stale(self, musts: list[Said], contents: list[Said], there: set[int]) -> list[Said]:
        """Give the states whose last word is neither there nor followed by a later one; and missing events."""
        newest: dict[tuple[Any, ...], int] = {}
        for one in contents:
            if id(one) in there:
                key = self._key(one)
                newest[key] = max(newest.get(key, -1), one.order)
        last: dict[tuple[Any, ...], Said] = {}
        missing = []
        for one in musts:
            if one.expected.kind != "state":
                missing += [] if id(one) in there else [one]
            elif one.order >= last.get(self._key(one), one).order:
                last[self._key(one)] = one
        # A state that a later one of its key replaced is there no more, and not missing either.
        self.found |= {
            id(one) for one in contents if one.expected.kind == "state" and one.order <= newest.get(self._key(one), -1)
        }
        return missing + [one for key, one in last.items() if newest.get(key, -1) < one.order]

    def _key(self, said: Said) -> tuple[Any, ...]:
        return tuple(said.row.get(name) for name in self._identity)

    def _double(self, place: Place, row: dict[str, Any]) -> None:
        if self.sink == "store":
            self.count.doubled += 1
        else:
            self.count.stream_doubled += 1
        self.findings.problem(f"{self.data_type} twice in the {self.sink}", f"{place[0]} {place[1]}: {shortly(row)}")

    def _strange(self, place: Place, rows: list[dict[str, Any]], said: list[Said]) -> None:
        """Tell altered rows from invented ones."""
        near: dict[tuple[Any, ...], Said] = {}
        if rows:
            near = {self._key(one): one for one in said}
        for row in rows:
            one = near.get(tuple(row.get(name) for name in self._identity))
            if one is None:
                self.count.invented += 1
                self.findings.problem(
                    f"{self.data_type} in the {self.sink} that was never said", f"{place[0]} {place[1]}: {shortly(row)}"
                )
                continue
            self.count.altered += 1
            differing = [
                f"{name} is {row.get(name)}, was {value}"
                for name, value in {"market_type": one.expected.contract.market_type, **one.row}.items()
                if name in row and row[name] != value and value not in OPEN_ENDED and name not in ("bids", "asks")
            ]
            self.findings.problem(
                f"{self.data_type} altered in the {self.sink}",
                f"{place[0]} {place[1]} at {row['timestamp']}: {'; '.join(differing) or 'levels or source'}",
            )

    def _miss(self, place: Place, one: Said) -> None:
        status = self._covered(self.data_type, one)
        if status == "open":
            self.count.waiting += self.sink == "store"
            return
        if status == "unrepairable":
            self.count.lost += self.sink == "store"
            return
        if self.sink == "store":
            self.count.missing += 1
        else:
            self.count.stream_missing += 1
        how = one.eaten or "sent"
        self.findings.problem(
            f"{self.data_type} missing in the {self.sink}",
            f"{place[0]} {place[1]} ({how} at {one.time}): {shortly(one.row)}",
        )


def _timeless(one: Said) -> tuple[Any, ...]:
    return tuple(value for name, value in one.row.items() if name != "timestamp")
