"""Batches on local disk: what comes back is what was put, and files are given back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_encoding import COMMON, trade

from marketprism_ray.batching import Batch
from marketprism_ray.extents import Claim, Run
from marketprism_ray.records import Level, OrderBook
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.spill import Place, Spill


def trades(number: int, size: int = 5) -> Batch:
    data = batch_from_records([trade(trade_id=str(n), sequence=n) for n in range(number, number + size)])
    return Batch(
        f"c/1/{number}", "trade", data, {"v/trade/A": Claim((Run(number, number + size - 1, 2**61, 2**62),), 5)}
    )


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Spill]]:
    made: list[Spill] = []

    def make(folder: Path = tmp_path / "spill", limit: int = 1 << 20, reserve: int = 0) -> Spill:
        made.append(Spill(folder, limit, reserve=reserve))
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


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["put", "put", "free"]), st.integers(0, 1000), st.integers(1, 40)), max_size=60)
)
def test_whatever_is_put_and_given_back_in_any_order_the_rest_is_whole_and_the_limit_holds(
    steps: list[tuple[str, int, int]],
) -> None:
    with TemporaryDirectory() as folder:
        spill = Spill(Path(folder), 100_000, segment_bytes=12_000, reserve=0)
        kept: list[tuple[Place, Batch]] = []
        for step, number, size in steps:
            if step == "free" and kept:
                spill.free(kept.pop(number % len(kept))[0])
            elif step == "put":
                batch = trades(number, size)
                place = spill.put(batch)
                if place is not None:
                    kept.append((place, batch))
                else:
                    assert "bytes are used" in spill.error
            assert spill.bytes <= 100_000
            assert os.listdir(folder) == [], "the files have no names"
        assert all(same(spill.get(place), batch) for place, batch in kept)
        for place, _ in kept:
            spill.free(place)
        assert spill.bytes == 0
        spill.close()


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
    assert f"{tmp_path / 'file'}: File exists" in refused.error
    careful = opened(reserve=1 << 60)
    assert careful.put(trades(1)) is None
    assert "bytes are free" in careful.error
    assert careful.bytes == 0


def test_a_disk_that_fills_while_a_batch_is_written_keeps_what_was_there(
    opened: Callable[..., Spill], monkeypatch: pytest.MonkeyPatch
) -> None:
    spill = opened()
    first = put(spill, trades(1))
    write, calls = os.pwrite, iter([100, OSError(28, "No space left on device")])

    def filling(file: int, data: memoryview, offset: int) -> int:
        answer = next(calls)
        if isinstance(answer, OSError):
            raise answer
        return write(file, data[:answer], offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", filling)
        assert spill.put(trades(6)) is None
    assert "No space left" in spill.error
    second = put(spill, trades(11))
    assert same(spill.get(first), trades(1))
    assert same(spill.get(second), trades(11))


def test_a_disk_that_does_not_give_a_batch_back_is_an_error(opened: Callable[..., Spill]) -> None:
    spill = opened()
    place = put(spill, trades(1))
    os.ftruncate(place.segment.file.fileno(), 10)
    with pytest.raises(OSError, match="10 of"):
        spill.get(place)
