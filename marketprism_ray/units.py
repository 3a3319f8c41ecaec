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
_SHORT, _SHORTER = pa.decimal128(19, 9), pa.decimal128(18, 9)
_SCALED = pa.decimal256(57, 18)
_LIMIT = Decimal(10) ** 20
_LAST_DIGIT = pa.scalar(Decimal(1).scaleb(-18), pa.decimal256(57, 18))
# Operands of the division: Arrow gives the quotient s1 + p2 - s2 + 1 = 43 digits after the point, truncated.
_DIVIDEND = pa.decimal256(43, 30)
_DIVISOR = pa.decimal256(30, 18)
_EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN)
_UNIT = Decimal(1).scaleb(-18)


def multiply(left: pa.Array, right: pa.Array | pa.Scalar) -> pa.Array:
    """Multiply two columns of positive decimals, half-even at 18 digits.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a product does not fit ``decimal128(38, 18)``.
    """
    try:
        # The usual case: at most 9 digits after the point each. The product has our type at once.
        return pc.multiply(pc.cast(left, _SHORT), pc.cast(right, _SHORTER))
    except pa.ArrowInvalid:
        return _round(pc.multiply(pc.cast(left, _WIDE), pc.cast(right, _WIDE)), left.type.scale * 2, exactly=False)


def multiply_exactly(left: pa.Array, right: pa.Scalar) -> pa.Array:
    """Multiply a column of positive decimals.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a product needs more than 18 digits after the point or does not fit.
    """
    try:
        return pc.multiply(pc.cast(left, _SHORT), pc.cast(right, _SHORTER))
    except pa.ArrowInvalid:
        return _round(pc.multiply(pc.cast(left, _WIDE), pc.cast(right, _WIDE)), left.type.scale * 2, exactly=True)


def divide(left: pa.Array, right: pa.Array) -> pa.Array:
    """Divide two columns of positive decimals, half-even at 18 digits.

    Raises
    ------
    pyarrow.ArrowInvalid
        If a divisor is 0, or a value is above the 12 integer digits this supports.
    """
    quotient = pc.divide(pc.cast(left, _DIVIDEND), pc.cast(right, _DIVISOR))
    result = _round(quotient, quotient.type.scale, exactly=False)
    # The quotient is truncated: what looks like a tie may be a little above one. Decide those exactly.
    ties = _ties(quotient, quotient.type.scale)
    if not ties.any():
        return result
    values = result.to_pylist()
    with localcontext(_EXACT):
        for at in np.flatnonzero(ties):
            exact = left[int(at)].as_py() / right[int(at)].as_py()
            values[at] = exact.quantize(_UNIT, rounding=ROUND_HALF_EVEN)
    return pa.array(values, DECIMAL)


def _split(wide: pa.Array, scale: int) -> tuple[pa.Array, pa.Array]:
    """Give the first 18 digits after the point, truncated, and what is left, at the full scale.

    Arrow (26.0) rescales 256-bit decimals wrongly when it divides by 10^18 at once, and its rounding does so too; in
    steps of 9 digits it is right.
    """
    truncated = wide
    for step in (*range(scale - 9, 18, -9), 18):
        truncated = pc.cast(truncated, pa.decimal256(min(76, 58 + step), step), safe=False)
    truncated = pc.cast(truncated, _SCALED)
    back = truncated
    for step in (*range(27, scale, 9), scale):
        back = pc.cast(back, pa.decimal256(min(75, 39 + step), step))
    return truncated, pc.subtract(pc.cast(wide, back.type), back)


def _half(scale: int) -> pa.Scalar:
    return pa.scalar(Decimal(5).scaleb(-19), pa.decimal256(75, scale))


def _ties(wide: pa.Array, scale: int) -> npt.NDArray[np.bool_]:
    _, rest = _split(wide, scale)
    return np.asarray(pc.equal(rest, _half(scale)).to_numpy(zero_copy_only=False), dtype=np.bool_)


def _round(wide: pa.Array, scale: int, *, exactly: bool) -> pa.Array:
    """Bring a 256-bit column of positive numbers to our type, half-even; with ``exactly`` nothing may be rounded."""
    if not len(wide):
        return pa.array([], DECIMAL)
    truncated, rest = _split(wide, scale)
    largest = pc.max(truncated).as_py()
    if largest is not None and largest >= _LIMIT:
        raise pa.ArrowInvalid(f"{largest} does not fit {DECIMAL}")
    result = pc.cast(truncated, DECIMAL)
    if not pc.any(pc.not_equal(rest, pa.scalar(Decimal(0), rest.type))).as_py():
        return result
    if exactly:
        raise pa.ArrowInvalid(f"a product needs more than 18 digits after the point: {pc.max(rest).as_py()} is left")
    half = _half(scale)
    low_words = np.frombuffer(result.buffers()[1], np.uint64)[2 * result.offset : 2 * (result.offset + len(result)) : 2]
    is_odd = pa.array((low_words & 1).astype(bool))
    up = pc.or_(pc.greater(rest, half), pc.and_(pc.equal(rest, half), is_odd))
    return pc.if_else(up, pc.cast(pc.add(truncated, _LAST_DIGIT), DECIMAL), result)


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
