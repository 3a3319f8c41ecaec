from __future__ import annotations

import json
from decimal import Decimal

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.encoding import decode_json, json_rows, message_ids, number_text, subjects
from marketprism_ray.records import RECORDS, Gap, Kline, Level, OrderBook, Record, Trade
from marketprism_ray.schemas import DECIMAL, batch_from_records

FITS = st.decimals(min_value=Decimal("-9e19"), max_value=Decimal("9e19"), places=18)
COMMON = {
    "exchange_name": "okx_derivatives",
    "market_type": "perpetual",
    "symbol_name": "BTC-USDT-SWAP",
    "timestamp": 1_795_132_800_117_000_001,
    "receive_timestamp": 1_795_132_800_118_000_000,
    "source": "stream",
}


def trade(**changes: object) -> Trade:
    fields: dict[str, object] = {
        **COMMON,
        "trade_id": "7",
        "sequence": 7,
        "price": "91249.90",
        "quantity": "0.125",
        "quote_quantity": None,
        "side": "sell",
        "is_buyer_maker": True,
        "trade_count": None,
        "raw_quantity": "12.5",
        "quantity_unit": "contract",
    }
    return Trade(**{**fields, **changes})  # type: ignore[arg-type]


def rows(*records: Record) -> list[str]:
    found: list[str] = json_rows(batch_from_records(records)).to_pylist()
    return found


@given(st.lists(FITS, min_size=1))
def test_every_number_that_fits_comes_back_from_json_exactly(values: list[Decimal]) -> None:
    column = pa.array([format(v, "f") for v in values], pa.string()).cast(DECIMAL)
    texts = number_text(column).to_pylist()
    assert [Decimal(t) for t in texts] == values
    assert all(json.loads(t, parse_float=Decimal, parse_int=Decimal) == v for t, v in zip(texts, values, strict=True))


@pytest.mark.parametrize(
    ("text", "written"),
    [("0.00250000", "0.0025"), ("100", "100"), ("0", "0"), ("0.000000000000000001", "0.000000000000000001"),
     ("0.00000010", "0.0000001"), ("-1.50", "-1.5")],
)  # fmt: skip
def test_numbers_are_written_plainly(text: str, written: str) -> None:
    assert number_text(pa.array([text]).cast(DECIMAL)).to_pylist() == [written]


def test_a_trade_as_json() -> None:
    assert rows(trade()) == [
        '{"exchange_name":"okx_derivatives","market_type":"perpetual","symbol_name":"BTC-USDT-SWAP",'
        '"timestamp":"2026-11-20T00:00:00.117000001Z","receive_timestamp":"2026-11-20T00:00:00.118000000Z",'
        '"source":"stream","trade_id":"7","sequence":7,"price":91249.9,"quantity":0.125,"quote_quantity":null,'
        '"side":"sell","is_buyer_maker":true,"trade_count":null,"raw_quantity":12.5,"quantity_unit":"contract"}'
    ]


def test_levels_are_lists_of_price_and_quantity_also_in_a_slice() -> None:
    books = [
        OrderBook(**COMMON, last_update_id=n, bids=[Level("1.10", "2")] * n, asks=[], depth=400)  # type: ignore[arg-type]
        for n in range(4)
    ]
    found = [decode_json(row.encode()) for row in json_rows(batch_from_records(books).slice(1)).to_pylist()]
    assert [len(row["bids"]) for row in found] == [1, 2, 3]
    assert found[1]["bids"][1] == {"price": Decimal("1.1"), "quantity": 2}
    assert found[0]["asks"] == []


@given(st.text())
def test_any_text_survives(text: str) -> None:
    if any("\ud800" <= c <= "\udfff" for c in text):
        return
    assert json.loads(rows(trade(trade_id=text))[0])["trade_id"] == text


def test_every_data_type_has_a_subject_of_the_stream() -> None:
    batch = batch_from_records([trade(symbol_name="XRP-USDC-261225-0.625-C")])
    assert subjects(batch).to_pylist() == ["trades-data.okx_derivatives.perpetual.XRP-USDC-261225-0_625-C"]
    assert subjects(batch_from_records([trade()]), "market").to_pylist() == ["market.okx.btc_usdt_swap.trade"]
    kinds = {record.kind for record in RECORDS.values()}
    assert len(kinds) == len(RECORDS)


def test_a_kline_has_its_interval_in_subject_and_message_id() -> None:
    kline = Kline(
        **COMMON,  # type: ignore[arg-type]
        interval="1m",
        open_time=1,
        close_time=2,
        open_price="1",
        high_price="1",
        low_price="1",
        close_price="1",
        volume="1",
        is_closed=False,
        revision=7,
    )
    batch = batch_from_records([kline])
    assert subjects(batch).to_pylist() == ["kline-data.okx_derivatives.perpetual.BTC-USDT-SWAP.1m"]
    assert subjects(batch, "market").to_pylist() == ["market.okx.btc_usdt_swap.kline.1m"]
    (identity,), (digest,) = message_ids(batch).to_pylist(), batch["digest"].to_pylist()
    assert identity == f"kline:okx_derivatives:BTC-USDT-SWAP:1m:1:{digest}"


def test_message_ids_differ_where_rows_differ_and_repeat_where_they_repeat() -> None:
    a, b = trade(), trade(trade_id="8", sequence=8)
    first, second, again = message_ids(batch_from_records([a, b, a])).to_pylist()
    assert first == again != second


def test_a_gap_that_closes_is_a_new_message_about_the_same_row() -> None:
    opened = Gap(**COMMON, data_type="trade", reason="sequence", opened_at=1)  # type: ignore[arg-type]
    closed = Gap(**COMMON, data_type="trade", reason="sequence", opened_at=1, status="repaired", revision=1)  # type: ignore[arg-type]
    first, second = message_ids(batch_from_records([opened, closed])).to_pylist()
    assert first != second
