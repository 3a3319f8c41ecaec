"""Spreads of a dated contract and its perpetual: their trades appear twice, on the spread and on each leg."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any
from zlib import crc32

from marketprism_ray.simulator.deribit.listed import Listed
from marketprism_ray.simulator.deribit.text import Raw
from marketprism_ray.simulator.market import TradeEvent, plain


class Combo:
    """A spread, and the trades in it.

    Parameters
    ----------
    dated, perpetual : its legs
    number : tells it apart in trade ids
    """

    def __init__(self, dated: Listed, perpetual: Listed, number: int) -> None:
        self.name = combo_name(dated)
        self.legs = dated, perpetual
        self.number = number
        self.trades: list[tuple[TradeEvent, TradeEvent]] = []

    @property
    def currency(self) -> str:
        """The currency that it is settled in."""
        return self.legs[0].currency

    def places(self) -> list[str]:
        """Give what stands in the names of the channels of its trades."""
        groups = [f"{kind}.{currency}" for kind in ("future_combo", "any") for currency in (self.currency, "any")]
        return [self.name, *groups]

    def trade_id(self, place: int) -> str:
        """Give the id of a trade by its place."""
        return f"41{place + 1:09d}{self.number}"

    def row(self, place: int, leg_row: Callable[[Listed, TradeEvent], str]) -> Raw:
        """Write a trade by its place, with its legs."""
        events = self.trades[place]
        first, second = events
        spread = plain(Decimal(first.price) - Decimal(second.price))
        legs = ",".join(leg_row(one, event) for one, event in zip(self.legs, events, strict=True))
        return Raw(
            f'{{"trade_seq":{place + 1},"trade_id":"{self.trade_id(place)}","timestamp":{first.time_ms},'
            f'"tick_direction":0,"price":{spread},"mark_price":{spread},"instrument_name":"{self.name}",'
            f'"index_price":{second.price},"direction":"{"sell" if first.taker_sold else "buy"}",'
            f'"amount":{first.quantity},"combo_trade_id":"{self.trade_id(place)}","legs":[{legs}]}}'
        )

    def instrument(self, like: Mapping[str, Any]) -> dict[str, Any]:
        """Give its row of ``get_instruments``, from that of the dated leg."""
        named = {"instrument_name": self.name, "instrument_id": crc32(self.name.encode()) % 10**6}
        return {**like, **named, "kind": "future_combo"}


def combo_name(dated: Listed) -> str:
    """Give the name of the spread of a dated contract and its perpetual: ``BTC-FS-25DEC26_PERP``."""
    base, _, day = dated.name.partition("-")
    return f"{base}-FS-{day}_PERP"
