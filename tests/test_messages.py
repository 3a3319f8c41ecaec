"""Every example message is read to records of the type it is said to be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from marketprism_ray.errors import FrameError, RecordingError, VenueError
from marketprism_ray.messages import read_answer, read_frame
from marketprism_ray.replay import unknown_instrument
from marketprism_ray.venue import Ack, Rejected, Reply, Venue
from marketprism_ray.venues import VENUES

NOW = 1_800_000_000_000_000_000
BOOK_PATHS = {
    "binance_spot": "/api/v3/depth",
    "binance_usdm": "/fapi/v1/depth",
    "binance_coinm": "/dapi/v1/depth",
    "okx_v5": "/api/v5/market/books",
    "deribit_v2": "/api/v2/public/get_order_book",
}
NO_SUCH_TYPE = "lsr_top_account"
"""Ratios of the top traders by account: recorded, but no data type of ours."""


def examples(folder: Path) -> list[tuple[Venue, str, dict[str, Any]]]:
    found = []
    for path in sorted(folder.glob("*.examples.jsonl")):
        stem = path.name.removesuffix(".examples.jsonl")
        # A house may have two markets in one file: the wider one reads everything.
        venue = [v for v in VENUES.values() if v.recording == stem][-1]
        found += [(venue, stem, json.loads(line)) for line in path.read_text().splitlines()]
    return found


def read(venue: Venue, stem: str, example: dict[str, Any]) -> dict[str, pa.RecordBatch]:
    def lookup(symbol: str) -> Any:
        return unknown_instrument(venue, symbol or "UNNAMED")

    raw = example["raw"].encode()
    if example["channel"] != "rest":
        return read_frame(venue, raw, lookup, NOW)
    url = example["url"] or f"https://host{BOOK_PATHS[stem]}?symbol=X&instId=X&instrument_name=X"
    return read_answer(venue, url, raw, lookup, NOW)


def test_every_example_gives_records_of_its_type(recordings: Path) -> None:
    counted: Counter[str] = Counter()
    for venue, stem, example in examples(recordings):
        wanted = example["type"]
        if wanted in ("error", "heartbeat", NO_SUCH_TYPE):
            continue
        found = read(venue, stem, example)
        place = (stem, wanted, example["channel"], example["raw"][:100])
        batch = found.get(wanted)
        if batch is None and wanted == "orderbook":
            batch = found.get("orderbook_delta")
        assert batch is not None, (place, list(found))
        assert batch.num_rows > 0, place
        counted[wanted] += batch.num_rows
        assert set(batch.column("exchange_name").to_pylist()) == {venue.name}
        times = batch.column("timestamp").cast(pa.int64())
        assert pc.min(times).as_py() > 1_500_000_000_000_000_000 or "documentation" in example["status"], place
    assert set(counted) == {
        *("trade", "orderbook", "ticker", "kline", "funding_rate", "open_interest", "liquidation"),
        *("lsr_top_position", "lsr_all_account", "volatility_index", "option_greeks"),
    }


def test_example_errors_and_heartbeats_are_understood_as_such(recordings: Path) -> None:
    seen = set()
    for venue, stem, example in examples(recordings):
        raw = example["raw"].encode()
        if example["type"] == "heartbeat":
            reply = venue.control(raw)
            assert isinstance(reply, Reply)
            assert "public/test" in reply.text
        elif example["type"] == "error" and example["channel"] == "rest":
            with pytest.raises(VenueError):
                read(venue, stem, example)
        elif example["type"] == "error":
            answer = venue.control(raw)
            assert isinstance(answer, Rejected) or (isinstance(answer, Ack) and answer.complete and not answer.keys)
        else:
            continue
        seen.add((stem, example["type"]))
    assert ("deribit_v2", "heartbeat") in seen
    assert len(seen) >= 4


def test_ratios_without_a_data_type_are_named(recordings: Path) -> None:
    chosen = [(v, s, e) for v, s, e in examples(recordings) if e["type"] == NO_SUCH_TYPE]
    assert chosen
    for venue, stem, example in chosen:
        with pytest.raises(RecordingError, match=r"nobody reads .*topLongShortAccountRatio"):
            read(venue, stem, example)


@pytest.mark.parametrize("name", VENUES)
@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":1}', b"<html></html>", b"1e400", b'{"stream":1,"data":2}'],
)
def test_what_is_no_message_is_an_error_that_says_so(name: str, raw: bytes) -> None:
    venue = VENUES[name]
    with pytest.raises((FrameError, VenueError)):
        read_frame(venue, raw, lambda symbol: unknown_instrument(venue, symbol), NOW)
