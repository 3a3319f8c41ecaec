"""Is the data whole? What a reader finds in the store and on the stream, against what the simulated venues said.

Every field of every row of every type is compared with what the row must be (``derive/``), in both sinks; every book
and every change of one; every gap row with what is missing. What was said and is nowhere must lie in a gap row, and a
gap row must be about something that is missing.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

import pyarrow.compute as pc

from marketprism_ray.proof.books import begin_of, judge_chain, judge_published
from marketprism_ray.proof.compare import Comparison, Sink
from marketprism_ray.proof.derive import Expected
from marketprism_ray.proof.findings import Findings
from marketprism_ray.proof.gaps import Gaps, judge_gaps
from marketprism_ray.proof.reading import Published, Rows, published, stored
from marketprism_ray.proof.truth import Place, Said, Truth, truth_of
from marketprism_ray.query import Store
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.sinks.nats import NatsSettings

WHOLE, NOT_WHOLE, WHOLE_BUT_FOR_OPEN_GAPS = 0, 1, 3
UNDER_WAY_NS = 300_000_000
"""What is said so shortly after the market was paused was on its way before: bundles of trades, last changes."""
ATTEMPTS, AGAIN_S, PATIENCE_S = 4, 2.0, 30.0
"""How often it is looked again where something is missing, after how long, and until when."""
OPEN_S = 18.0
"""What a history did not have yet is asked for again after 2, 5 and 10 s."""


@dataclass
class Verdict:
    """What was found. ``missing`` and ``duplicated`` are about a reader of the store, over all types."""

    seconds: float = 0.0
    venues: int = 0
    frames: int = 0
    trades_emitted: int = 0
    trades_stored: int = 0
    trades_published: int = 0
    missing: int = 0
    """Rows that are nowhere and in no gap row."""
    missing_accounted: int = 0
    """Missing rows that open gap rows account for: they may still come."""
    lost_accounted: int = 0
    """Missing rows that the venue does not give back, and gap rows say so."""
    claimed_missing: int = 0
    """Trades that open gap rows say are missing."""
    duplicated: int = 0
    wrong: int = 0
    """Rows that say something else than the venue did."""
    invented: int = 0
    """Rows that say what the venue never said."""
    untrue_gaps: int = 0
    """Gap rows that claim too much or too little."""
    stream_missing: int = 0
    stream_duplicated: int = 0
    books_checked: int = 0
    books_equal: int = 0
    books_published: int = 0
    """Published books, each compared with the venue's own of the same update."""
    gaps_open: int = 0
    gaps_repaired: int = 0
    book_gaps: int = 0
    """Holes in chains of book changes, closed by a new snapshot; venues do not give the changes back."""
    gaps_injected: int = 0
    """Runs of frames of one stream that no listener got."""
    gaps_recorded: int = 0
    gaps_unrepairable: int = 0
    repair_s: dict[str, float | None] = field(default_factory=lambda: {"p50": None, "max": None})
    """From the first row that a hole lost to its `repaired`."""
    resent_batches: int = 0
    """Calls that collectors made again because a sink had not answered."""
    dropped_repeats: int = 0
    """Batches that sinks had already."""
    types: dict[str, dict[str, int]] = field(default_factory=dict)
    latency_ms: dict[str, float | None] = field(default_factory=lambda: {"p50": None, "p99": None})
    store_age_ms: dict[str, float | None] = field(default_factory=lambda: {"p50": None, "p99": None})
    """Age of the newest trade that a reader of the store finds."""
    collector_mib: int | None = None
    """Resident memory of the largest collector."""
    faults: list[str] = field(default_factory=list)
    """What went wrong on purpose, in words."""
    undone: int = 0
    """Faults that were planned and could not be injected: nothing is proven then."""
    injected: list[dict[str, Any]] = field(default_factory=list)
    """The same for machines: kind, target, from and to (UTC ns), recovered_s, failed."""
    recovery_s: dict[str, float | None] = field(default_factory=lambda: {"p50": None, "max": None})
    """From the end of a fault until collectors and books were live and nothing waited for a sink."""
    problems: list[str] = field(default_factory=list)

    def count_repeats(self, status: Mapping[str, Any]) -> None:
        """Take from a system's status how often calls were repeated, and how many batches sinks knew already."""
        lanes = [lane for collector in status["collectors"] for lane in collector.get("lanes", {}).values()]
        self.resent_batches = sum(lane["retries"] for lane in lanes)
        self.dropped_repeats = sum(sink.get("repeats", 0) for sink in status["sinks"])

    @property
    def exit_code(self) -> int:
        """0: nothing that a venue gives back is missing. 3: but for open gaps. 1: anything else."""
        broken = (
            self.missing
            or self.stream_missing
            or self.duplicated
            or self.stream_duplicated
            or self.wrong
            or self.invented
            or self.untrue_gaps
            or self.books_checked != self.books_equal
            or self.undone
            or not self.trades_emitted
            or any(problem.startswith("drill:") for problem in self.problems)  # what was to be proved was not
        )
        if broken:
            return NOT_WHOLE
        return WHOLE_BUT_FOR_OPEN_GAPS if self.gaps_open or self.missing_accounted else WHOLE

    @property
    def is_clean(self) -> bool:
        """True if nothing that a venue gives back is missing, and nothing is doubled, altered or invented."""
        return self.exit_code == WHOLE

    def as_json(self) -> dict[str, Any]:
        """Give plain values."""
        return {**asdict(self), "ok": self.is_clean, "exit_code": self.exit_code}

    def in_words(self) -> list[str]:
        """Say it in sentences."""
        rows = sum(count["emitted"] for count in self.types.values())
        words = [
            f"{self.trades_emitted:,} trades were emitted by {self.venues} venues in {self.seconds:.0f} s; "
            f"{self.trades_stored:,} are in the store, {self.trades_published:,} on the stream.",
            f"All {len(self.types)} data types, {rows:,} rows, every field: silently missing {self.missing}, "
            f"doubled {self.duplicated}, altered {self.wrong}, invented {self.invented}. "
            f"On the stream: missing {self.stream_missing}, doubled {self.stream_duplicated}.",
            f"{self.books_equal} of {self.books_checked} books equal the venue's own, rebuilt from stored changes "
            f"and as published, {self.books_published:,} times.",
            f"Gaps: {self.gaps_repaired} repaired, {self.gaps_unrepairable} that venues do not give back, "
            f"{self.gaps_open} open"
            + (f", accounting for {self.missing_accounted:,} missing rows" if self.missing_accounted else "")
            + (f"; {self.untrue_gaps} untrue." if self.untrue_gaps else "."),
        ]
        if self.faults:
            words.insert(0, f"Injected: {', '.join(self.faults)}.")
        if self.recovery_s["max"] is not None:
            words.append(f"Well again after {self.recovery_s['p50']} s (median), {self.recovery_s['max']} s at most.")
        words += [f"Problem: {problem}" for problem in self.problems[:20]]
        words.append(self._last_word())
        return words

    def _last_word(self) -> str:
        if self.exit_code == NOT_WHOLE:
            return "The data is NOT whole."
        if self.exit_code == WHOLE_BUT_FOR_OPEN_GAPS:
            return f"Whole but for {self.gaps_open} open gaps ({self.missing_accounted:,} rows)."
        if self.lost_accounted:
            lost = ", ".join(f"{count['lost']:,} {name}" for name, count in self.types.items() if count["lost"])
            return (
                f"Everything that venues give back is there. {lost} rows were pushed while nobody could listen; "
                "venues do not give them back, and gap rows say so."
            )
        return "The data is whole."


def wait_for_quiet(simulator: SimulatorProcess, store: Store, *, settle_s: float = 2.0, limit_s: float = 60.0) -> None:
    """Wait until every trade that was said is in the store, or nothing has changed for long.

    A gap that is open is asked for again soon: that is waited for, but no longer than ``OPEN_S`` without a change.
    """
    frames = simulator.truth("frames")
    frames = frames.filter(pc.match_substring(frames["key"], "trade", ignore_case=True)).to_pylist()
    wanted: dict[Place, set[str]] = defaultdict(set)
    for one in truth_of(frames, simulator.truth("answers").to_pylist()).said["trade"]:
        if one.expected.source == "stream":
            wanted[one.place].add(one.row["trade_id"])
    deadline = time.monotonic() + limit_s
    last_change, previous = time.monotonic(), None
    while time.monotonic() < deadline:
        table = store.query(
            "SELECT exchange_name, symbol_name, toInt64(uniqExact(trade_id)) AS n FROM trade GROUP BY 1, 2 "
            "UNION ALL SELECT 'gap', status, toInt64(count()) FROM gap GROUP BY 2 "
            "UNION ALL SELECT 'open', '', toInt64(count()) FROM gap FINAL WHERE status = 'open' "
            "UNION ALL SELECT 'book', '', toInt64(count()) FROM orderbook "
            "UNION ALL SELECT 'delta', '', toInt64(count()) FROM orderbook_delta"
        ).to_pylist()
        found = {(row["exchange_name"], row["symbol_name"]): row["n"] for row in table}
        if found != previous:
            last_change, previous = time.monotonic(), found
        whole = all(found.get(place, 0) >= len(ids) for place, ids in wanted.items())
        quiet = time.monotonic() - last_change
        # Of an open gap more may be known soon: a book is compared once more.
        settled = 2 * settle_s if found.get(("gap", "open")) else settle_s
        if found.get(("open", "")):
            settled = OPEN_S
        if (whole and quiet > settled) or quiet > max(settled, 5 * settle_s):
            return
        time.sleep(0.1)


def judge(simulator: SimulatorProcess, store: Store, nats: NatsSettings, verdict: Verdict) -> Verdict:
    """Compare store and stream with the ledger; the market must be paused.

    Venues go on saying what they say by the clock. What was said until the pause must be there; what is under way a
    little longer is waited for.
    """
    until = _paused_at(simulator) + UNDER_WAY_NS
    begin = time.monotonic()
    for attempt in range(ATTEMPTS):
        rows, messages = stored(store), published(nats)
        # Read after the sinks: what they have was said before.
        with _without_collection():
            truth = truth_of(simulator.truth("frames").to_pylist(), simulator.truth("answers").to_pylist())
        with _without_collection():
            findings, recoveries, books = judge_rows(truth, rows, messages, until)
        whole = not (findings.total("missing") or findings.total("stream_missing"))
        if whole or attempt + 1 == ATTEMPTS or time.monotonic() - begin > PATIENCE_S:
            break
        time.sleep(AGAIN_S)
    return concluded(verdict, truth, rows, messages, findings, recoveries, books)


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """Leave garbage where it is: looking for it among millions of rows takes longer than comparing them."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _paused_at(simulator: SimulatorProcess) -> int:
    paused = [event["time"] for event in simulator.happenings() if event["kind"] == "paused"]
    return paused[-1] if paused else time.time_ns()


def judge_rows(
    truth: Truth, rows: Rows, messages: Published, until: int
) -> tuple[Findings, list[float], dict[Place, bool]]:
    """Compare. Pure.

    Parameters
    ----------
    until : what was said later may be missing (ns)

    Returns
    -------
    tuple
        What was found, how long repairs took (s), and of each book whether all that was published of it is right.
    """
    findings = Findings()
    _describe(truth)
    gaps = Gaps(rows.get("gap", []))
    findings.stopped = gaps.after
    found: set[int] = set()
    sinks: tuple[tuple[Sink, Rows], ...] = (("store", rows), ("stream", messages.rows))
    said = truth.said
    broken = {row["exchange_name"] for row in rows.get("gap", [])}
    right = not any(row["data_type"] == "clock" for row in rows.get("gap", []))
    contained = _contained(said.get("orderbook_delta", []), rows.get("orderbook_delta", []))
    _judge_instruments(rows, findings)
    for data_type in sorted({*said, *rows, *messages.rows} - {"orderbook", "gap"}):
        spoken = said.get(data_type, [])
        count = findings.types[data_type]
        count.emitted = _number(spoken)
        count.stored, count.published = len(rows.get(data_type, [])), len(messages.rows.get(data_type, []))
        for sink, kept in sinks:
            comparison = Comparison(
                *(data_type, sink, findings, until, gaps.covered, contained), clock_is_right=right, broken=broken
            )
            comparison.compare(spoken, kept.get(data_type, []))
            if sink == "store":
                found |= comparison.found
    books = _judge_books(truth, sinks, findings)
    recoveries = judge_gaps(gaps, said, found, until, findings)
    _judge_messages(messages, rows, until, findings)
    return findings, recoveries, books


def _describe(truth: Truth) -> None:
    """Let instruments be something that was said."""
    if "instrument" in truth.said:
        return
    for described in truth.described.values():
        for contract in described:
            expected = Expected("instrument", contract, "poll", contract.row(), "history")
            truth.said["instrument"].append(Said(expected, 0, -1, 1))


def _judge_instruments(rows: Rows, findings: Findings) -> None:
    """Check that every instrument that rows are about is described."""
    described = {(row["exchange_name"], row["symbol_name"]) for row in rows.get("instrument", [])}
    traded = {(row["exchange_name"], row["symbol_name"]) for row in rows.get("trade", [])}
    for place in sorted(traded - described):
        findings.types["instrument"].missing += 1
        findings.problem("instrument missing in the store", " ".join(place))


def _number(said: Sequence[Said]) -> int:
    """Count the distinct rows that must be."""
    return len(
        {
            (one.place, one.row["trade_id"] if one.expected.data_type == "trade" else id(one))
            for one in said
            if one.expected.kind in ("event", "state", "delta")
        }
    )


def _contained(said: Sequence[Said], rows: Sequence[dict[str, Any]]) -> set[int]:
    """Give ``id`` of the changes that the first stored snapshot of their book contains: they need not be there."""
    begin = begin_of(rows)
    return {
        id(one)
        for one in said
        if one.expected.kind == "delta"
        and one.place in begin
        and one.row["last_update_id"] <= begin[one.place]["last_update_id"]
    }


def _judge_books(truth: Truth, sinks: Sequence[tuple[Sink, Rows]], findings: Findings) -> dict[Place, bool]:
    """Compare all published books and all chains; gives which books are right in both sinks."""
    spoken: dict[Place, list[Said]] = defaultdict(list)
    for one in truth.said.get("orderbook_delta", []):
        spoken[one.place].append(one)
    books = {sink: _by_place(kept.get("orderbook", [])) for sink, kept in sinks}
    deltas = {sink: _by_place(kept.get("orderbook_delta", [])) for sink, kept in sinks}
    right: dict[Place, bool] = {}
    for place in sorted({*spoken, *(place for kept in books.values() for place in kept)}):
        said = spoken.get(place, [])
        before = findings.total("altered") + findings.total("invented")
        equal = judge_published(said, {sink: kept.get(place, []) for sink, kept in books.items()}, findings)
        for sink, kept in deltas.items():
            judge_chain(said, kept.get(place, []), sink, findings)
        right[place] = findings.total("altered") + findings.total("invented") == before and all(equal.values())
    count = findings.types["orderbook"]
    count.stored, count.published = (len(kept.get("orderbook", [])) for _, kept in sinks)
    return right


def _by_place(rows: Sequence[dict[str, Any]]) -> dict[Place, list[dict[str, Any]]]:
    found: dict[Place, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        found[row["exchange_name"], row["symbol_name"]].append(row)
    return found


def _judge_messages(messages: Published, rows: Rows, until: int, findings: Findings) -> None:
    """Look at what is wrong with messages themselves, and whether both sinks say the same of gaps and books.

    Rows that are written after the market has stopped may come between the readings of the two.
    """
    for kind, found, column in (
        ("message id twice on the stream", messages.repeated, "stream_doubled"),
        ("message that is no row", messages.bad, "altered"),
        ("message under a subject that is not its own", messages.misfiled, "altered"),
    ):
        for text in found:
            count = findings.types["trade" if column == "stream_doubled" else "orderbook"]
            setattr(count, column, getattr(count, column) + 1)
            findings.problem(kind, text)
    later = {_gap_key(row) for row in messages.rows.get("gap", []) if row["receive_timestamp"] > until}
    stream = _newest(messages.rows.get("gap", []))
    for key, row in _newest(rows.get("gap", [])).items():
        if key in later or row["receive_timestamp"] > until:
            continue
        if key not in stream or stream[key] != row:
            findings.untrue_gaps += 1
            other = stream.get(key, {})
            differing = [
                f"{name} is {row[name]}, on the stream {other.get(name)}"
                for name in row
                if row[name] != other.get(name)
            ]
            findings.problem("gap row differs between the sinks", f"{key}: {'; '.join(differing)}")


def _gap_key(row: dict[str, Any]) -> tuple[Any, ...]:
    place = (row["exchange_name"], row["symbol_name"], row["data_type"], row["channel"])
    return (*place, row["opened_at"], row["first_missing"])


def _newest(gaps: Sequence[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Give the row of each hole with the largest revision."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in gaps:
        key = _gap_key(row)
        if key not in found or row["revision"] >= found[key]["revision"]:
            found[key] = row
    return found


def concluded(
    verdict: Verdict,
    truth: Truth,
    rows: Rows,
    messages: Published,
    findings: Findings,
    recoveries: Sequence[float],
    books: Mapping[Place, bool],
) -> Verdict:
    """Write what was found into a verdict."""
    trades = findings.types["trade"]
    verdict.venues = len({one.place[0] for said in truth.said.values() for one in said})
    verdict.trades_emitted, verdict.trades_stored = trades.emitted, trades.stored
    verdict.trades_published = trades.published
    verdict.missing, verdict.stream_missing = findings.total("missing"), findings.total("stream_missing")
    verdict.missing_accounted, verdict.lost_accounted = findings.total("waiting"), findings.total("lost")
    verdict.duplicated, verdict.stream_duplicated = findings.total("doubled"), findings.total("stream_doubled")
    verdict.wrong, verdict.invented = findings.total("altered"), findings.total("invented")
    verdict.untrue_gaps = findings.untrue_gaps
    verdict.problems += findings.problems
    verdict.books_checked, verdict.books_equal = len(books), sum(books.values())
    verdict.books_published = findings.types["orderbook"].published
    gaps = [row for row in rows.get("gap", []) if row["data_type"] != "clock" and row not in findings.stopped]
    verdict.gaps_recorded, verdict.gaps_injected = len(gaps), truth.injected
    verdict.gaps_open = sum(row["status"] == "open" for row in gaps)
    verdict.gaps_repaired = sum(row["status"] == "repaired" for row in gaps)
    verdict.gaps_unrepairable = sum(row["status"] == "unrepairable" for row in gaps)
    verdict.book_gaps = sum(row["status"] == "unrepairable" and row["data_type"] == "orderbook_delta" for row in gaps)
    verdict.claimed_missing = sum(
        (row["missing_count"] or 0) - row["repaired_count"]
        for row in gaps
        if row["status"] == "open" and row["data_type"] == "trade"
    )
    if recoveries:
        verdict.repair_s = {"p50": round(median(recoveries), 2), "max": round(max(recoveries), 2)}
    verdict.types = {name: asdict(count) for name, count in sorted(findings.types.items())}
    return verdict
