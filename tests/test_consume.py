"""What a consumer gets: every row once and the newest word on it, from a position that survives it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_encoding import trade
from test_keys import APART, NEWER
from test_sinks import delta, trades, until

from marketprism_ray import consume, query
from marketprism_ray.consume import Consumer, Once, Position, PositionLost, Ranges, to_arrow
from marketprism_ray.encoding import data_type_of, decode_json, json_rows, message_ids
from marketprism_ray.errors import SinkUnavailable
from marketprism_ray.records import Level, Record
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.servers import EmbeddedServers
from marketprism_ray.sinks.nats import NatsSettings, NatsSink, connect


def published(batch: pa.RecordBatch) -> list[tuple[str, str, dict[str, Any]]]:
    """Give data type, id and decoded JSON of each row, as they are on the stream."""
    texts = zip(message_ids(batch).to_pylist(), json_rows(batch).to_pylist(), strict=True)
    return [(data_type_of(batch), identity, decode_json(text.encode())) for identity, text in texts]


def heard(once: Once, rows: Sequence[tuple[str, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [record for data_type, identity, record in rows if once.is_new(data_type, identity, record)]


@given(st.lists(st.integers(0, 60), max_size=200))
def test_ranges_know_every_number_that_was_added(numbers: list[int]) -> None:
    ranges, seen = Ranges(), set[int]()
    for number in numbers:
        assert ranges.add(number) is (number not in seen)
        seen.add(number)
    found = Ranges(json.loads(json.dumps(ranges.list()))).list()
    assert [n for first, last in found for n in range(first, last + 1)] == sorted(seen)
    assert all(a[1] + 1 < b[0] for a, b in itertools.pairwise(found))


@given(st.lists(st.integers(1, 40), max_size=120), st.integers(0, 120))
def test_trades_come_once_however_late_a_repeat_is_and_across_a_restart(order: list[int], cut: int) -> None:
    rows = [row for n in order for row in published(trades(n, n))]
    once = Once(remembered=2)
    found = heard(once, rows[:cut])
    once = Once(json.loads(json.dumps(once.state())), remembered=2)
    found += heard(once, rows[cut:])
    assert [record["sequence"] for record in found] == list(dict.fromkeys(order))
    assert once.dropped == len(order) - len(set(order))


def test_a_venue_that_counts_afresh_is_believed_and_an_old_repeat_is_not() -> None:
    def at(sequence: int, time: int) -> list[tuple[str, str, dict[str, Any]]]:
        row = trade(trade_id=str(sequence), sequence=sequence, timestamp=10**18 + time)
        return published(batch_from_records([row]))

    once = Once()
    rows = [*at(7, 1), *at(8, 2), *at(7, 100), *at(8, 101), *at(8, 101), *at(7, 100)]
    assert [record["timestamp"][-4:] for record in heard(once, rows)] == ["001Z", "002Z", "100Z", "101Z"]


def test_a_chain_of_book_changes_comes_once_and_an_older_snapshot_does_not_set_it_back() -> None:
    chain = [
        delta(-1, 5, [Level("10", "1")], snapshot=True),
        delta(5, 7, [Level("10", "0")]),
        delta(7, 8, []),
        delta(-1, 12, [], snapshot=True),
        delta(12, 13, []),
    ]
    rows = [row for change in chain for row in published(batch_from_records([change]))]
    once = Once(remembered=1)
    assert heard(once, [*rows[:3], *rows[:3], *rows[3:], *rows]) == [record for _, _, record in rows]


@pytest.mark.parametrize("rows", NEWER.values(), ids=NEWER)
def test_of_corrected_rows_only_newer_words_are_heard(rows: list[Record]) -> None:
    batches = [published(batch_from_records([row]))[0] for row in rows]
    once = Once()
    assert heard(once, batches) == [record for _, _, record in batches]
    assert heard(Once(json.loads(json.dumps(once.state()))), batches) == []
    assert heard(Once(remembered=1), [batches[-1], *batches]) == [batches[-1][2]]


@pytest.mark.parametrize("rows", APART.values(), ids=APART)
def test_observations_of_one_moment_are_all_heard(rows: tuple[Record, Record]) -> None:
    batches = [published(batch_from_records([row]))[0] for row in rows]
    assert heard(Once(), [*batches, *batches]) == [record for _, _, record in batches]


def test_decoded_rows_make_the_batch_that_was_published() -> None:
    records: list[list[Any]] = [
        [trade(), trade(trade_id="8", sequence=None, raw_quantity=None, price="0.000000000000000001")],
        [delta(-1, 5, [Level("10", "1"), Level("9.5", "2")], snapshot=True), delta(5, 6, [])],
        *([row] for pair in APART.values() for row in pair),
    ]
    for batch in map(batch_from_records, records):
        assert to_arrow(data_type_of(batch), [record for _, _, record in published(batch)]) == batch


# --- against the real server ---


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[EmbeddedServers]:
    with EmbeddedServers(tmp_path / "servers", clickhouse=None) as running:
        yield running


@pytest.fixture
async def sink(servers: EmbeddedServers) -> AsyncIterator[NatsSink]:
    """A sink whose stream forgets ids after 0.1 s."""
    made = NatsSink(servers.nats_settings(duplicate_window_s=0.1))
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def reader(servers: EmbeddedServers) -> NatsSettings:
    """How somebody connects who may only read."""
    return servers.nats_settings(user="reader")


async def resend(sink: NatsSink, batch: pa.RecordBatch) -> None:
    """Publish rows until the server, which knows their ids for a while, has taken as many as new."""
    taken = 0
    async with asyncio.timeout(60):
        while taken < batch.num_rows:
            taken += await sink.write([batch], "again")
            await asyncio.sleep(0.02)


async def take(consumer: Consumer, count: int) -> list[Any]:
    found = []
    async with asyncio.timeout(60):
        async for row in consumer:
            found.append(row)
            if len(found) == count:
                break
    return found


async def test_rows_that_are_on_the_stream_twice_are_given_once_also_over_restarts(
    sink: NatsSink, reader: NatsSettings, tmp_path: Path
) -> None:
    place = tmp_path / "position.json"
    assert Position.load(place) is None
    await sink.write([trades(1, 300)], "a")
    await resend(sink, trades(101, 200))
    async with Consumer(reader, "trades-data.>") as consumer:
        found = await take(consumer, 250)
        consumer.position.save(place)
    await resend(sink, trades(201, 300))
    await sink.write([trades(301, 310)], "b")
    async with Consumer(reader, "trades-data.>", Position.load(place)) as consumer:
        found += await take(consumer, 60)
        assert consumer.dropped >= 100
    assert [row.record["sequence"] for row in found] == list(range(1, 311))
    assert {row.data_type for row in found} == {"trade"}
    async with Consumer(reader, start="new") as consumer:
        await sink.write([trades(400, 400)], "c")
        assert [row.record["sequence"] for row in await take(consumer, 1)] == [400]


async def test_a_server_that_is_killed_is_read_on_where_it_was(
    servers: EmbeddedServers, sink: NatsSink, reader: NatsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consume, "IDLE_S", 0.2)
    await sink.write([trades(1, 100)], "a")
    async with Consumer(reader) as consumer:
        found = await take(consumer, 50)
        os.kill(servers.state()["nats"]["pid"], signal.SIGKILL)
        await until(lambda: servers.state()["nats"]["restarts"] == 1)

        async def write_more() -> None:
            async with asyncio.timeout(60):
                while True:
                    try:
                        await sink.write([trades(101, 150)], "b")
                        return
                    except SinkUnavailable:
                        await asyncio.sleep(0.05)

        writing = asyncio.create_task(write_more())
        found += await take(consumer, 100)
        await writing
    assert [row.record["sequence"] for row in found] == list(range(1, 151))


async def test_arrow_batches_are_those_that_were_written(sink: NatsSink, reader: NatsSettings) -> None:
    batch = trades(1, 250)
    change = batch_from_records([delta(-1, 5, [Level("10", "1")], snapshot=True)])
    await sink.write([batch], "a")
    await sink.write([change], "b")
    found: list[pa.RecordBatch] = []
    async with Consumer(reader) as consumer, asyncio.timeout(60):
        async for batches in consumer.batches(rows=100, wait_s=0.1):
            found += batches
            if sum(batch.num_rows for batch in found) == 251:
                break
    made = pa.Table.from_batches([b for b in found if data_type_of(b) == "trade"]).combine_chunks()
    assert made.to_batches() == [batch]
    assert [b for b in found if data_type_of(b) == "orderbook_delta"] == [change]


async def test_a_position_that_the_stream_no_longer_reaches_back_to_is_an_error(
    sink: NatsSink, reader: NatsSettings
) -> None:
    await sink.write([trades(1, 50)], "a")
    async with Consumer(reader) as consumer:
        await take(consumer, 10)
        position = consumer.position
    client = await connect(sink.settings)
    await client.jetstream().purge_stream(sink.settings.stream, keep=5)
    await client.close()
    with pytest.raises(PositionLost, match=r"holds 46 to 50, the position is 10"):
        async with Consumer(reader, start=position):
            pass


async def test_tail_leaves_out_what_is_sent_again(sink: NatsSink, reader: NatsSettings) -> None:
    batch = trades(1, 20)
    found: list[int] = []
    listening = asyncio.Event()

    async def listen() -> None:
        async for subject, body in query.tail(reader, "trades-data.>"):
            assert subject.startswith("trades-data.")
            listening.set()
            found.append(decode_json(body)["sequence"])
            if found[-1] == 21:
                return

    reading = asyncio.create_task(listen())
    async with asyncio.timeout(60):
        while not listening.is_set():
            await resend(sink, batch)
        order = list(range(1, 21))
        random.Random(1).shuffle(order)
        await resend(sink, batch.take(pa.array([n - 1 for n in order])))
        await sink.write([trades(21, 21)], "b")
        await reading
    assert sorted(found) == sorted(set(found))
    assert found[-1] == 21
