"""The compiled inner loops against the Python ones: the same results, and the same refusals."""

from __future__ import annotations

import os
import shutil
import sysconfig
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from marketprism_ray import batching, book, columns, hot, intake
from marketprism_ray.batching import Batcher
from marketprism_ray.book_stream import BookStream
from marketprism_ray.errors import BookError, FrameError
from marketprism_ray.replay import unknown_instrument
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import Delta, WireLevel
from marketprism_ray.venues import VENUES, binance

compiled: Any = pytest.importorskip("marketprism_ray._hot") if hot.IS_COMPILED else None
needs_compiled = pytest.mark.skipif(compiled is None, reason="the C parts are not built, or not wanted")

SPOT = VENUES["binance_spot"]
TEXTS = st.one_of(
    st.integers(0, 40).map(lambda n: f"{n / 10:.1f}"),
    st.decimals(0, 10**12, allow_nan=False, allow_infinity=False).map(lambda d: format(d, "f")),
    st.from_regex(r"[0-9]{0,22}(\.[0-9]{0,22})?", fullmatch=True),
    st.sampled_from(
        [
            "0",
            "0.000",
            "1",
            "1.0",
            "01",
            ".5",
            "5.",
            ".",
            "",
            "-1",
            "-0",
            "+1",
            "nan",
            "inf",
            "1e3",
            "1e400",
            "1_0",
            "é",
        ]
    ),
)
LEVELS = st.lists(st.builds(WireLevel, TEXTS, TEXTS), max_size=6)


def test_the_compiled_parts_are_there_where_they_could_be_built() -> None:
    if os.environ.get("MARKETPRISM_PURE_PYTHON"):
        assert not hot.IS_COMPILED
    elif shutil.which(os.environ.get("CC", "cc")) and Path(sysconfig.get_path("include"), "Python.h").exists():
        assert hot.IS_COMPILED, "run `make install`"


def outcome(action: Any, *arguments: Any) -> Any:
    try:
        return action(*arguments)
    except BookError as error:
        return str(error)


@needs_compiled
@given(st.lists(st.tuples(LEVELS, LEVELS), max_size=12), st.sampled_from([None, 3, 20]))
@example([([WireLevel("100000000000000001", "1")], [WireLevel("100000000000000002", "1")])], None)
@example([([WireLevel(str(n), "1") for n in range(1, 15)], [WireLevel("0", "1")])], 3)
def test_books_do_the_same(changes: list[tuple[list[WireLevel], list[WireLevel]]], keep: int | None) -> None:
    ours, theirs = book.Book(keep), compiled.Book(keep)
    for bids, asks in changes:
        found = outcome(ours.apply, bids, asks)
        assert outcome(theirs.apply, bids, asks) == found
        if isinstance(found, str):  # a book that refused a level must be thrown away
            ours.clear()
            theirs.clear()
        assert ours.levels() == theirs.levels()
        assert ours.best() == theirs.best()
        for depth in (0, 1, 2, 100):
            assert ours.top(depth) == theirs.top(depth)
        assert len(ours) == len(theirs)
        assert (ours.pruned, ours.unknown_deletes) == (theirs.pruned, theirs.unknown_deletes)
    ours.clear()
    theirs.clear()
    assert len(ours) == len(theirs) == 0


@needs_compiled
def test_a_large_book_is_the_same() -> None:
    levels = [WireLevel(str(n * 7919 % 10_007 + 1), "1") for n in range(10_007)]
    ours, theirs = book.Book(5_000), compiled.Book(5_000)
    for start in range(0, len(levels), 100):
        ours.apply(levels[start : start + 100], levels[start : start + 100][::-1])
        theirs.apply(levels[start : start + 100], levels[start : start + 100][::-1])
    assert ours.levels() == theirs.levels()
    assert ours.pruned == theirs.pruned > 0


@needs_compiled
@given(st.binary(max_size=30), st.sampled_from([b'"', b"}"]), st.booleans(), st.integers(0, 8))
def test_keys_are_cut_the_same(raw: bytes, end: bytes, with_end: bool, start: int) -> None:
    assert intake.Cut(start, end, with_end).read(raw) == compiled.Cut(start, end, with_end).read(raw)


@needs_compiled
@given(st.one_of(TEXTS, st.floats().map(repr), st.just("1e-7"), st.just("2.50E3")))
def test_numbers_are_written_the_same(text: str) -> None:
    raw = msgspec.Raw(text.encode())
    try:
        expected: Any = columns.number_text(raw)
    except ValueError:
        with pytest.raises(ValueError):
            compiled.number_text(raw)
        return
    assert compiled.number_text(raw) == expected


def built(build: Any, *arguments: Any) -> Any:
    try:
        return build(*arguments)
    except (pa.ArrowInvalid, FrameError, ValueError, OverflowError, TypeError) as error:
        return type(error)


@needs_compiled
@given(
    st.lists(
        st.builds(binance.Trade, st.integers(0, 2**70), TEXTS, TEXTS, st.integers(-1, 2**50), st.booleans()),
        min_size=1,
        max_size=4,
    )
)
@example([binance.Trade(1, "9223372035.999999999", "9223372035.999999999", 5, True)])
@example([binance.Trade(1, "9223372036", "1", 5, True), binance.Trade(2, "0.000000000001", "3", 5, True)])
def test_columns_of_trades_are_the_same(rows: list[binance.Trade]) -> None:
    owner = TradeStream(SPOT, channel("trade"), unknown_instrument(SPOT, "BTCUSDT"), Batcher("test", 0))
    buffer = Batcher("test", 0).trades(owner.codec)
    arguments = ([owner] * len(rows), rows, [5] * len(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "trade_columns", columns.trade_columns)
        expected = built(buffer.build, *arguments)
        patch.setattr(batching, "trade_columns", compiled.trade_columns)
        assert built(buffer.build, *arguments) == expected


def channel(data_type: str) -> Any:
    return next(c for c in SPOT.channels if c.data_type == data_type)


@needs_compiled
@given(st.lists(LEVELS, max_size=4), st.sampled_from(["binance_spot", "okx_derivatives"]))
def test_columns_of_levels_are_the_same(sides: list[list[WireLevel]], venue: str) -> None:
    instrument = unknown_instrument(VENUES[venue], "BTC-USDT-SWAP" if venue == "okx_derivatives" else "BTCUSDT")
    index = np.zeros(len(sides), np.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "level_columns", columns.level_columns)
        expected = built(batching._levels, sides, [instrument], index)
        patch.setattr(batching, "level_columns", compiled.level_columns)
        assert built(batching._levels, sides, [instrument], index) == expected


@needs_compiled
def test_plain_numbers_take_the_short_way() -> None:
    rows = [binance.Trade(n, f"{n}.25", "0.00100000", 1_700_000_000_000, False) for n in range(1, 4)]
    found = compiled.trade_columns(rows, 1_000_000)
    assert found is not None
    assert all(part is not None for part in found)
    assert compiled.level_columns([[WireLevel("1.5", "2")], [], [WireLevel("3", "0.000")]]) is not None
    assert compiled.level_columns([[WireLevel("1e5", "2")]]) is None
    assert compiled.level_columns([(WireLevel("1", "2"),)]) is None
    deltas = [(n, Delta(n, n + 1, None, 1_700_000_000_000, [], [], n == 8), 1_000_000) for n in range(9)]
    assert compiled.delta_columns(deltas)[4] == bytes([0, 1])
    product = Decimal(int.from_bytes(found[4][:16], "little")).scaleb(-18)
    assert product == Decimal("1.25") * Decimal("0.001")


IDS = st.one_of(st.integers(-5, 2**45), st.integers(-(2**70), 2**70), st.none())


@needs_compiled
@given(
    st.lists(
        st.tuples(IDS, st.builds(Delta, IDS, IDS, IDS, IDS, LEVELS, LEVELS, st.booleans()), st.just(1_000_000)),
        min_size=1,
        max_size=20,
    )
)
def test_columns_of_deltas_are_the_same(rows: list[tuple[int, Delta, int]]) -> None:
    owner = BookStream(SPOT, channel("orderbook"), unknown_instrument(SPOT, "BTCUSDT"), Batcher("test", 0), keep=9)
    buffer = Batcher("test", 0).deltas
    arguments = ([owner] * len(rows), rows, [5] * len(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "delta_columns", columns.delta_columns)
        expected = built(buffer.build, *arguments)
        patch.setattr(batching, "delta_columns", compiled.delta_columns)
        assert built(buffer.build, *arguments) == expected


def frame(sequence: int) -> bytes:
    return b'{"stream":"btcusdt@trade","data":{"t":%d,"p":"1.5","q":"2","T":1700000000000,"m":true}}' % sequence


def test_a_sequence_beyond_64_bits_is_refused_and_forgotten() -> None:
    batcher = Batcher("test", 0)
    stream = TradeStream(SPOT, channel("trade"), unknown_instrument(SPOT, "BTCUSDT"), batcher)
    for sequence in (7, 2**63, 8):
        stream.frame(frame(sequence), 1_700_000_000_001_000_000)
    assert stream.last == 8
    assert stream.decode_errors == 1
    assert "out of range" in stream.last_error
    (batch,) = batcher.drain(6, force=True)
    assert batch.data.column("sequence").to_pylist() == [7, 8]
