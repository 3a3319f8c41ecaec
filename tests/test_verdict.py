"""The verdict by itself: derivations from venues' words, comparisons, books, gap rows. No sockets."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from marketprism_ray.proof.books import judge_chain, judge_published
from marketprism_ray.proof.compare import Comparison
from marketprism_ray.proof.derive import words_of
from marketprism_ray.proof.derive.common import Contract, Expected
from marketprism_ray.proof.findings import Findings
from marketprism_ray.proof.gaps import Gaps, judge_gaps
from marketprism_ray.proof.reading import Published, decoders, understood
from marketprism_ray.proof.truth import Said, truth_of
from marketprism_ray.proof.verdict import NOT_WHOLE, WHOLE, WHOLE_BUT_FOR_OPEN_GAPS, Verdict, _judge_messages
from marketprism_ray.schemas import fields_of

MS = 1_000_000
SPOT = Contract("binance_spot", "BTCUSDT", "BTC-USDT", "spot", "BTC", "USDT", "USDT")
COIN = Contract(
    *("binance_coinm", "BTCUSD_PERP", "BTC-USD-SWAP", "perpetual", "BTC", "USD", "BTC", "contract"),
    Decimal(100),
    "quote",
)


def trade(number: int) -> Said:
    event = {"e": "trade", "E": number, "s": "BTCUSDT", "t": number, "p": "100.5", "q": "2", "T": number, "m": True}
    (expected,) = words_of("binance_spot").frame("binance_spot", "btcusdt@trade", event, {"BTCUSDT": SPOT})
    return Said(expected, number * MS, number, 1)


def row_of(said: Said, **changes: Any) -> dict[str, Any]:
    contract, data_type = said.expected.contract, said.expected.data_type
    row = {field.name: said.row.get(field.name) for field in fields_of(data_type)}
    common = {"exchange_name": contract.venue, "symbol_name": contract.symbol, "market_type": contract.market_type}
    return row | common | {"receive_timestamp": said.time + 5, "source": said.expected.source} | changes


def compared(said: list[Said], rows: list[dict[str, Any]], gaps: Gaps | None = None) -> Findings:
    findings = Findings()
    gaps = gaps or Gaps([])
    Comparison("trade", "store", findings, 10**15, gaps.covered).compare(said, rows)
    return findings


def gap(**changes: Any) -> dict[str, Any]:
    row = {field.name: None for field in fields_of("gap")}
    common = {"exchange_name": "binance_spot", "symbol_name": "BTC-USDT", "data_type": "trade", "channel": ""}
    times = {"opened_at": 1 * MS, "closed_at": 4 * MS, "receive_timestamp": 10 * MS}
    return row | common | times | {"status": "open", "repaired_count": 0, "reason": "sequence"} | changes


def test_a_trade_becomes_what_the_documentation_says() -> None:
    said = trade(7)
    assert said.row == {
        "timestamp": 7 * MS,
        "trade_id": "7",
        "sequence": 7,
        "price": Decimal("100.5"),
        "quantity": Decimal(2),
        "quote_quantity": Decimal(201),
        "side": "sell",
        "is_buyer_maker": True,
        "trade_count": None,
        "raw_quantity": None,
        "quantity_unit": "base",
    }


def test_inverse_contracts_are_usd_over_price_half_even_at_18_digits() -> None:
    base, quote = COIN.amounts(Decimal(3), Decimal("91235.1"))
    assert quote == Decimal(300)
    assert base == Decimal("0.003288208156729154")
    assert COIN.levels([(Decimal(91235), Decimal(0))]) == ((Decimal(91235), Decimal(0)),)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        ({}, ""),
        ({"side": "buy"}, "altered"),
        ({"timestamp": 3_600_000 * MS}, "altered"),
        ({"price": Decimal("100.50000001")}, "altered"),
        ({"market_type": "perpetual"}, "altered"),
        ({"trade_count": 1}, "altered"),
        ({"source": "poll"}, "altered"),
        ({"receive_timestamp": -(10**13)}, "altered"),
        ({"trade_id": "99", "sequence": 99}, "invented"),
        ({"symbol_name": "ETH-USDT"}, "invented"),
    ],
)
def test_every_field_of_a_row_counts(change: dict[str, Any], count: str) -> None:
    said = [trade(1), trade(2)]
    findings = compared(said, [row_of(said[0]), row_of(said[1], **change)])
    found = {name for name in ("altered", "invented") if findings.total(name)}
    assert found == ({count} if count else set()), findings.problems


def test_missing_and_doubled_rows_are_counted() -> None:
    said = [trade(1), trade(2), trade(3)]
    findings = compared(said, [row_of(said[0]), row_of(said[0]), row_of(said[2])])
    assert (findings.total("missing"), findings.total("doubled")) == (1, 1)


def test_a_gap_row_of_a_channel_claims_nothing_of_another_that_has_the_same_data_type() -> None:
    event = {"e": "bookTicker", "u": 9, "s": "BTCUSD_PERP", "b": "1", "B": "1", "a": "2", "A": "1", "T": 2, "E": 2}
    (expected,) = words_of("binance_coinm").frame(
        "binance_coinm", "btcusd_perp@bookTicker", event, {"BTCUSD_PERP": COIN}
    )
    said = Said(expected, 2 * MS, 0, 1)
    place = {"exchange_name": "binance_coinm", "symbol_name": "BTC-USD-SWAP", "data_type": "ticker"}
    assert not Gaps([gap(**place, channel="ticker")]).about("ticker", said)
    assert Gaps([gap(**place, channel="bookTicker")]).about("ticker", said)


def test_a_candle_lies_in_a_gap_by_its_open_time_whenever_it_was_said() -> None:
    minute = 60_000
    k = {"t": minute, "T": 2 * minute - 1, "s": "BTCUSDT", "i": "1m", "n": 1, "x": False}
    k |= dict.fromkeys("ohlcvqVQ", "1")
    event = {"e": "kline", "E": 2 * minute + 5, "s": "BTCUSDT", "k": k}
    (expected,) = words_of("binance_spot").frame("binance_spot", "btcusdt@kline_1m", event, {"BTCUSDT": SPOT})
    said = Said(expected, 9 * minute * MS, 0, 1)
    bounds = {"data_type": "kline", "channel": "1m", "opened_at": 0, "closed_at": 2 * minute * MS}
    assert Gaps([gap(**bounds)]).about("kline", said)
    later = {"opened_at": 2 * minute * MS, "closed_at": 20 * minute * MS}
    assert not Gaps([gap(**(bounds | later))]).about("kline", said)


def test_a_gap_row_accounts_for_what_it_claims_and_no_more() -> None:
    said = [trade(number) for number in range(1, 6)]
    rows = [row_of(said[0]), row_of(said[4])]
    gaps = Gaps([gap(first_missing=2, last_missing=3, missing_count=2)])
    findings = compared(said, rows, gaps)
    assert (findings.total("waiting"), findings.total("missing")) == (2, 1)


@pytest.mark.parametrize(
    ("row", "untrue"),
    [
        (gap(first_missing=2, last_missing=3, missing_count=2), False),
        (gap(first_missing=2, last_missing=4, missing_count=3), True),
        (gap(first_missing=1, last_missing=1, missing_count=1), True),
        (gap(first_missing=50, last_missing=60, missing_count=11), True),
        (gap(first_missing=2, last_missing=3, missing_count=2, repaired_count=2, status="repaired"), True),
        (gap(first_missing=4, last_missing=5, missing_count=2, repaired_count=2, status="repaired"), False),
        (gap(first_missing=2, last_missing=3, missing_count=2, status="unrepairable"), True),
    ],
)
def test_gap_rows_that_claim_too_much_or_too_little_are_untrue(row: dict[str, Any], untrue: bool) -> None:
    said = [trade(number) for number in range(1, 6)]
    found = {id(said[0]), id(said[3]), id(said[4])}
    findings = Findings()
    judge_gaps(Gaps([row]), {"trade": said}, found, 10**15, findings)
    assert bool(findings.untrue_gaps) == untrue, findings.problems


@pytest.mark.parametrize(("status", "counts"), [("repaired", True), ("unrepairable", False)])
def test_a_repair_that_ends_after_the_market_is_counted_and_silence_after_it_is_not(status: str, counts: bool) -> None:
    said = [trade(number) for number in range(1, 6)]
    row = gap(first_missing=4, last_missing=5, missing_count=2, repaired_count=2, status=status)
    gaps = Gaps([row | {"receive_timestamp": 60 * MS}])
    judge_gaps(gaps, {"trade": said}, {id(one) for one in said}, 50 * MS, Findings())
    assert (gaps.after == []) == counts


def candle(order: int, heard: int) -> Said:
    k = {"t": 0, "T": 59_999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": order, "o": "1", "c": "1", "h": "1", "l": "1"}
    k |= {"v": str(order), "n": order, "x": False, "q": "1", "V": "1", "Q": "1", "B": "0"}
    event = {"e": "kline", "E": order, "s": "BTCUSDT", "k": k}
    (expected,) = words_of("binance_spot").frame("binance_spot", "btcusdt@kline_1m", event, {"BTCUSDT": SPOT})
    return Said(expected, order * MS, order, heard, "" if heard else "unheard")


@pytest.mark.parametrize(("until_s", "heard", "missing"), [(30, 0, 0), (30, 1, 1), (90, 0, 1)])
def test_the_last_word_on_a_candle_is_not_missed_before_it_is_over(until_s: int, heard: int, missing: int) -> None:
    said = [candle(1, 1), candle(2, heard)]
    findings = Findings()
    Comparison("kline", "store", findings, until_s * 1000 * MS, Gaps([]).covered).compare(said, [row_of(said[0])])
    assert findings.total("missing") == missing, findings.problems


def delta(first: int, last: int, previous: int | None, bids: Any, *, snapshot: bool = False) -> Said:
    row = {
        "timestamp": last * MS,
        "first_update_id": first,
        "last_update_id": last,
        "previous_update_id": -1 if snapshot else previous,
        "is_snapshot": snapshot,
        "bids": tuple((Decimal(p), Decimal(q)) for p, q in bids),
        "asks": (),
    }
    return Said(
        Expected("orderbook_delta", SPOT, "stream", row, "snapshot" if snapshot else "delta"), last * MS, last, 1
    )


BOOK = [
    delta(10, 10, None, [(5, 1), (4, 1)], snapshot=True),
    delta(9, 12, None, [(5, 0)]),
    delta(13, 14, None, [(6, 2)]),
]


@pytest.mark.parametrize(
    ("at", "bids", "right"),
    [
        (10, [(5, 1), (4, 1)], 1),
        (12, [(4, 1)], 1),
        (14, [(6, 2), (4, 1)], 1),
        (14, [(4, 1), (6, 2)], 0),
        (14, [(6, 2), (5, 1), (4, 1)], 0),
        (13, [(6, 2), (4, 1)], 0),
    ],
)
def test_a_published_book_is_the_venues_own_of_the_same_update(at: int, bids: Any, right: int) -> None:
    levels = tuple((Decimal(p), Decimal(q)) for p, q in bids)
    common = {"exchange_name": "binance_spot", "symbol_name": "BTC-USDT"}
    row = common | {"last_update_id": at, "timestamp": at * MS, "bids": levels, "asks": (), "depth": 400}
    findings = Findings()
    assert judge_published(BOOK, {"store": [row]}, findings) == {"store": right}
    assert findings.total("altered") + findings.total("invented") == 1 - right


def test_a_change_that_continues_no_stored_row_is_altered() -> None:
    rows = [row_of(one) for one in BOOK]
    rows[1]["previous_update_id"], rows[2]["previous_update_id"] = 10, 12
    findings = Findings()
    judge_chain(BOOK, rows, "store", findings)
    assert findings.total("altered") == 0
    rows[2]["previous_update_id"] = 11
    judge_chain(BOOK, rows, "store", findings)
    assert findings.total("altered") == 1


def test_messages_are_read_strictly() -> None:
    said = trade(1)
    fields = row_of(
        said, timestamp="2026-01-01T00:00:00.000000001Z", receive_timestamp="2026-01-01T00:00:00.000000002Z"
    )
    text = json.dumps(fields, default=float).encode()
    subject = "trades-data.binance_spot.spot.BTC-USDT"
    row = decoders()["trade"](text)
    assert (row["receive_timestamp"] - row["timestamp"], row["price"]) == (1, Decimal("100.5"))
    found = understood(
        [
            (subject, "a", text),
            (subject, "a", text),
            (subject.replace("spot.BTC", "spot.ETH"), "b", text),
            (subject, "c", text.replace(b"000000001Z", b"000001Z")),
            (subject, "d", text.replace(b'"side"', b'"sid"')),
        ]
    )
    assert (len(found.repeated), len(found.misfiled), len(found.bad)) == (1, 1, 2)


def test_the_ledger_is_read_in_its_order_and_holes_are_counted() -> None:
    info = {
        "symbols": [
            {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "filters": []},
        ]
    }
    answer = {"time": 1, "venue": "binance_spot", "path": "/api/v3/exchangeInfo", "query": "", "request": ""}
    event = {"e": "trade", "s": "BTCUSDT", "p": "100.5", "q": "2", "m": True}
    frames = [
        {
            "time": 2 + number,
            "venue": "binance_spot",
            "key": "btcusdt@trade",
            "text": json.dumps({**event, "t": number, "T": number}),
            "socket": 0,
            "sent": sent,
            "eaten": "" if sent else "drop",
        }
        for number, sent in enumerate((1, 0, 0, 1, 0))
    ]
    truth = truth_of(frames, [answer | {"status": 200, "body": json.dumps(info)}])
    assert [said.row["sequence"] for said in truth.said["trade"]] == [0, 1, 2, 3, 4]
    assert (truth.injected, truth.frames) == (2, 5)


def test_exit_codes_and_last_words() -> None:
    whole = Verdict(trades_emitted=1)
    assert (whole.exit_code, whole.in_words()[-1]) == (WHOLE, "The data is whole.")
    waiting = Verdict(trades_emitted=1, gaps_open=1, missing_accounted=7)
    assert waiting.exit_code == WHOLE_BUT_FOR_OPEN_GAPS
    assert "open gaps (7 rows)" in waiting.in_words()[-1]
    lost = Verdict(trades_emitted=1, lost_accounted=2, types={"ticker": {"emitted": 5, "lost": 2}})
    assert lost.exit_code == WHOLE
    assert "2 ticker rows were pushed while nobody could listen" in lost.in_words()[-1]
    for name in ("missing", "stream_missing", "duplicated", "stream_duplicated", "wrong", "invented", "untrue_gaps"):
        assert Verdict(trades_emitted=1, **{name: 1}).exit_code == NOT_WHOLE
    assert Verdict(trades_emitted=1, problems=["drill: kill x: not done"]).exit_code == NOT_WHOLE
    assert Verdict().exit_code == NOT_WHOLE, "nothing was emitted: nothing is proved"


@pytest.mark.parametrize(("written", "untrue"), [(99, 1), (101, 0)])
def test_only_gap_rows_written_before_the_market_stopped_must_be_the_same_in_both_sinks(
    written: int, untrue: int
) -> None:
    place = {"exchange_name": "a", "symbol_name": "b", "data_type": "trade", "channel": ""}
    row = {**place, "opened_at": 1, "first_missing": 2, "receive_timestamp": 50, "revision": 1, "status": "open"}
    messages, findings = Published(), Findings()
    messages.rows["gap"] = [row, row | {"receive_timestamp": written, "revision": 2, "status": "repaired"}]
    _judge_messages(messages, {"gap": [row]}, 100, findings)
    assert findings.untrue_gaps == untrue
