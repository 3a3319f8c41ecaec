from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketprism_ray.book import Book
from marketprism_ray.errors import BookError
from marketprism_ray.venue import WireLevel

PRICES = st.integers(1, 60).map(lambda n: f"{n / 10:.1f}")
QUANTITIES = st.sampled_from(["0", "0.000", "1", "2.50", "3"])
LEVELS = st.lists(st.builds(WireLevel, PRICES, QUANTITIES), max_size=12)


def levels(*pairs: tuple[str, str]) -> list[WireLevel]:
    return [WireLevel(price, quantity) for price, quantity in pairs]


@given(st.lists(st.tuples(LEVELS, LEVELS), max_size=20))
def test_book_equals_a_plain_dict_after_any_changes(changes: list[tuple[list[WireLevel], list[WireLevel]]]) -> None:
    book = Book()
    sides: tuple[dict[float, str], dict[float, str]] = ({}, {})
    for bids, asks in changes:
        crossed = book.apply(bids, asks)
        for side, new in zip(sides, (bids, asks), strict=True):
            for level in new:
                side[float(level.price)] = level.quantity
                if not float(level.quantity):
                    del side[float(level.price)]
        assert crossed == (bool(sides[0] and sides[1]) and max(sides[0]) >= min(sides[1]))
    bids, asks = book.levels()
    assert [(float(x.price), x.quantity) for x in bids] == sorted(sides[0].items(), reverse=True)
    assert [(float(x.price), x.quantity) for x in asks] == sorted(sides[1].items())
    assert book.top(3) == (bids[:3], asks[:3])
    assert book.best() == (bids[0] if bids else None, asks[0] if asks else None)


def test_text_of_prices_and_quantities_is_kept() -> None:
    book = Book()
    book.apply(levels(("91250.10000000", "1.20400000")), levels(("91250.12000000", "0.33100000")))
    bid, ask = book.best()
    assert bid == WireLevel("91250.10000000", "1.20400000")
    assert ask == WireLevel("91250.12000000", "0.33100000")


@pytest.mark.parametrize("price", ["nan", "inf", "-1", "0", "1e400", "", "abc"])
def test_absurd_prices_are_refused(price: str) -> None:
    with pytest.raises(BookError):
        Book().apply(levels((price, "1")), [])


@pytest.mark.parametrize("quantity", ["nan", "inf", "-1", "1e400", "", "abc"])
def test_absurd_quantities_are_refused(quantity: str) -> None:
    with pytest.raises(BookError):
        Book().apply([], levels(("1", quantity)))


def test_far_levels_beyond_the_bound_are_dropped_and_near_ones_stay() -> None:
    book = Book(keep=100)
    book.apply(levels(*((str(n), "1") for n in range(1, 200))), [])
    bids, _ = book.levels()
    assert len(bids) == 100
    assert [bids[0].price, bids[-1].price] == ["199", "100"]
    assert book.pruned == 99


def test_deleting_an_unknown_level_is_counted_and_harmless() -> None:
    book = Book()
    book.apply(levels(("5", "0")), levels(("6", "1"), ("7", "0")))
    assert book.unknown_deletes == 2
    assert len(book) == 1
