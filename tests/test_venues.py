"""Every venue of the registry against its fixture: frames in order, with each frame lost, and with each frame repeated.

A fixture's first line says where it came from. Each further line is a raw frame and the records it must yield; a line
with ``snapshot`` is the answer to the snapshot request that the frames before it caused; one with ``answer`` is another
REST answer. So a fixture is also the worked example of the venue's units: what was sent, and what it is in ours.
"""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from conftest import instrument

from marketprism_ray.batching import Batcher
from marketprism_ray.book_stream import BookStream
from marketprism_ray.errors import RateLimited, TransportError, VenueError
from marketprism_ray.feed import Feed
from marketprism_ray.instruments import Instrument
from marketprism_ray.record_stream import RecordStream
from marketprism_ray.schemas import batch_from_records
from marketprism_ray.streams import Stream
from marketprism_ray.trade_stream import TradeStream
from marketprism_ray.venue import Channel, RecordCodec, Venue
from marketprism_ray.venues import VENUES

FIXTURES = Path(__file__).parent / "fixtures"
INSTRUMENTS: dict[str, Instrument] = {
    "binance_spot": instrument(),
    "binance_derivatives": instrument(
        exchange_name="binance_derivatives", market_type="perpetual", symbol_name="BTC-USDT-SWAP",
    ),
    "binance_coinm": instrument(
        exchange_name="binance_coinm", market_type="perpetual", symbol_name="BTC-USD-SWAP", venue_symbol="BTCUSD_PERP",
        quote="USD", settle="BTC", quantity_unit="contract", contract_size="100", contract_unit="quote",
    ),
    "deribit_derivatives": instrument(
        exchange_name="deribit_derivatives", market_type="perpetual",
        symbol_name="BTC-USD-SWAP", venue_symbol="BTC-PERPETUAL",
        quote="USD", settle="BTC", quantity_unit="quote", contract_unit="quote",
    ),
    "okx_spot": instrument(exchange_name="okx_spot", venue_symbol="BTC-USDT"),
    "okx_derivatives": instrument(
        exchange_name="okx_derivatives", market_type="perpetual",
        symbol_name="BTC-USD-SWAP", venue_symbol="BTC-USD-SWAP",
        quote="USD", settle="BTC", quantity_unit="contract", contract_size="100", contract_unit="quote",
    ),
}  # fmt: skip
OPTIONS: dict[str, Instrument] = {
    venue: instrument(
        exchange_name=venue, market_type="option", symbol_name="BTC-USD-261225-100000-C", venue_symbol=name,
        quote="USD", settle="BTC", strike="100000", option_type="C",
    )
    for venue, name in (("okx_derivatives", "BTC-USD-261225-100000-C"), ("deribit_derivatives", "BTC-25DEC26-100000-C"))
}  # fmt: skip
NOW = 1_795_132_805_000_000_000
"""Receive time of all frames, ns."""
CHAINED = {"trade", "orderbook_delta"}
"""Data types whose rows prove that none is missing."""


def record_streams(venue: Venue, items: list[Instrument], batcher: Batcher) -> list[Stream]:
    """Give a stream for each key of low-rate data."""
    grouped: dict[tuple[str, int], tuple[list[Channel], list[Instrument]]] = {}
    for channel in venue.channels:
        for item in items:
            if isinstance(channel.codec, RecordCodec) and channel.applies(item) and channel.interval in ("", "1m"):
                channels, instruments = grouped.setdefault((channel.key(item), id(channel.codec)), ([], []))
                channels.append(channel)
                instruments.append(item)
    return [RecordStream(venue, channels, instruments, batcher) for channels, instruments in grouped.values()]


def read_answer_of(venue: Venue, items: list[Instrument], answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Give the rows of a REST answer."""
    reader = next(a for a in (*(poll.answer for poll in venue.polls), *venue.answers) if a.path == answer["path"])
    lookup = {item.venue_symbol: item for item in items}.get
    records = reader.decode(answer["body"].encode(), answer["params"], lookup, NOW)
    return [{"table": record.table, **row} for record in records for row in batch_from_records([record]).to_pylist()]


def lines(venue: str) -> list[dict[str, Any]]:
    header, *rest = (FIXTURES / f"{venue}.jsonl").read_text().splitlines()
    assert json.loads(header)["header"]["venue"] == venue
    return [json.loads(line) for line in rest]


def play(venue: str, steps: list[dict[str, Any]]) -> tuple[list[list[dict[str, Any]]], TradeStream, BookStream]:
    """Give the rows that each step yields."""
    value, batcher, item = VENUES[venue], Batcher("test", 0), INSTRUMENTS[venue]
    trades = TradeStream(value, value.channel("trade"), item, batcher)
    book = BookStream(value, value.channel("orderbook"), item, batcher, keep=None)
    items = [item, *([OPTIONS[venue]] if venue in OPTIONS else [])]
    feed = Feed(value, "public", [trades, book, *record_streams(value, items, batcher)])
    feed.opened(NOW)
    yielded = []
    for step in steps:
        if "snapshot" in step:
            feed.snapshot(book, step["snapshot"].encode(), NOW)
        elif "answer" in step:
            yielded.append(read_answer_of(value, items, step["answer"]))
            continue
        else:
            feed.frame(step["raw"].encode(), NOW)
        rows = [{"table": b.data_type, **row} for b in batcher.drain(NOW, force=True) for row in b.data.to_pylist()]
        order = [record["table"] for record in step["records"]]
        yielded.append(sorted(rows, key=lambda row: order.index(row["table"]) if row["table"] in order else 0))
    return yielded, trades, book


def plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value.normalize(), "f") if value else "0"
    if isinstance(value, list):
        return [[plain(level["price"]), plain(level["quantity"])] for level in value]
    if isinstance(value, datetime):
        return int(pa.scalar(value, pa.timestamp("ns", "UTC")).value)
    return value.value if hasattr(value, "value") else value


def data(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["table"] != "gap"]


@pytest.mark.parametrize("venue", list(VENUES))
def test_frames_yield_the_records_of_the_fixture(venue: str) -> None:
    steps = lines(venue)
    yielded, trades, book = play(venue, steps)
    for step, rows in zip(steps, yielded, strict=True):
        assert len(data(rows)) == len(step["records"]), step
        for row, wanted in zip(data(rows), step["records"], strict=True):
            assert {key: plain(row[key]) for key in wanted} == wanted
    assert book.sync.is_live
    assert trades.missing == 0


@pytest.mark.parametrize("venue", list(VENUES))
def test_a_lost_frame_is_never_silent(venue: str) -> None:
    steps = lines(venue)
    whole, _, _ = play(venue, steps)
    wanted = sum(len(data(rows)) for rows in whole)
    for lost, step in enumerate(steps):
        kinds = {record["table"] for record in step["records"]} & CHAINED
        yielded, trades, book = play(venue, steps[:lost] + steps[lost + 1 :])
        after = [record for rest in steps[lost + 1 :] for record in rest["records"] if record["table"] in kinds]
        before = [record for rest in steps[:lost] for record in rest["records"] if record["table"] in kinds]
        if not kinds or not after or not before:
            continue  # nothing follows that could show it, or nothing was there to be continued
        gaps = [row for rows in yielded for row in rows if row["table"] == "gap"]
        assert gaps, f"losing step {lost} left no gap"
        assert sum(len(data(rows)) for rows in yielded) < wanted
        assert trades.missing == 1 or not book.sync.is_live, step


@pytest.mark.parametrize("venue", list(VENUES))
def test_a_repeated_frame_yields_nothing_new(venue: str) -> None:
    steps = lines(venue)
    whole = [[{**row, "receive_timestamp": 0} for row in data(rows)] for rows in play(venue, steps)[0]]
    for again, step in enumerate(steps):
        if "snapshot" in step or "answer" in step or any(record.get("is_snapshot") for record in step["records"]):
            continue
        yielded, trades, book = play(venue, steps[: again + 1] + steps[again:])
        rows = [[{**row, "receive_timestamp": 0} for row in data(rows)] for rows in yielded]
        assert rows[: again + 1] == whole[: again + 1]
        if not step["records"] or step["records"][0]["table"] == "trade":
            assert [row for row in rows[again + 1] if row["table"] in CHAINED] == []
            assert book.sync.is_live
        assert trades.missing == 0


@pytest.mark.parametrize("venue", list(VENUES))
def test_every_channel_names_its_stream_both_ways(venue: str) -> None:
    value = VENUES[venue]
    for channel in (*value.channels, *value.recorded_channels):
        item = OPTIONS[venue] if venue in OPTIONS and not channel.applies(INSTRUMENTS[venue]) else INSTRUMENTS[venue]
        key = channel.key(item)
        name, symbol = value.parse_key(key)
        assert name == channel.name
        other = msgspec.structs.replace(item, venue_symbol="OTHER")
        assert symbol == item.venue_symbol or channel.key(other) == channel.key(item), "a key of one or of all"
        assert channel.endpoint in value.sockets
        assert key in json.loads(json.dumps(value.subscribe([key], 1))) or json.loads(key)


@pytest.mark.parametrize("venue", list(VENUES))
def test_every_request_costs_from_a_budget_that_exists_and_fits(venue: str) -> None:
    value, item = VENUES[venue], INSTRUMENTS[venue]
    capacity = {budget.name: budget.capacity for budget in value.rest.budgets}
    requests = list(value.instrument_requests)
    for channel in value.channels:
        snapshot = getattr(channel.codec, "snapshot", None)
        if snapshot is not None:
            requests.append(snapshot(item, channel.codec.depth))  # type: ignore[union-attr]
    assert value.trade_history is not None
    requests.append(value.trade_history.request(item, 1, 5000))
    assert all(request.costs for request in requests)
    assert all(weight <= capacity[name] for request in requests for name, weight in request.costs)


@pytest.mark.parametrize(
    ("venue", "status", "body", "kind"),
    [
        ("binance_spot", 400, b'{"code":-1121,"msg":"Invalid symbol."}', VenueError),
        ("binance_spot", 503, b'{"code":-1008,"msg":"busy"}', TransportError),
        ("binance_spot", 400, b'{"code":-1003,"msg":"Too much"}', RateLimited),
        ("binance_spot", 403, b"<html>", TransportError),
        ("okx_spot", 200, b'{"code":"51001","msg":"no such instrument","data":[]}', VenueError),
        ("okx_spot", 200, b'{"code":"50011","msg":"Too Many Requests","data":[]}', RateLimited),
        ("okx_derivatives", 200, b'{"code":"50013","msg":"busy","data":[]}', TransportError),
        ("okx_derivatives", 200, b"<html>", TransportError),
    ],
)
def test_answers_that_are_errors_say_what_to_do(venue: str, status: int, body: bytes, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught:
        VENUES[venue].rest.check(status, body)
    assert type(caught.value) is kind
    VENUES[venue].rest.check(200, b'{"code":"0","data":[]}' if venue.startswith("okx") else b'{"symbols":[]}')


def test_instruments_of_recorded_metadata_have_canonical_names_and_units(recordings: Path) -> None:
    from marketprism_ray.recording import read_lines

    found: dict[str, Instrument] = {}
    for name, venue in (("binance_spot.rest.jsonl.gz", "binance_spot"), ("okx_v5.rest.jsonl.gz", "okx_derivatives")):
        for _, line in read_lines(recordings / name):
            if "exchangeInfo" in line.url or "instruments" in line.url:
                found |= {i.symbol_name: i for i in VENUES[venue].decode_instruments(line.raw.encode())}
    assert found["BTC-USDT"].venue_symbol in ("BTCUSDT", "BTC-USDT")
    linear, inverse = found["BTC-USDT-SWAP"], found["BTC-USD-SWAP"]
    assert (linear.contract_size, linear.contract_unit, linear.quantity_unit) == ("0.01", "base", "contract")
    assert (inverse.contract_size, inverse.contract_unit, inverse.settle) == ("100", "quote", "BTC")
    options = [i for i in found.values() if i.market_type == "option"]
    assert options
    assert all(i.symbol_name == i.venue_symbol for i in options)
    assert all(i.symbol_name == i.venue_symbol for i in found.values() if i.market_type == "futures")


def test_the_24_h_ticker_of_coin_m_comes_four_times_as_often_as_that_of_usd_m() -> None:
    found = {name: VENUES[name].channel("ticker").spacing_s for name in ("binance_derivatives", "binance_coinm")}
    assert found == {"binance_derivatives": 2.0, "binance_coinm": 0.5}
