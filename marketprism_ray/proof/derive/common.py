"""What the derivations share: exact arithmetic, names of instruments, and the form of an expected row.

A row is a mapping of columns to plain values: numbers are ``Decimal``, times ns since the epoch, levels pairs of price
and quantity in base. ``RECEIVED`` stands for a time that the venue does not say: the row must carry its own
``receive_timestamp``. ``ANY`` stands for what nothing is promised about.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any, Literal

MS = 1_000_000
SECOND = 1_000_000_000
RECEIVED = "the time of receipt"
ANY = "anything"
OPEN_ENDED = (RECEIVED, ANY)

_WIDE = Context(prec=100, rounding=ROUND_HALF_EVEN)
_DIGIT = Decimal("1e-18")

Row = dict[str, Any]
Kind = Literal["event", "state", "history", "delta", "snapshot"]


@dataclass(frozen=True)
class Contract:
    """An instrument as its venue lists it.

    Parameters
    ----------
    unit : what the venue counts: ``base``, ``contract`` or ``quote``
    size : units of ``size_in`` that one of the venue's units stands for
    """

    venue: str
    native: str
    symbol: str
    market_type: str
    base: str
    quote: str
    settle: str
    unit: str = "base"
    size: Decimal = Decimal(1)
    size_in: str = "base"
    tick: Decimal | None = None
    lot: Decimal | None = None
    expiry: int | None = None
    strike: Decimal | None = None
    option_type: str | None = None
    status: str = "live"

    def row(self) -> Row:
        """Give the row that describes it."""
        return {
            "venue_symbol": self.native,
            "base": self.base,
            "quote": self.quote,
            "settle": self.settle,
            "quantity_unit": self.unit,
            "contract_size": self.size,
            "contract_unit": self.size_in,
            "tick_size": self.tick,
            "lot_size": self.lot,
            "expiry": self.expiry,
            "strike": self.strike,
            "option_type": self.option_type,
            "status": self.status,
            "timestamp": RECEIVED,
        }

    def amounts(self, quantity: Decimal | None, price: Decimal | None) -> tuple[Decimal | None, Decimal | None]:
        """Give a quantity of the venue's in base and in quote.

        Linear: base = quantity x size, quote = base x price. Inverse: quote = quantity x size, base = quote / price.
        """
        if quantity is None:
            return None, None
        amount = _WIDE.multiply(quantity, self.size)
        if self.size_in == "quote":
            return (over(amount, price), exact(amount))
        return exact(amount), times(amount, price)

    def in_base(self, quantity: Decimal | None, price: Decimal | None) -> Decimal | None:
        """Give a quantity of the venue's in base."""
        return self.amounts(quantity, price)[0]

    def levels(self, levels: list[tuple[Decimal, Decimal]]) -> tuple[tuple[Decimal, Decimal], ...]:
        """Give levels with quantities in base; 0 stays 0."""
        return tuple((price, self.in_base(quantity, price) or Decimal(0)) for price, quantity in levels)


@dataclass(frozen=True)
class Expected:
    """A row that must be, or may be, in the store and on the stream.

    Parameters
    ----------
    kind : ``event`` is a row for ever; ``state`` replaces the one of the same key before it; ``history`` may be asked
        for when something is missing, and must be as said if it is there; ``delta`` and ``snapshot`` belong to a book
    """

    data_type: str
    contract: Contract
    source: str
    row: Row
    kind: Kind = "event"
    channel: str = ""
    """Which of several streams of the type: a candle's interval."""


def named(
    base: str,
    quote: str,
    market_type: str,
    *,
    expiry: int | None = None,
    strike: Decimal | None = None,
    option: str | None = None,
) -> str:
    """Give the canonical name: ``BTC-USDT``, ``-SWAP``, ``-YYMMDD`` (of the UTC day of expiry), ``-STRIKE-C``."""
    if market_type == "spot":
        return f"{base}-{quote}"
    if market_type == "perpetual":
        return f"{base}-{quote}-SWAP"
    assert expiry is not None
    day = datetime.fromtimestamp(expiry / SECOND, UTC).strftime("%y%m%d")
    if market_type == "futures":
        return f"{base}-{quote}-{day}"
    assert strike is not None
    return f"{base}-{quote}-{day}-{strike.normalize():f}-{option}"


def number(value: Any) -> Decimal | None:
    """Read a number, from text or as JSON has it; None where the venue says nothing (null, no text)."""
    if value is None or value == "":
        return None
    return value if isinstance(value, Decimal) else Decimal(str(value))


def sure(value: Any) -> Decimal:
    """Read a number that must be there."""
    found = number(value)
    assert found is not None
    return found


def exact(value: Decimal | None) -> Decimal | None:
    """Round half-even at 18 digits after the point, where there are more."""
    if value is None:
        return None
    exponent = value.as_tuple().exponent
    return value.quantize(_DIGIT, context=_WIDE) if isinstance(exponent, int) and exponent < -18 else value


def times(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    """Multiply, half-even at 18 digits."""
    return None if left is None or right is None else exact(_WIDE.multiply(left, right))


def over(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    """Divide, half-even at 18 digits; None where there is nothing to divide by."""
    if left is None or not right:
        return None
    return _WIDE.divide(left, right).quantize(_DIGIT, context=_WIDE)


def minus(left: Decimal | None, right: Decimal | None) -> Decimal | None:
    """Subtract."""
    return None if left is None or right is None else _WIDE.subtract(left, right)


def percent(value: Decimal | None) -> Decimal | None:
    """Make percent points a fraction."""
    return None if value is None else exact(value.scaleb(-2, context=_WIDE))


def pairs(levels: list[list[Any]]) -> list[tuple[Decimal, Decimal]]:
    """Read levels: price and quantity come first, whatever follows."""
    return [(sure(level[0]), sure(level[1])) for level in levels]


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def end_of(open_time: int, interval: str) -> int:
    """Give the end of a candle; a month ends with the month."""
    count, unit = int(interval[:-1]), interval[-1]
    if unit != "M":
        return open_time + count * _UNITS[unit] * SECOND
    start = datetime.fromtimestamp(open_time / SECOND, UTC)
    month = start.month - 1 + count
    end = start.replace(year=start.year + month // 12, month=month % 12 + 1)
    return int(end.timestamp()) * SECOND


def trade_row(
    contract: Contract,
    *,
    time_ms: Any,
    identity: Any,
    sequence: Any,
    price: Decimal,
    quantity: Decimal,
    taker_sold: bool,
    count: int | None = None,
) -> Row:
    """Give the row of a trade."""
    base, quote = contract.amounts(quantity, price)
    return {
        "timestamp": int(time_ms) * MS,
        "trade_id": str(identity),
        "sequence": int(sequence),
        "price": price,
        "quantity": base,
        "quote_quantity": quote,
        "side": "sell" if taker_sold else "buy",
        "is_buyer_maker": taker_sold,
        "trade_count": count,
        "raw_quantity": None if contract.unit == "base" else quantity,
        "quantity_unit": contract.unit,
    }
