"""Exact text to the buffers of Arrow columns. In Python there is no faster way than Arrow's own, so they are None.

``_hot.pyx`` has them compiled; ``hot.py`` gives whichever there is. Of text that is not plain (``digits`` or
``digits.digits``) or does not fit, the compiled ones give None as well: Arrow then decides, and words the error.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from marketprism_ray.venue import WireLevel


def number_text(raw: msgspec.Raw) -> str:
    """Give the text of a JSON number, without exponent. What is no number is not told from one.

    Raises
    ------
    ValueError
        If it has an exponent and is no number, or is not ASCII.
    """
    text = str(raw, "ascii")
    if "e" not in text and "E" not in text:
        return text
    try:
        return format(Decimal(text), "f")
    except InvalidOperation as error:
        raise ValueError(f"{text!r} is no number") from error


def trade_columns(rows: list[Any], time_ns: int) -> tuple[bytes, bytes, bytes, bytes, bytes | None] | None:
    """Give the buffers of trades: sequence, time (ns), price, quantity, price times quantity.

    The numbers are ``int64``, then ``decimal128(38, 18)``. The product is None if it cannot be given exactly.
    """
    return None


def delta_columns(
    rows: list[tuple[int, Any, int]],
) -> tuple[bytes, bytes, bytes, bytes, bytes, list[list[WireLevel]], list[list[WireLevel]]] | None:
    """Give the buffers of book changes: time (ns), first, last and previous id, bits of snapshots; then bids and asks.

    Rows are (previous id, delta, nanoseconds of its time unit). The numbers are ``int64``.
    """
    return None


def level_columns(sides: list[list[WireLevel]]) -> tuple[bytes, bytes, bytes] | None:
    """Give the buffers of many sides: list offsets (``int32``), prices and quantities (``decimal128(38, 18)``)."""
    return None
