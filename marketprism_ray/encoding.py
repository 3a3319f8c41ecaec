"""Arrow batches to JSON rows, message ids and NATS subjects: whole columns at a time.

Numbers become plain JSON numbers of the same value, times RFC 3339 with nanoseconds, missing values null. No Python
runs per row but to hand the texts over.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from marketprism_ray.records import RECORDS
from marketprism_ray.schemas import DECIMAL, LEVELS, TIME, message_key, sorting_key

_NULL = pa.scalar("null", pa.string())


def data_type_of(batch: pa.RecordBatch) -> str:
    """Read the data type off a batch's schema."""
    return str((batch.schema.metadata or {})[b"data_type"].decode())


def json_rows(batch: pa.RecordBatch) -> pa.Array:
    """Encode each row as a JSON object.

    Returns
    -------
    pyarrow.Array
        large_string, shape (n,).
    """
    parts: list[Any] = []
    for i, field in enumerate(batch.schema):
        parts.append(f'{"{" if i == 0 else ","}"{field.name}":')
        parts.append(pc.fill_null(_json_column(batch.column(i), field.type), _NULL))
    return pc.binary_join_element_wise(*parts, "}", "")


def _json_column(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if kind == DECIMAL:
        return number_text(column)
    if kind == TIME:
        return pc.binary_join_element_wise('"', time_text(column), '"', "")
    if kind == LEVELS:
        return _json_levels(column)
    if kind == pa.bool_():
        return pc.if_else(column, "true", "false")
    if kind == pa.int64():
        return column.cast(pa.string())
    return _json_strings(column)


def number_text(column: pa.Array) -> pa.Array:
    """Write decimals in full, without trailing zeros and without exponent."""
    text = column.cast(pa.string())
    trimmed = pc.ascii_rtrim(pc.ascii_rtrim(text, "0"), ".")
    # Arrow writes small values with an exponent, where trailing zeros are part of the number.
    exponent = pc.fill_null(pc.match_substring(text, "E"), False)
    if not pc.any(exponent).as_py():
        return trimmed
    values = trimmed.to_pylist()
    for i in pc.indices_nonzero(exponent).to_pylist():
        value = column[i].as_py()
        values[i] = format(value.normalize(), "f") if value else "0"
    return pa.array(values, pa.string())


def time_text(column: pa.Array) -> pa.Array:
    """Write times as RFC 3339 in UTC with nanoseconds."""
    text = column.cast(pa.timestamp("ns")).cast(pa.string())
    return pc.binary_join_element_wise(pc.utf8_replace_slice(text, 10, 11, "T"), "Z", "")


def _json_levels(column: pa.Array) -> pa.Array:
    flat = column.flatten()
    levels = pc.binary_join_element_wise(
        '{"price":', number_text(flat.field(0)), ',"quantity":', number_text(flat.field(1)), "}", ""
    )
    offsets = pc.subtract(column.offsets, column.offsets[0])
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, levels), ",")
    return pc.binary_join_element_wise("[", joined, "]", "")


def _json_strings(column: pa.Array) -> pa.Array:
    special = pc.any(pc.match_substring_regex(column, '["\\\\\\x00-\\x1f]')).as_py()
    if special:
        return pa.array(
            [None if v is None else json.dumps(v, ensure_ascii=False) for v in column.to_pylist()], pa.string()
        )
    return pc.binary_join_element_wise('"', column, '"', "")


def message_ids(batch: pa.RecordBatch) -> pa.Array:
    """Give the identity of each message as text, for ``Nats-Msg-Id``: repeats of one have the same."""
    data_type = data_type_of(batch)
    parts = [_key_text(batch.column(name)) for name in message_key(data_type)]
    if RECORDS[data_type].asked_is_updated:
        parts.append(pc.if_else(_is_streamed(batch), "streamed", "asked"))
    return pc.binary_join_element_wise(data_type, *parts, ":")


def natural_keys(batch: pa.RecordBatch) -> pa.Array:
    """Give the natural key of each row as text: what ClickHouse sorts by, and what readers know a row by."""
    data_type = data_type_of(batch)
    parts = []
    for name in sorting_key(data_type):
        column = batch.column(name)
        if name == "digest" and RECORDS[data_type].asked_is_updated:
            column = pc.if_else(_is_streamed(batch), column, 0)
        parts.append(_key_text(column))
    return pc.binary_join_element_wise(data_type, *parts, ":")


def _is_streamed(batch: pa.RecordBatch) -> pa.Array:
    return pc.equal(batch.column("source"), "stream")


def _key_text(column: pa.Array) -> pa.Array:
    if column.type == TIME:
        column = column.cast(pa.int64())
    return pc.fill_null(column if column.type == pa.string() else column.cast(pa.string()), "-")


def subjects(batch: pa.RecordBatch, preset: str = "default") -> pa.Array:
    """Give the NATS subject of each row.

    Parameters
    ----------
    preset : ``default``: ``trades-data.<venue>.perpetual.BTC-USDT-SWAP``;
        ``market``: ``market.<house>.btc_usdt_swap.trade`` and ``market.liquidation.<house>``; those of candles end
        with the interval in both
    """
    data_type = data_type_of(batch)
    venue = batch.column("exchange_name")
    if preset == "market":
        house = pc.list_element(pc.split_pattern(venue, "_", max_splits=1), 0)
        if data_type == "liquidation":
            return pc.binary_join_element_wise("market", "liquidation", house, ".")
        symbol = pc.replace_substring(
            pc.replace_substring(pc.utf8_lower(batch.column("symbol_name")), "-", "_"), ".", "_"
        )
        words = ["market", house, symbol, data_type]
        if data_type == "kline":
            words.append(batch.column("interval"))
        return pc.binary_join_element_wise(*words, ".")
    symbol = pc.replace_substring(batch.column("symbol_name"), ".", "_")
    parts = [RECORDS[data_type].kind, venue, batch.column("market_type"), symbol]
    if data_type == "kline":
        parts.append(batch.column("interval"))
    return pc.binary_join_element_wise(*parts, ".")


def subject_of(data_type: str, exchange_name: str, market_type: str, symbol_name: str, preset: str = "default") -> str:
    """Give the subject of one stream's rows."""
    row = {"exchange_name": [exchange_name], "market_type": [market_type], "symbol_name": [symbol_name]}
    schema = pa.schema([(name, pa.string()) for name in row], metadata={"data_type": data_type})
    return str(subjects(pa.RecordBatch.from_pydict(row, schema=schema), preset)[0].as_py())


def nanoseconds(text: str) -> int:
    """Read what `time_text` writes: ns since the epoch."""
    return int(pa.scalar(text.removesuffix("Z")).cast(pa.timestamp("ns")).value)


def decode_json(payload: bytes) -> dict[str, Any]:
    """Decode a row with exact numbers."""
    decoded: dict[str, Any] = json.loads(payload, parse_float=Decimal)
    return decoded
