from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import numpy as np
import pyarrow as pa
import pytest
from conftest import instrument
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.schemas import DECIMAL
from marketprism_ray.units import divide, multiply, to_base

POSITIVE = st.decimals(min_value="0.00000001", max_value="99999999999", places=8).map(lambda d: format(d, "f"))

FACTOR = st.decimals(min_value="0.00000001", max_value="9999999999", places=12).map(lambda d: format(d, "f"))


def column(*texts: str) -> pa.Array:
    return pa.array(texts, pa.string()).cast(DECIMAL)


def half_even(value: Decimal) -> Decimal:
    return value.quantize(Decimal(1).scaleb(-18), rounding=ROUND_HALF_EVEN)


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=20))
def test_divide_is_the_exact_quotient_rounded_half_even(pairs: list[tuple[str, str]]) -> None:
    found = divide(column(*(a for a, _ in pairs)), column(*(b for _, b in pairs))).to_pylist()
    with localcontext(prec=120):
        assert found == [half_even(Decimal(a) / Decimal(b)) for a, b in pairs]


def test_divide_decides_ties_exactly() -> None:
    assert divide(column("0.000000000000000001"), column("2")).to_pylist() == [Decimal(0)]
    assert divide(column("0.000000000000000003"), column("2")).to_pylist() == [Decimal("2E-18")]


def test_divide_by_zero_is_an_error() -> None:
    with pytest.raises(pa.ArrowInvalid):
        divide(column("1"), column("0"))


@given(st.lists(st.tuples(FACTOR, FACTOR), min_size=1, max_size=20))
def test_multiply_is_the_exact_product_rounded_half_even(pairs: list[tuple[str, str]]) -> None:
    found = multiply(column(*(a for a, _ in pairs)), column(*(b for _, b in pairs))).to_pylist()
    with localcontext(prec=120):
        assert found == [half_even(Decimal(a) * Decimal(b)) for a, b in pairs]


def test_products_beyond_128_bits_before_scaling_are_exact_and_what_does_not_fit_is_an_error() -> None:
    assert multiply(column("0.00000004"), column("11529215046.0277074")).to_pylist() == [Decimal("461.168601841108296")]
    assert divide(column("9000000000"), column("0.00000001")).to_pylist() == [Decimal("900000000000000000")]
    with pytest.raises(pa.ArrowInvalid):
        multiply(column("99999999999"), column("99999999999"))


def test_mixed_instruments_are_converted_each_by_its_own_rule() -> None:
    linear = instrument(quantity_unit="contract", contract_size="0.01")
    inverse = instrument(quantity_unit="contract", contract_size="100", contract_unit="quote")
    spot = instrument()
    base, quote = to_base(
        column("12.5", "3", "2", "7"),
        column("50000", "50000", "50000", "40000"),
        [linear, inverse, spot],
        np.array([0, 1, 2, 1]),
    )
    assert base.to_pylist() == [Decimal("0.125"), Decimal("0.006"), Decimal(2), Decimal("0.0175")]
    assert quote.to_pylist() == [Decimal(6250), Decimal(300), Decimal(100000), Decimal(700)]


def test_a_linear_quantity_that_needs_more_than_18_digits_is_an_error() -> None:
    tiny = instrument(quantity_unit="contract", contract_size="0.0000000001")
    with pytest.raises(pa.ArrowInvalid):
        to_base(column("0.0000000001"), column("1"), [tiny], np.array([0]))
