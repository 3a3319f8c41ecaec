"""Exact conversions between a venue's units and ours, on whole Arrow columns.

Linear contracts: base = quantity x contract size, exact or an error. Inverse contracts: base = quantity x contract size
/ price, rounded half-even at 18 digits. Nothing here loops over rows in Python, but for exact ties.
"""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Context, Decimal, localcontext

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from marketprism_ray.instruments import Instrument
from marketprism_ray.schemas import DECIMAL

_WIDE = pa.decimal256(37, 18)
_SCALED = pa.decimal256(57, 18)
_LIMIT = Decimal(10) ** 20
# Operands of the division: Arrow gives the quotient s1 + p2 - s2 + 1 = 43 digits after the point, truncated.
_DIVIDEND = pa.decimal256(43, 30)
_DIVISOR = pa.decimal256(30, 18)
_EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN)
_UNIT = Decimal(1).scaleb(-18)


def multiply(left: pa.Array, right: pa.Array | pa.Scalar) -> pa.Array:
    """Multiply two decimal columns, half-even at 18 digits.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a product does not fit ``decimal128(38, 18)``.
    """
    product = pc.multiply(pc.cast(left, _WIDE), pc.cast(right, _WIDE))
    try:
        return _narrow(product)
    except pa.ArrowInvalid:
        return _narrow(pc.round(product, 18, "half_to_even"))


def _narrow(wide: pa.Array) -> pa.Array:
    """Bring a 256-bit result to our type.

    Arrow (26.0) takes the low 128 bits first, then rescales and checks what is left of the number: so scale and check
    before.
    """
    scaled = pc.cast(wide, _SCALED)
    if len(scaled):
        bounds = pc.min_max(scaled).as_py()
        if any(bound is not None and abs(bound) >= _LIMIT for bound in bounds.values()):
            raise pa.ArrowInvalid(f"a value between {bounds['min']} and {bounds['max']} does not fit {DECIMAL}")
    return pc.cast(scaled, DECIMAL)


def multiply_exactly(left: pa.Array, right: pa.Scalar) -> pa.Array:
    """Multiply two decimal columns.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a product needs more than 18 digits after the point or does not fit.
    """
    return _narrow(pc.multiply(pc.cast(left, _WIDE), pc.cast(right, _WIDE)))


def divide(left: pa.Array, right: pa.Array) -> pa.Array:
    """Divide two decimal columns, half-even at 18 digits.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a divisor is 0, or a value is above the 12 integer digits this supports.
    """
    quotient = pc.divide(pc.cast(left, _DIVIDEND), pc.cast(right, _DIVISOR))
    rounded = pc.round(quotient, 18, "half_to_even")
    # What looks like a tie after truncation may be a little above one: decide those exactly.
    ties = pc.not_equal(pc.round(quotient, 18, "half_up"), pc.round(quotient, 18, "half_down"))
    result = _narrow(rounded)
    if not pc.any(ties).as_py():
        return result
    values = result.to_pylist()
    with localcontext(_EXACT):
        for at in np.flatnonzero(ties.to_numpy(zero_copy_only=False)):
            exact = left[int(at)].as_py() / right[int(at)].as_py()
            values[at] = exact.quantize(_UNIT, rounding=ROUND_HALF_EVEN)
    return pa.array(values, DECIMAL)


def to_base(
    raw: pa.Array, price: pa.Array, instruments: list[Instrument], index: npt.NDArray[np.int64]
) -> tuple[pa.Array, pa.Array]:
    """Convert a column of venue quantities.

    Parameters
    ----------
    raw : decimal128(38, 18), shape (n,), venue units
    price : decimal128(38, 18), shape (n,), quote per base
    instruments : the instruments that ``index`` points into
    index : int64, shape (n,), instrument of each row

    Returns
    -------
    tuple of pyarrow.Array
        Quantity in base and in quote, decimal128(38, 18), shape (n,).
    """
    rules = [(i.contract_unit, i.contract_size) for i in instruments]
    distinct = sorted(set(rules))
    if len(distinct) == 1:
        return _convert(raw, price, *distinct[0])
    rule_of = np.array([distinct.index(rule) for rule in rules], dtype=np.int64)[index]
    order: list[npt.NDArray[np.int64]] = []
    base_parts: list[pa.Array] = []
    quote_parts: list[pa.Array] = []
    for number, rule in enumerate(distinct):
        rows = np.flatnonzero(rule_of == number)
        if len(rows):
            take = pa.array(rows)
            base, quote = _convert(raw.take(take), price.take(take), *rule)
            order.append(rows)
            base_parts.append(base)
            quote_parts.append(quote)
    if not order:
        return raw, raw
    back = pa.array(np.argsort(np.concatenate(order), kind="stable"))
    return pa.concat_arrays(base_parts).take(back), pa.concat_arrays(quote_parts).take(back)


def _convert(raw: pa.Array, price: pa.Array, unit: str, size: str) -> tuple[pa.Array, pa.Array]:
    amount = raw if size == "1" else multiply_exactly(raw, pa.scalar(size).cast(DECIMAL))
    if unit == "base":
        return amount, multiply(price, amount)
    return divide(amount, price), amount
