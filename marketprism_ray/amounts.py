"""Exact conversions of single values, for records of low-rate data types. Columns are converted in ``units.py``.

Values are decimal text in and out. ``None`` and empty text mean that the venue did not say, and stay None.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from marketprism_ray import records
from marketprism_ray.errors import FrameError
from marketprism_ray.instruments import Instrument
from marketprism_ray.records import Source
from marketprism_ray.venue import WireLevel

_EXACT = Context(prec=120, rounding=ROUND_HALF_EVEN)
_UNIT = Decimal(1).scaleb(-18)
_CLOSED_CANDLE = 1 << 62


def plain(value: Decimal) -> str:
    """Write a decimal without exponent, its digits as they are."""
    return format(value, "f")


def rounded(value: Decimal) -> str:
    """Write a decimal, half-even at 18 digits after the point if it has more."""
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -18:
        value = value.quantize(_UNIT, context=_EXACT)
    return plain(value)


def given(text: str | None) -> str | None:
    """Turn the empty text, which some venues send for a missing value, into None."""
    return text or None


def figure(value: Decimal | None) -> str | None:
    """Write a figure that the venue computed and sent as a binary float: half-even at 18 digits, or null."""
    return None if value is None else rounded(value)


def number(value: Decimal | None) -> str | None:
    """Write a number that the venue sent as a JSON number, or null."""
    return None if value is None else plain(value)


def percent(text: str | None) -> str | None:
    """Turn percent points into a fraction: ``0.132`` is 0.00132."""
    return plain(Decimal(text).scaleb(-2, context=_EXACT)) if text else None


def multiplied(left: str | None, right: str | None) -> str | None:
    """Multiply, half-even at 18 digits."""
    return rounded(_EXACT.multiply(Decimal(left), Decimal(right))) if left and right else None


def difference(left: str | None, right: str | None) -> str | None:
    """Subtract, exactly."""
    return plain(_EXACT.subtract(Decimal(left), Decimal(right))) if left and right else None


def quotient(left: str | None, right: str | None) -> str | None:
    """Divide, half-even at 18 digits; None if the divisor is 0."""
    if not left or not right or not Decimal(right):
        return None
    return rounded(_EXACT.divide(Decimal(left), Decimal(right)).quantize(_UNIT, context=_EXACT).normalize(_EXACT))


def shares(long_short_ratio: str) -> tuple[str | None, str | None]:
    """Give the shares of longs and shorts, fractions, of a ratio of longs per short."""
    ratio = Decimal(long_short_ratio)
    if ratio < 0 or not ratio.is_finite():
        raise FrameError(f"a long/short ratio of {long_short_ratio} is none")
    whole = plain(ratio + 1)
    return quotient(long_short_ratio, whole), quotient("1", whole)


def base_and_quote(instrument: Instrument, quantity: str | None, price: str | None) -> tuple[str | None, str | None]:
    """Convert a venue's quantity.

    Parameters
    ----------
    quantity : in the venue's unit of this instrument
    price : quote per base; needed for base of inverse and for quote of linear contracts

    Returns
    -------
    tuple
        Quantity in base and in quote; None where the price is needed and missing.
    """
    if not quantity:
        return None, None
    amount = _EXACT.multiply(Decimal(quantity), Decimal(instrument.contract_size))
    if instrument.is_inverse:
        return quotient(plain(amount), price), rounded(amount)
    return rounded(amount), multiplied(plain(amount), price)


def to_base(instrument: Instrument, quantity: str | None, price: str | None) -> str | None:
    """Give a venue's quantity in base."""
    return base_and_quote(instrument, quantity, price)[0]


def common(instrument: Instrument, time: int, received: int, source: Source = "stream") -> dict[str, Any]:
    """Give the fields that every record of an instrument has; times in ns."""
    return {
        "exchange_name": instrument.exchange_name,
        "market_type": instrument.market_type,
        "symbol_name": instrument.symbol_name,
        "timestamp": time,
        "receive_timestamp": received,
        "source": source,
    }


def candle_revision(source: Source, *, is_closed: bool, order: int) -> int:
    """Give the revision of a candle: a closed one is after every open one, among those the venue's order decides.

    Two copies of a closed candle say the same; that of the stream, which knows when it happened, is preferred.

    Parameters
    ----------
    order : the venue's time of an open candle, or `volume_order` of it; 0 to 2^62 - 1
    """
    if is_closed:
        return _CLOSED_CANDLE + (source == "stream")
    if not 0 <= order < _CLOSED_CANDLE:
        raise FrameError(f"order {order} of an open candle is out of range")
    return order


def volume_order(volume: str) -> int:
    """Give a number that grows with the volume: within one candle it only grows, so it orders what the venue sent.

    For venues that do not say when they sent a candle. The bits of a double that is not negative sort as it does.
    """
    value = float(volume)
    if not 0 <= value < float("inf"):
        raise FrameError(f"a volume of {volume} is none")
    return int(struct.unpack("<q", struct.pack("<d", value))[0]) >> 1


def trade(
    instrument: Instrument,
    received: int,
    source: Source,
    *,
    time: int,
    sequence: int,
    price: str,
    quantity: str,
    is_buyer_maker: bool,
    trade_id: str | None = None,
    count: int | None = None,
) -> records.Trade:
    """Make a trade record of a venue's figures; the hot path makes columns instead (``batching.py``)."""
    base, quote = base_and_quote(instrument, quantity, price)
    if base is None or Decimal(base) <= 0 or Decimal(price) <= 0:
        raise FrameError(f"price {price!r} or quantity {quantity!r} is not positive")
    return records.Trade(
        **common(instrument, time, received, source),
        trade_id=str(sequence) if trade_id is None else trade_id,
        sequence=sequence,
        price=price,
        quantity=base,
        quote_quantity=quote,
        side="sell" if is_buyer_maker else "buy",
        is_buyer_maker=is_buyer_maker,
        trade_count=count,
        raw_quantity=None if instrument.is_base else quantity,
        quantity_unit=instrument.quantity_unit,
    )


def window(
    instrument: Instrument,
    received: int,
    *,
    time: int,
    last_update_id: int,
    bids: Sequence[WireLevel],
    asks: Sequence[WireLevel],
    depth: int,
) -> records.OrderBook:
    """Make a book record of a channel that sends its best levels whole each time."""

    def side(levels: Sequence[WireLevel]) -> list[records.Level]:
        return [records.Level(level.price, to_base(instrument, level.quantity, level.price) or "0") for level in levels]

    return records.OrderBook(
        **common(instrument, time, received),
        last_update_id=last_update_id,
        bids=side(bids),
        asks=side(asks),
        depth=depth,
    )


def instrument_record(instrument: Instrument, received: int) -> records.InstrumentRecord:
    """Make the record that describes an instrument."""
    return records.InstrumentRecord(
        **common(instrument, received, received, "poll"),
        venue_symbol=instrument.venue_symbol,
        base=instrument.base,
        quote=instrument.quote,
        settle=instrument.settle,
        quantity_unit=instrument.quantity_unit,
        contract_size=instrument.contract_size,
        contract_unit=instrument.contract_unit,
        tick_size=instrument.tick_size,
        lot_size=instrument.lot_size,
        expiry=instrument.expiry,
        strike=instrument.strike,
        option_type=instrument.option_type,
        status=instrument.status,
    )
