"""Batches on local disk: what comes back is what was put, also after the process that put it has ended anyhow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_encoding import COMMON, trade

from marketprism_ray.batching import Batch
from marketprism_ray.extents import Claim, Run
from marketprism_ray.records import Level, OrderBook
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.spill import RESET_BYTES, Leftover, Place, Spill, leftovers

SINKS = ("clickhouse", "nats")


def trades(number: int, size: int = 5) -> Batch:
    data = batch_from_records([trade(trade_id=str(n), sequence=n) for n in range(number, number + size)])
    return Batch(
        f"c/1/{number}", "trade", data, {"v/trade/A": Claim((Run(number, number + size - 1, 2**62, 2**62 + 1),), 7)}
    )


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Spill]]:
    made: list[Spill] = []

    def make(folder: Path = tmp_path / "spill", limit: int = 1 << 20, reserve: int = 0, epoch: int = 1) -> Spill:
        made.append(Spill(folder, limit, "okx_spot#0", epoch, SINKS, reserve=reserve))
        return made[-1]

    yield make
    for spill in made:
        spill.close()


def put(spill: Spill, batch: Batch) -> Place:
    place = spill.put(batch)
    assert place is not None, spill.error
    return place


def same(one: Batch, other: Batch) -> bool:
    return one.data.equals(other.data, check_metadata=True) and one == other


def found(folder: Path, shard: str = "okx_spot#0") -> list[Leftover]:
    return [one for remains in leftovers(folder, shard) for one in remains.batches()]


def test_a_batch_comes_back_as_it_was_also_a_slice_and_one_with_lists(opened: Callable[..., Spill]) -> None:
    common: Any = COMMON
    levels = [Level("1.10", "2"), Level("1.00", "3.000000000000000001")]
    books = [OrderBook(**common, last_update_id=n, bids=levels[:n], asks=[], depth=400) for n in range(3)]
    whole = trades(1)
    spill = opened()
    batches = [
        whole,
        Batch("c/1/2", "orderbook", batch_from_records(books), {}),
        Batch("c/1/3", "trade", whole.data.slice(2, 2), {}),
    ]
    places = [put(spill, batch) for batch in batches]
    assert all(same(spill.get(place), batch) for place, batch in zip(places, batches, strict=True))
    assert all(
        same(left.batch, batch) and left.sinks == SINKS
        for left, batch in zip(found(spill.folder.parent), batches, strict=True)
    )


@given(
    st.lists(st.tuples(st.sampled_from(["put", "put", "done"]), st.integers(0, 1000), st.integers(1, 40)), max_size=60),
    st.integers(0, 3000),
)
def test_whatever_is_put_and_done_in_any_order_a_successor_finds_the_rest_also_behind_a_torn_write(
    steps: list[tuple[str, int, int]], torn: int
) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        spill = Spill(folder, 100_000, "a#0", 1, SINKS, segment_bytes=12_000, reserve=0)
        kept: dict[str, tuple[Place, Batch]] = {}
        for at, (step, number, size) in enumerate(steps):
            if step == "done" and kept:
                key = sorted(kept)[number % len(kept)]
                place = kept[key][0]
                if spill.done(place, size % 2 if size % 2 in place.waiting else 1 - size % 2):
                    del kept[key]
            elif step == "put":
                made = trades(number, size)
                batch = Batch(f"{at:03}", made.data_type, made.data, made.claims)
                place = spill.put(batch)
                if place is not None:
                    kept[batch.batch_id] = (place, batch)
                else:
                    assert "bytes are used" in spill.error
        assert all(same(spill.get(place), batch) for place, batch in kept.values())
        # The process dies here, in the middle of a write.
        if files := sorted((folder / "a#0").glob("*"), key=lambda path: path.stat().st_mtime_ns):
            with files[-1].open("ab") as file:
                file.write((b"MPB1" + bytes(range(256)) * 12)[:torn])
        left = {one.batch.batch_id: one for one in found(folder, shard="a#0")}
        assert left.keys() == kept.keys()
        for key, one in left.items():
            place, batch = kept[key]
            assert same(one.batch, batch)
            assert one.sinks == tuple(SINKS[at] for at in sorted(place.waiting))
        for remains in leftovers(folder, "a#0"):
            remains.forget()
        assert found(folder, shard="a#0") == []
        spill.close()


@given(st.data())
def test_a_file_cut_or_changed_anywhere_gives_whole_batches_or_none(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        spill = Spill(folder, 1 << 20, "a#0", 1, SINKS, reserve=0)
        batches = [trades(n) for n in (1, 6, 11)]
        for batch in batches:
            put(spill, batch)
        (path,) = (folder / "a#0").glob("*")
        raw = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, len(raw) - 1))
        if data.draw(st.booleans()):
            del raw[at:]
        else:
            raw[at] ^= data.draw(st.integers(1, 255))
        path.write_bytes(raw)
        (remains,) = leftovers(folder, "a#0")
        left = [one.batch for one in remains.batches()]
        assert all(same(one, batch) for one, batch in zip(left, batches, strict=False))
        assert len(left) == at * 3 // (len(raw) if len(raw) > at else spill.bytes)
        assert remains.torn > 0 or at * 3 % spill.bytes == 0
        spill.close()


WRITER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_spill import SINKS, trades
from marketprism_ray.spill import Spill
spill = Spill(Path(sys.argv[1]), 1 << 30, "a#0", 1, SINKS, reserve=0)
number = 0
while True:
    place = spill.put(trades(number * 5))
    number += 1
    if number % 3:
        spill.done(place, 0)
        if number % 2:
            spill.done(place, 1)
    print(number, flush=True)
"""


def test_a_killed_process_leaves_every_batch_that_it_had_put(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", WRITER, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = 0
        while said < 200:
            said = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        said = max([said, *(int(line) for line in process.stdout.read().split("\n")[:-1])])
    left = {one.batch.batch_id: one.sinks for one in found(tmp_path, shard="a#0")}
    # Of the last one the word and the marks may be under way.
    for number in range(1, said):
        needs = SINKS if number % 3 == 0 else SINKS[1:] if number % 2 == 0 else ()
        assert left.get(f"c/1/{(number - 1) * 5}", ()) == needs, number


def test_files_are_given_back_when_everybody_has_what_is_in_them(opened: Callable[..., Spill]) -> None:
    spill = opened(limit=1 << 30)
    large = trades(1, 2000)
    for _ in range(20):
        place = put(spill, large)
        assert not spill.done(place, 0)
        assert spill.done(place, 1)
        assert spill.bytes < 2 * RESET_BYTES
    assert spill.done(put(spill, trades(1)), 0) is False
    files = list(spill.folder.iterdir())
    assert len(files) == 1
    spill.close()
    assert [one.sinks for one in found(spill.folder.parent)] == [("nats",)]
    for remains in leftovers(spill.folder.parent, "okx_spot#0"):
        remains.forget()
    assert not list(spill.folder.iterdir())


def test_a_spill_that_is_not_needed_leaves_no_file(opened: Callable[..., Spill]) -> None:
    spill = opened()
    place = put(spill, trades(1))
    (file,) = spill.folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    spill.done(place, 0)
    spill.done(place, 1)
    spill.close()
    assert not spill.folder.exists()


def test_without_a_limit_on_disk_nothing_is_taken(tmp_path: Path, opened: Callable[..., Spill]) -> None:
    spill = opened(limit=0)
    assert spill.put(trades(1)) is None
    assert not (tmp_path / "spill").exists()


def test_a_folder_that_cannot_be_and_a_disk_that_is_nearly_full_are_said(
    tmp_path: Path, opened: Callable[..., Spill]
) -> None:
    (tmp_path / "file").touch()
    refused = opened(tmp_path / "file")
    assert refused.put(trades(1)) is None
    assert "Not a directory" in refused.error
    careful = opened(reserve=1 << 60)
    assert careful.put(trades(1)) is None
    assert "bytes are free" in careful.error
    assert careful.bytes == 0


def test_a_disk_that_fills_while_a_batch_is_written_keeps_what_was_there(
    opened: Callable[..., Spill], monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = opened()
    first = put(spill, trades(1))
    write, calls = os.pwritev, iter([100, OSError(28, "No space left on device")])

    def filling(file: int, parts: list[memoryview], offset: int) -> int:
        answer = next(calls)
        if isinstance(answer, OSError):
            raise answer
        return write(file, [b"".join(parts)[:answer]], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwritev", filling)
        assert spill.put(trades(6)) is None
    assert "No space left" in spill.error
    assert [one.batch.batch_id for one in found(spill.folder.parent)] == ["c/1/1"]
    second = put(spill, trades(11))
    assert same(spill.get(first), trades(1))
    assert same(spill.get(second), trades(11))


def test_a_disk_that_does_not_give_a_batch_back_is_an_error(opened: Callable[..., Spill]) -> None:
    spill = opened()
    place = put(spill, trades(1))
    os.ftruncate(place.segment.file, 30)
    with pytest.raises(OSError, match="could not be read"):
        spill.get(place)
