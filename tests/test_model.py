"""Collecting as a state machine: random losses, crashes and late acknowledgements, over the real pure pieces.

A venue numbers trades. A collector (the real `TradeStream`, `Batcher`) is pushed some of them, twice or in the wrong
order, closes batches and hands them to two sinks; each batch is written by each sink whenever it likes, and its
acknowledgement is lost or late. Collector, sinks, or everything dies; a successor goes on from what the sinks say
(`resume_plan`), with the gap rows that the first sink has. After every step: whatever was emitted and is not in a sink
lies in an open gap row of it, and no row says ``repaired`` of what is not there.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from conftest import instrument
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from marketprism_ray.batching import Batch, Batcher, revision
from marketprism_ray.extents import Claim, Extents
from marketprism_ray.feed import Feed, FeedSettings, FetchTrades
from marketprism_ray.resume import OpenGap, Stored, newest_rows, resume_plan
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venues import VENUES

SPOT = VENUES["binance_spot"]
assert SPOT.trade_history is not None
PAGE = 3
VENUE = dataclasses.replace(SPOT, trade_history=dataclasses.replace(SPOT.trade_history, page=PAGE))
SECOND = 1_000_000_000
T0 = 1_795_132_800 * SECOND
MS = 1_795_132_800_000
FIRST = 100
KEY = "binance_spot/trade/BTC-USDT"
Place = tuple[int, int]


def frame(n: int) -> bytes:
    data = {"e": "trade", "s": "BTCUSDT", "t": n, "p": "1", "q": "1", "T": MS + n, "m": True}
    return json.dumps({"stream": "btcusdt@trade", "data": data}, separators=(",", ":")).encode()


def at(n: int) -> int:
    return (MS + n) * 1_000_000


class FakeSink:
    """A store: rows by sequence, gap rows by key; and the actor before it, which remembers claims."""

    def __init__(self) -> None:
        self.rows: set[int] = set()
        self.times = 0
        """Rows written again although they were there: a stream would have them twice."""
        self.gaps: dict[Place, dict[str, Any]] = {}
        self.known: Stored | None = None
        """What the actor knows; None after it died, until it has asked."""

    def write(self, batch: Batch) -> None:
        claim = batch.claims.get(KEY)
        if batch.data_type == "trade":
            self.rows.update(batch.data.column("sequence").to_pylist())
        elif batch.data_type == "gap":
            for row in batch.data.to_pylist():
                self.note(row["opened_at"].value, row)
        if claim is not None:
            assert self.known is not None
            self.known = self.known.merged(claim)

    def note(self, opened_at: int, row: dict[str, Any]) -> None:
        if row["first_missing"] is None:
            return  # a time before the first trade: what was missed of it has rows of its own
        key = (opened_at, row["first_missing"])
        if key not in self.gaps or row["revision"] > self.gaps[key]["revision"]:
            self.gaps[key] = row

    def stored(self) -> Stored:
        """Ask the store row by row, as an actor does that was restarted."""
        if self.known is None:
            self.known = Stored(Claim(Extents((n, n, at(n), at(n)) for n in self.rows).runs()))
        return self.known

    def open_gaps(self) -> list[OpenGap]:
        return [
            OpenGap(
                opened_at,
                None if row["closed_at"] is None else row["closed_at"].value,
                first,
                row["last_missing"],
                row["reason"],
                row["revision"],
            )
            for (opened_at, first), row in self.gaps.items()
            if row["status"] == "open"
        ]


class Collecting(RuleBasedStateMachine):
    """See the module."""

    @initialize()
    def begin(self) -> None:
        self.emitted = FIRST - 1
        self.gone: set[int] = set()
        self.sinks = (FakeSink(), FakeSink())
        self.epoch = 0
        self.now = T0
        self.start(after_loss=False)

    # --- the collector ---

    def start(self, *, after_loss: bool) -> None:
        self.epoch += 1
        self.now += SECOND
        gaps, lacking = newest_rows([sink.open_gaps() for sink in self.sinks])
        plan = resume_plan([sink.stored() for sink in self.sinks], gaps, after_loss=after_loss)
        self.batcher = Batcher("c", self.epoch, confirmed=True)
        self.stream = TradeStream(VENUE, VENUE.channel("trade"), instrument(), self.batcher)
        self.pending: list[tuple[Batch, list[bool]]] = []
        self.asked: list[FetchTrades] = []
        self.batched: set[int] = set()
        if plan is None:
            # Nothing has been stored yet: the stream begins here.
            self.began = self.emitted + 1
        else:
            resume, new = plan
            for gap in [*new, *lacking]:
                for sink in self.sinks:
                    fields = {"closed_at": None, "last_missing": gap.last, "status": "open", "reason": gap.reason}
                    sink.note(
                        gap.opened_at, {**fields, "first_missing": gap.first, "revision": revision(self.epoch, 0)}
                    )
            self.stream.resume(resume)
            self.check_everything_is_accounted_for()
        self.connect()

    def check_everything_is_accounted_for(self) -> None:
        """At the moment of taking over: what was emitted and is not in a sink lies in an open row of it."""
        for sink in self.sinks:
            lost = set(range(self.heard(), self.emitted + 1)) - sink.rows
            assert lost <= self.accounted(sink), f"{sorted(lost - self.accounted(sink))} are silently missing"

    def connect(self) -> None:
        self.feed = Feed(VENUE, "public", [self.stream], FeedSettings(probe_after_s=5))
        self.feed.opened(self.now)
        self.feed.frame(b'{"result":null,"id":1}', self.now)
        self.act()

    def act(self) -> None:
        self.asked += [action for action in self.feed.actions if isinstance(action, FetchTrades)]
        self.feed.actions.clear()

    @rule(lost=st.sets(st.integers(0, 5)), again=st.booleans(), swap=st.booleans(), count=st.integers(1, 6))
    def push(self, lost: set[int], again: bool, swap: bool, count: int) -> None:
        """The venue emits trades; some frames are lost, come twice or in the wrong order."""
        emitted = list(range(self.emitted + 1, self.emitted + 1 + count))
        self.emitted += count
        arriving = [n for i, n in enumerate(emitted) if i not in lost]
        if swap:
            arriving.reverse()
        for n in arriving * (2 if again else 1):
            self.feed.frame(frame(n), self.now)
        self.act()

    @rule(count=st.integers(1, 12))
    def emit_unheard(self, count: int) -> None:
        """The venue emits trades while the socket is cut."""
        self.feed.closed("disconnected", self.now)
        self.emitted += count
        self.asked.clear()
        self.connect()

    @rule(seconds=st.sampled_from([1, 6, 400]))
    def wait(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.feed._last_frame = self.now
        self.feed.tick(self.now)
        self.act()

    @precondition(lambda self: bool(self.asked))
    @rule(how=st.sampled_from(["whole", "whole", "short", "late", "repeats", "fails", "nonsense"]))
    def answer(self, how: str) -> None:
        """The history answers, with as much as it likes."""
        fetch = self.asked.pop(0)
        first, limit = int(fetch.request.params["fromId"]), int(fetch.request.params["limit"])
        there = list(range(max(first, FIRST), min(self.emitted, first + limit - 1) + 1))
        if how == "short":
            there = there[: max(1, len(there) // 2)]
        elif how == "late":
            there = there[:0]
        elif how == "repeats":
            there = [n for n in there for _ in range(2)] + list(range(max(FIRST, first - 3), first))
        if how == "fails":
            self.feed.trades_failed(self.stream, "timeout", self.now)
        else:
            rows = [{"id": n, "price": "1", "qty": "1", "time": MS + n, "isBuyerMaker": False} for n in there]
            body = b"<html>" if how == "nonsense" else json.dumps(rows).encode()
            self.feed.trades(self.stream, body, self.now)
        self.act()

    # --- batches ---

    def close_batches(self) -> None:
        for batch in self.batcher.drain(self.now, force=True):
            self.pending.append((batch, [False, False]))
            if batch.data_type == "trade":
                rows = batch.data.column("sequence").to_pylist()
                assert len(set(rows)) == len(rows), "no trade twice"
                assert not self.batched & set(rows), "no trade twice"
                self.batched.update(rows)

    def next_of(self, which: int, data_type: str) -> list[tuple[Batch, list[bool]]]:
        """Give what a sink has not written of a data type: each has its queue, and keeps its order."""
        return [entry for entry in self.pending if not entry[1][which] and entry[0].data_type == data_type]

    @rule(where=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["trade", "trade", "gap"])), max_size=6))
    def write(self, where: list[tuple[int, str]]) -> None:
        """Batches are closed, and sinks write some of what they have been given."""
        self.close_batches()
        for which, data_type in where:
            for batch, written in self.next_of(which, data_type)[:1]:
                self.open_actor(which)
                self.sinks[which].write(batch)
                written[which] = True
        self.acknowledge()

    @rule(which=st.integers(0, 1), data_type=st.sampled_from(["trade", "gap"]))
    def write_and_lose_the_answer(self, which: int, data_type: str) -> None:
        """A sink writes and dies before it answers: its successor gets the same again."""
        self.close_batches()
        for batch, _ in self.next_of(which, data_type)[:1]:
            self.open_actor(which)
            self.sinks[which].write(batch)
        self.sinks[which].known = None

    def open_actor(self, which: int) -> None:
        self.sinks[which].stored()

    def acknowledge(self) -> None:
        for entry in list(self.pending):
            if all(entry[1]):
                self.pending.remove(entry)
                self.batcher.delivered(entry[0].claims, self.now)
        self.act()

    # --- deaths ---

    @rule(unheard=st.integers(0, 12))
    def collector_dies(self, unheard: int) -> None:
        self.emitted += unheard
        self.start(after_loss=True)

    @rule(which=st.integers(0, 1))
    def sink_dies(self, which: int) -> None:
        self.sinks[which].known = None

    @rule(unheard=st.integers(0, 12))
    def everything_dies(self, unheard: int) -> None:
        for sink in self.sinks:
            sink.known = None
        self.collector_dies(unheard)

    # --- what must hold ---

    def heard(self) -> int:
        """Give the first trade that any sink has."""
        return min((n for sink in self.sinks for n in sink.rows if n >= self.began), default=self.emitted + 1)

    def accounted(self, sink: FakeSink) -> set[int]:
        """Give what open rows of a sink say is missing."""
        found: set[int] = set()
        for (_, first), row in sink.gaps.items():
            if row["status"] == "open":
                last = self.emitted if row["last_missing"] is None else row["last_missing"]
                found.update(range(first, last + 1))
        return found

    @invariant()
    def nothing_says_repaired_of_what_is_not_there(self) -> None:
        for sink in self.sinks:
            for (_, first), row in sink.gaps.items():
                if row["status"] == "repaired":
                    assert set(range(first, row["last_missing"] + 1)) <= sink.rows
                assert row["status"] != "unrepairable"

    @invariant()
    def no_claim_is_more_than_what_is_stored(self) -> None:
        for sink in self.sinks:
            for run in () if sink.known is None else sink.known.claim.runs:
                assert set(range(run.low, run.high + 1)) <= sink.rows

    @invariant()
    def nothing_is_stored_that_was_not_emitted(self) -> None:
        for sink in self.sinks:
            assert all(FIRST <= n <= self.emitted for n in sink.rows)

    def settle(self) -> None:
        """Let everything that is on its way arrive: no more faults."""
        for _ in range(400):
            self.close_batches()
            for which in (0, 1):
                self.open_actor(which)
                for batch, written in self.pending:
                    if not written[which]:
                        self.sinks[which].write(batch)
                        written[which] = True
            self.acknowledge()
            while self.asked:
                self.answer("whole")
            if not self.stream.gaps and not self.pending and not self.batcher.pending_rows:
                return
            self.wait(400)
        raise AssertionError(f"holes are left: {self.stream.gaps}")

    def teardown(self) -> None:
        """At the end, with a last trade that arrives, everything is stored and every row is closed."""
        if not hasattr(self, "stream"):
            return
        self.push(set(), False, False, 1)
        self.settle()
        for sink in self.sinks:
            assert {n for n in sink.rows if n >= self.began} == set(range(self.heard(), self.emitted + 1))
            assert [k for k, row in sink.gaps.items() if row["status"] == "open" and k[1] >= self.began] == []


Collecting.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestCollecting = Collecting.TestCase
