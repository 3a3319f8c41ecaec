"""Arrow schemas, ClickHouse tables and the README table, derived from ``records.py``.

Nothing here is written twice: a field that is added to a record appears in all of these.
"""

from __future__ import annotations

import functools
import hashlib
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from marketprism_ray.records import RECORDS, Level, Record

DECIMAL = pa.decimal128(38, 18)
DECIMAL_BYTES = 16
TIME = pa.timestamp("ns", tz="UTC")
LEVELS = pa.list_(pa.struct([pa.field("price", DECIMAL, False), pa.field("quantity", DECIMAL, False)]))

DEDUP_WINDOW = 1000
"""Recent inserts whose deduplication tokens a table remembers."""

_LOW_CARDINALITY = {
    *("exchange_name", "market_type", "symbol_name", "source", "side", "quantity_unit", "interval", "period"),
    *("order_status", "index_name", "resolution", "underlying_index", "data_type", "channel", "reason", "status"),
    *("content", "collector", "base", "quote", "settle", "contract_unit", "option_type"),
}


@dataclass(frozen=True)
class Field:
    """One column: its name, Arrow type, whether it may be null, and what it means."""

    name: str
    arrow: pa.DataType
    nullable: bool
    description: str

    @property
    def clickhouse(self) -> str:
        """The ClickHouse type."""
        if self.arrow == DECIMAL:
            inner = "Decimal(38, 18)"
        elif self.arrow == TIME:
            inner = "DateTime64(9, 'UTC')"
        elif self.arrow == LEVELS:
            return "Array(Tuple(price Decimal(38, 18), quantity Decimal(38, 18)))"
        elif self.arrow == pa.bool_():
            inner = "Bool"
        elif self.arrow == pa.int64():
            inner = "Int64"
        else:
            inner = "String"
        if self.nullable:
            inner = f"Nullable({inner})"
        return f"LowCardinality({inner})" if self.name in _LOW_CARDINALITY else inner


def _strip(annotation: Any) -> tuple[Any, dict[str, Any], str, bool]:
    """Give plain type, extra metadata, description and nullability of an annotation."""
    extra: dict[str, Any] = {}
    description = ""
    nullable = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            inner, *metas = typing.get_args(annotation)
            for meta in metas:
                if isinstance(meta, msgspec.Meta):
                    extra = {**(meta.extra or {}), **extra}
                    description = description or (meta.description or "")
            annotation = inner
        elif origin in (types.UnionType, typing.Union):
            options = [option for option in typing.get_args(annotation) if option is not type(None)]
            nullable = True
            (annotation,) = options
        else:
            return annotation, extra, description, nullable


def _arrow_type(annotation: Any, extra: dict[str, Any]) -> pa.DataType:
    if extra.get("arrow") == "decimal":
        return DECIMAL
    if extra.get("arrow") == "time":
        return TIME
    if annotation is bool:
        return pa.bool_()
    if annotation is int:
        return pa.int64()
    if annotation is str or typing.get_origin(annotation) is Literal:
        return pa.string()
    if typing.get_origin(annotation) is list and typing.get_args(annotation) == (Level,):
        return LEVELS
    raise TypeError(f"records.py uses a type that has no column: {annotation!r}")


@functools.cache
def fields_of(data_type: str) -> tuple[Field, ...]:
    """Give the columns of a data type, in order."""
    hints = typing.get_type_hints(RECORDS[data_type], include_extras=True)
    found = []
    for name in RECORDS[data_type].__struct_fields__:
        annotation, extra, description, nullable = _strip(hints[name])
        found.append(Field(name, _arrow_type(annotation, extra), nullable, description))
    return tuple(found)


@functools.cache
def arrow_schema(data_type: str) -> pa.Schema:
    """Give the Arrow schema of a data type; its metadata names the data type."""
    columns = [pa.field(f.name, f.arrow, f.nullable) for f in fields_of(data_type)]
    return pa.schema(columns, metadata={"data_type": data_type})


def sorting_key(data_type: str) -> tuple[str, ...]:
    """Give the columns that identify a row: what repeats are recognised by."""
    return ("exchange_name", "symbol_name", *RECORDS[data_type].key)


def message_key(data_type: str) -> tuple[str, ...]:
    """Give the columns that identify a message on NATS."""
    record = RECORDS[data_type]
    return ("exchange_name", "symbol_name", *(record.message_key or record.key))


def order_by(data_type: str) -> list[str]:
    """Give the expressions that ClickHouse sorts by: rows for which they are equal are one row."""
    nullable = {f.name for f in fields_of(data_type) if f.nullable}
    found = []
    for name in sorting_key(data_type):
        if name == "digest" and RECORDS[data_type].asked_is_updated:
            found.append("if(source = 'stream', digest, 0)")
        else:
            found.append(f"ifNull({name}, -1)" if name in nullable else name)
    return found


def create_table(data_type: str, *, database: str, ttl_days: int | None) -> str:
    """Give the ``CREATE TABLE IF NOT EXISTS`` of a data type.

    Parameters
    ----------
    ttl_days : rows older than this, by event time, are dropped; None keeps them for ever
    """
    fields = fields_of(data_type)
    columns = ",\n  ".join(f"`{f.name}` {f.clickhouse} COMMENT {quote(f.description)}" for f in fields)
    ttl = ttl_of(data_type, ttl_days)
    return (
        f"CREATE TABLE IF NOT EXISTS `{database}`.`{data_type}` (\n  {columns}\n)\n"
        f"ENGINE = ReplacingMergeTree({RECORDS[data_type].version})\n"
        f"PARTITION BY toDate({RECORDS[data_type].partition})\n"
        f"ORDER BY ({', '.join(order_by(data_type))}){f'{chr(10)}TTL {ttl}' if ttl else ''}\n"
        f"SETTINGS non_replicated_deduplication_window = {DEDUP_WINDOW}"
    )


def ttl_of(data_type: str, days: int | None) -> str:
    """Give the expression after which rows are dropped; empty if they are kept for ever."""
    return f"toDateTime({RECORDS[data_type].partition}) + INTERVAL {int(days)} DAY" if days else ""


def quote(text: str) -> str:
    """Write a text as an SQL literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def batch_from_records(records: typing.Sequence[Record]) -> pa.RecordBatch:
    """Turn records of one data type into an Arrow batch.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a number does not fit ``decimal128(38, 18)``.
    """
    data_type = type(records[0]).table
    columns = {}
    for field in fields_of(data_type):
        values = [getattr(record, field.name) for record in records]
        columns[field.name] = _column(values, field.arrow)
    if "digest" in columns:
        columns["digest"] = digests(columns)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=arrow_schema(data_type))


def digests(columns: typing.Mapping[str, pa.Array]) -> pa.Array:
    """Give the digest of each row: the same for rows that say the same, whoever saw them and in whatever digits.

    Parameters
    ----------
    columns : of one data type; the fields that every record has, ``revision`` and ``digest`` do not count

    Returns
    -------
    pyarrow.Array
        int64, shape (n,), 0 to 2^48 - 1: plain JSON numbers hold them exactly.
    """
    said = [column.cast(pa.string()) for name, column in columns.items() if name not in _NOT_SAID]
    texts = pc.binary_join_element_wise(*said, "\x1f", null_handling="replace", null_replacement="\x00")
    return pa.array(
        [int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) for text in texts.to_pylist()],
        pa.int64(),
    )


def _column(values: list[Any], arrow: pa.DataType) -> pa.Array:
    if arrow == DECIMAL:
        return pa.array(values, pa.string()).cast(DECIMAL)
    if arrow == LEVELS:
        return levels_array(values)
    return pa.array(values, arrow)


def levels_array(sides: typing.Sequence[typing.Sequence[Any]]) -> pa.Array:
    """Turn lists of levels into one Arrow list array.

    Parameters
    ----------
    sides : objects with ``price`` and ``quantity`` as decimal text, one list a row
    """
    offsets = [0]
    flat: list[Any] = []
    for side in sides:
        flat += side
        offsets.append(len(flat))
    prices = pa.array([level.price for level in flat], pa.string()).cast(DECIMAL)
    quantities = pa.array([level.quantity for level in flat], pa.string()).cast(DECIMAL)
    return levels_from_columns(pa.array(offsets, pa.int32()), prices, quantities)


def decimal_array(buffer: bytes, size: int) -> pa.Array:
    """Give the column of a buffer of 128-bit numbers, little-endian, in units of 10^-18, shape (size,)."""
    return pa.Array.from_buffers(DECIMAL, size, [None, pa.py_buffer(buffer)])


def levels_from_columns(offsets: pa.Array, prices: pa.Array, quantities: pa.Array) -> pa.Array:
    """Put flat columns of prices and quantities under list offsets (int32, one more than rows)."""
    value_type = LEVELS.value_type
    values = pa.StructArray.from_arrays([prices, quantities], fields=[value_type.field(0), value_type.field(1)])
    return pa.ListArray.from_arrays(offsets, values, type=LEVELS)


def markdown_table(data_type: str) -> str:
    """Give the README table of a data type."""
    rows = [
        f"| `{f.name}` | `{f.clickhouse}` | {f.description} |" for f in fields_of(data_type) if f.name not in _COMMON
    ]
    return "\n".join(["| field | ClickHouse type | meaning |", "|---|---|---|", *rows])


_COMMON = Record.__struct_fields__
_NOT_SAID = {*_COMMON, "revision", "digest"}


def common_markdown_table() -> str:
    """Give the README table of the fields that every record has."""
    rows = [f"| `{f.name}` | `{f.clickhouse}` | {f.description} |" for f in fields_of("trade") if f.name in _COMMON]
    return "\n".join(["| field | ClickHouse type | meaning |", "|---|---|---|", *rows])
