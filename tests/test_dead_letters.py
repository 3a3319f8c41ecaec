"""Rows that a server refuses for good: a file, an open gap row through both sinks, and delivery again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from test_encoding import trade
from test_keys import QUOTE, candle
from test_streams import SNAPSHOT, T0, Bench, depth

from actors.dead_letters import Ask, note_dead_letters, redeliver
from actors.sinks import SinkActor
from marketprism_ray.dead_letters import DeadLetters, gap_of, mended
from marketprism_ray.errors import BadBatch, SchemaRefused
from marketprism_ray.records import Gap, Ticker
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.sinks.memory import MemorySink


class Strict(MemorySink):
    """Refuses some trades for good, and tables that do not fit."""

    def __init__(self, *refused: int) -> None:
        super().__init__()
        self.refused = set(refused)
        self.misfits = 0

    async def open(self) -> None:
        if self.misfits:
            self.misfits -= 1
            raise SchemaRefused("table trade does not fit")

    async def write(self, batches: Sequence[pa.RecordBatch], token: str) -> int:
        if any(self.refused & set(b.column("sequence").to_pylist()) for b in batches if "sequence" in b.schema.names):
            raise BadBatch("refused")
        return await super().write(batches, token)


def rows(*sequences: int) -> pa.RecordBatch:
    return batch_from_records([trade(trade_id=str(n), sequence=n) for n in sequences])


async def collected(actor: SinkActor, *sequences: int) -> None:
    """Give a sink trades, as the collector that owns them does."""
    await actor.fence("c", 1)
    await actor.take("c", 1, [("c/1/1", "trade", rows(*sequences), {})])


class Two:
    """Two sink actors with their dead letters in one folder, as the coordinator calls them."""

    def __init__(self, folder: Path, *targets: Strict) -> None:
        self.targets = targets
        self.actors = [SinkActor(f"sink{n}", target, folder) for n, target in enumerate(targets)]
        self.asks = [self.ask(actor) for actor in self.actors]

    @staticmethod
    def ask(actor: SinkActor) -> Ask:
        async def call(method: str, *arguments: Any) -> Any:
            return await getattr(actor, method)(*arguments)

        return call

    async def tell(self, name: str, gaps: Sequence[Gap]) -> None:
        for actor in self.actors:
            await actor.take("coordinator", 0, [(name, "gap", batch_from_records(gaps), {})])

    def gaps(self) -> list[list[tuple[Any, ...]]]:
        """Give (sequence, status) of each sink's gap rows, the newest of each."""
        found = []
        for target in self.targets:
            newest: dict[int, tuple[int, str]] = {}
            for batch in target.batches:
                for row in batch.to_pylist() if "opened_at" in batch.schema.names else []:
                    assert (row["data_type"], row["reason"], row["missing_count"]) == ("trade", "dead_letter", 1)
                    assert row["opened_at"] == row["closed_at"] == row["timestamp"]
                    assert row["first_missing"] == row["last_missing"]
                    newest[row["first_missing"]] = max(
                        newest.get(row["first_missing"], (-1, "")), (row["revision"], row["status"])
                    )
            found.append([(sequence, status) for sequence, (_, status) in sorted(newest.items())])
        return found


async def test_a_refused_row_is_a_gap_row_in_every_sink_until_all_of_them_have_it(tmp_path: Path) -> None:
    two = Two(tmp_path, Strict(2, 3), Strict(3))
    for actor in two.actors:
        await collected(actor, 1, 2, 3, 4)
        assert (await actor.status())["dead_letters_unnoted"] > 0
    for ask in two.asks:
        await note_dead_letters(ask, two.tell)
        await note_dead_letters(ask, two.tell)  # nothing new
    assert two.gaps() == [[(2, "open"), (3, "open")]] * 2
    assert [(await actor.status())["dead_letters_unnoted"] for actor in two.actors] == [0, 0]

    two.targets[0].refused = set()
    assert await redeliver(two.asks, two.tell) == "2 rows delivered, 1 refused again"
    assert two.gaps() == [[(2, "repaired"), (3, "open")]] * 2, "the second sink still lacks 3"
    two.targets[1].refused = set()
    assert await redeliver(two.asks, two.tell) == "1 rows delivered, 0 refused again"
    assert two.gaps() == [[(2, "repaired"), (3, "repaired")]] * 2
    assert await redeliver(two.asks, two.tell) == "no dead letters"
    assert list(tmp_path.iterdir()) == []
    for target in two.targets:
        found = sorted(n for b in target.batches if "sequence" in b.schema.names for n in b["sequence"].to_pylist())
        assert found == [1, 2, 3, 4]


async def test_who_dies_before_the_gap_row_is_written_is_not_missed(tmp_path: Path) -> None:
    first = SinkActor("sink0", Strict(1), tmp_path)
    await collected(first, 1)
    two = Two(tmp_path, Strict(1), Strict())
    assert (await two.actors[0].status())["dead_letters_unnoted"] == 1
    await note_dead_letters(two.asks[0], two.tell)
    assert two.gaps() == [[(1, "open")]] * 2


async def test_a_table_that_does_not_fit_is_waited_for(tmp_path: Path) -> None:
    target = Strict()
    target.misfits = 2
    actor = SinkActor("sink0", target, tmp_path)
    await collected(actor, 1)
    assert actor.last_error == "table trade does not fit"
    assert len(target.batches) == 1


def test_a_gap_row_of_a_dead_letter_names_what_is_missing() -> None:
    quote = gap_of(batch_from_records([Ticker(**QUOTE)]))
    assert (quote.data_type, quote.channel, quote.first_missing, quote.opened_at) == ("ticker", "", None, 10**18)
    assert gap_of(batch_from_records([candle(volume="1")])).channel == "1m"


def test_a_refused_gap_row_is_kept_but_makes_no_gap_row_of_its_own(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path, "sink0")
    letters.keep(batch_from_records([gap_of(rows(1))]), "no")
    assert (letters.unnoted, letters.to_note(), len(letters.rows())) == (0, ([], []), 1)


@pytest.mark.parametrize(("left", "wanted"), [((), [1, 2]), ((2,), [1]), ((1, 2), [])])
def test_only_what_every_sink_has_is_mended(left: tuple[int, ...], wanted: list[int]) -> None:
    done = [gap_of(rows(n), repaired=True) for n in (1, 1, 2)]
    assert [gap.first_missing for gap in mended(done, [gap_of(rows(n)) for n in left])] == wanted


async def test_a_change_of_a_book_that_a_sink_refused_is_not_claimed(tmp_path: Path) -> None:
    bench = Bench()
    bench.open()
    bench.feed.snapshot(bench.book, SNAPSHOT, T0)
    for first, last in ((6, 6), (7, 9), (10, 10)):
        bench.feed.frame(depth(first, last), T0)
    (batch,) = [one for one in bench.batcher.drain(T0, force=True) if one.data_type == "orderbook_delta"]
    assert [(run.low, run.high) for run in batch.claims[bench.book.key].runs] == [(5, 10)]

    class Picky(MemorySink):
        async def write(self, batches: Sequence[pa.RecordBatch], token: str) -> int:
            if any(9 in one.column("last_update_id").to_pylist() for one in batches):
                raise BadBatch("refused")
            return await super().write(batches, token)

    actor = SinkActor("nats", Picky(), tmp_path)
    await actor.fence("c", 1)
    refused = await actor.take("c", 1, [(batch.batch_id, batch.data_type, batch.data, batch.claims)])
    assert refused == {batch.batch_id: {bench.book.key: [(7, 9)]}}
    claim = (await actor.status())["claims"][bench.book.key]
    assert [(run.low, run.high) for run in claim.runs] == [(5, 6), (10, 10)]
