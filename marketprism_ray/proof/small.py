"""A small world in one process: the simulated venues, a session of each, and both sinks as lists.

What lies between a session and its sinks (acknowledgement, marks, fences) is not here: that is proved with the whole
system. Everything before is, so that a defect there can be tried in seconds: ``python -m marketprism_ray.proof.small``.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from marketprism_ray.config import validate
from marketprism_ray.encoding import json_rows, message_ids, subjects
from marketprism_ray.logs import configure
from marketprism_ray.proof.reading import Rows, plain_rows, understood
from marketprism_ray.proof.truth import truth_of
from marketprism_ray.proof.verdict import UNDER_WAY_NS, WHOLE, Verdict, concluded, judge_rows
from marketprism_ray.records import RECORDS
from marketprism_ray.schemas import sorting_key
from marketprism_ray.session import Session, Shard
from marketprism_ray.simulator.server import Simulator
from marketprism_ray.simulator.wire import Fault
from marketprism_ray.venues import VENUES

DRAIN_S = 0.1
SETTLE_S, ATTEMPTS = 2.0, 5
"""After the market has stopped: how long until it is looked, and how often while something is missing."""


class ListStore:
    """Both sinks as lists, with the rules of their servers: the last version of a key, the first message of an id."""

    def __init__(self) -> None:
        self._rows: dict[str, dict[tuple[Any, ...], dict[str, Any]]] = {}
        self._messages: dict[str, tuple[str, str, bytes]] = {}

    def take(self, batch: pa.RecordBatch, data_type: str) -> None:
        """Keep a batch in both."""
        key, version = sorting_key(data_type), RECORDS[data_type].version
        kept = self._rows.setdefault(data_type, {})
        for row in plain_rows(pa.Table.from_batches([batch])):
            asked = RECORDS[data_type].asked_is_updated and row["source"] != "stream"
            identity = tuple(0 if asked and name == "digest" else row[name] for name in key)
            if identity not in kept or not version or row[version] >= kept[identity][version]:
                kept[identity] = row
        columns = (subjects(batch), message_ids(batch), json_rows(batch))
        for subject, message_id, text in zip(*(column.to_pylist() for column in columns), strict=True):
            self._messages.setdefault(message_id, (subject, message_id, text.encode()))

    @property
    def rows(self) -> Rows:
        """What a reader of the store finds."""
        return {data_type: list(kept.values()) for data_type, kept in self._rows.items()}

    @property
    def messages(self) -> Sequence[tuple[str, str, bytes]]:
        """What the stream holds."""
        return list(self._messages.values())


def _sessions(simulator: Simulator) -> dict[str, Session]:
    exchanges: dict[str, Any] = {
        venue: {
            "symbols": ["*"],
            "data_types": list(VENUES[venue].data_types),
            "endpoints": urls,
            "orderbook": {"interval_s": 0.5},
        }
        for venue, urls in simulator.endpoints().items()
    }
    quick = {"backoff_min_s": 0.05, "backoff_max_s": 0.2}
    config = validate({"exchanges": exchanges, "networking": quick}, "small")
    sessions = {}
    for venue in exchanges:
        symbols = [symbol.listing.symbol for symbol in simulator.market.of_venue(venue)]
        streams = tuple((data_type, symbol) for data_type in VENUES[venue].data_types for symbol in symbols)
        sessions[venue] = Session(Shard(venue, venue, streams), config, collector=venue, epoch=1)
    return sessions


async def _disturb(simulator: Simulator, seconds: float) -> None:
    """Let go wrong what one process can bear: each kind of loss once, at fixed parts of the run.

    The sockets are cut early: whether a quiet stream lost something is asked 5 s later.
    """
    plan = [
        (0.1, None),
        (0.15, Fault("reorder", "okx_spot", stream="trades-all", count=1)),
        (0.2, Fault("drop", "binance_spot", stream="@trade", count=3)),
        (0.25, Fault("drop", "binance_derivatives", stream="@aggTrade", count=2)),
        (0.3, Fault("drop", "binance_spot", stream="@depth", count=2)),
        (0.35, Fault("drop", "binance_derivatives", stream="@depth", count=2)),
        (0.4, Fault("drop", "okx_spot", stream='"books"', count=2)),
        (0.45, Fault("drop", "deribit_derivatives", stream="book.", count=2)),
        (0.5, Fault("repeat", "okx_derivatives", stream="trades-all", count=3)),
        (0.52, Fault("repeat", "binance_spot", stream="@depth", count=3)),
        (0.55, Fault("drop", "deribit_derivatives", stream="trades.BTC-PERPETUAL.100ms", count=1)),
    ]
    begin = time.monotonic()
    for part, fault in plan:
        await asyncio.sleep(max(0.0, begin + part * seconds - time.monotonic()))
        if fault is None:
            simulator.wire.disconnect("okx_derivatives")
            simulator.wire.truth.happened("fault", "okx_derivatives", fault={"kind": "disconnect"})
        else:
            simulator.wire.faults.append(fault)
            simulator.wire.truth.happened("fault", fault.venue, fault={"kind": fault.kind, "stream": fault.stream})


async def run_small(seconds: float, *, rate: float = 300.0, seed: int = 1, disturbed: bool = True) -> Verdict:
    """Run the small world and judge it."""
    simulator = Simulator(rate=rate, seed=seed)
    await simulator.start()
    kept = ListStore()
    sessions = _sessions(simulator)
    loop = asyncio.get_running_loop()
    drains = loop.create_task(_drain(sessions, kept))
    disturbing = loop.create_task(asyncio.sleep(0))
    try:
        await asyncio.gather(*(session.start() for session in sessions.values()))
        if disturbed:
            disturbing = loop.create_task(_disturb(simulator, seconds))
        await asyncio.sleep(seconds)
        simulator.paused = True
        simulator.wire.truth.happened("paused")
        until = time.time_ns() + UNDER_WAY_NS
        verdict = Verdict(seconds=seconds)
        for _ in range(ATTEMPTS):
            await asyncio.sleep(SETTLE_S)
            verdict = _judged(simulator, kept, seconds, until)
            if verdict.exit_code == WHOLE:
                break
    finally:
        disturbing.cancel()
        drains.cancel()
        stopping = [session.stop() for session in sessions.values()]
        await asyncio.gather(drains, disturbing, *stopping, return_exceptions=True)
        await simulator.stop()
    return verdict


def _judged(simulator: Simulator, kept: ListStore, seconds: float, until: int) -> Verdict:
    """Judge what there is so far."""
    frames, answers = simulator.wire.truth.frames.table(), simulator.wire.truth.answers.table()
    truth, messages = truth_of(frames.to_pylist(), answers.to_pylist()), understood(kept.messages)
    findings, recoveries, books = judge_rows(truth, kept.rows, messages, until)
    return concluded(Verdict(seconds=seconds), truth, kept.rows, messages, findings, recoveries, books)


async def _drain(sessions: Mapping[str, Session], kept: ListStore) -> None:
    while True:
        for session in sessions.values():
            _take(session, kept)
        await asyncio.sleep(DRAIN_S)


def _take(session: Session, kept: ListStore) -> None:
    for batch in session.drain():
        kept.take(batch.data, batch.data_type)


def main() -> int:
    """Run it, disturbed; print the verdict in words."""
    configure("critical")
    verdict = asyncio.run(run_small(8.0))
    for words in verdict.in_words():
        print(words)
    return verdict.exit_code


if __name__ == "__main__":
    sys.exit(main())
