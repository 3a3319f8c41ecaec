"""Instruments and their canonical names.

Canonical grammar (built from a venue's metadata, never by cutting the venue's own text)::

    BASE-QUOTE                         spot          BTC-USDT
    BASE-QUOTE-SWAP                    perpetual     BTC-USDT-SWAP
    BASE-QUOTE-YYMMDD                  futures       BTC-USDT-261225
    BASE-QUOTE-YYMMDD-STRIKE-C|P       option        BTC-USD-261225-100000-C

This module decides names and units. It does not fetch anything.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Literal

import msgspec

from marketprism_ray.errors import ConfigError, VenueError

MarketType = Literal["spot", "perpetual", "futures", "option"]
QuantityUnit = Literal["base", "contract", "quote"]


class Instrument(msgspec.Struct, frozen=True, kw_only=True):
    """What is traded, and how the venue counts it.

    ``contract_size`` is the amount of ``contract_currency`` one unit of the venue's quantity stands for, as exact
    decimal text: ``1`` where the venue counts in base. ``contract_unit`` says what that currency is to the instrument:
    ``base`` (linear) or ``quote`` (inverse: base = quantity x contract_size / price).
    """

    exchange_name: str
    market_type: MarketType
    symbol_name: str
    venue_symbol: str
    base: str
    quote: str
    settle: str
    quantity_unit: QuantityUnit
    contract_size: str = "1"
    contract_unit: Literal["base", "quote"] = "base"
    tick_size: str | None = None
    lot_size: str | None = None
    expiry: int | None = None
    strike: str | None = None
    option_type: Literal["C", "P"] | None = None
    status: str = "live"

    @property
    def is_inverse(self) -> bool:
        """True when quantities are counted in quote currency."""
        return self.contract_unit == "quote"

    @property
    def is_base(self) -> bool:
        """True when the venue's quantity is already in base units."""
        return self.quantity_unit == "base"


def canonical_symbol(
    base: str,
    quote: str,
    market_type: MarketType,
    *,
    expiry: int | None = None,
    strike: str | None = None,
    option_type: str | None = None,
) -> str:
    """Build the canonical name.

    Parameters
    ----------
    expiry : ns since the epoch, UTC; its UTC date is used
    strike : plain decimal text

    Raises
    ------
    VenueError
        If a part that the market type needs is missing.
    """
    if not base or not quote:
        raise VenueError(f"cannot name a {market_type} instrument without base and quote: {base!r}, {quote!r}")
    if market_type == "spot":
        return f"{base}-{quote}"
    if market_type == "perpetual":
        return f"{base}-{quote}-SWAP"
    if expiry is None:
        raise VenueError(f"cannot name the {market_type} {base}-{quote} without an expiry")
    day = datetime.fromtimestamp(expiry // 1_000_000_000, UTC).strftime("%y%m%d")
    if market_type == "futures":
        return f"{base}-{quote}-{day}"
    if not strike or option_type not in ("C", "P"):
        raise VenueError(f"cannot name the option {base}-{quote}-{day} without strike and type C or P")
    return f"{base}-{quote}-{day}-{strike}-{option_type}"


class InstrumentTable:
    """The instruments of one venue, found by canonical or by venue symbol."""

    def __init__(self, venue: str, instruments: Iterable[Instrument]) -> None:
        self.venue = venue
        self._by_symbol: dict[str, Instrument] = {}
        self._by_venue_symbol: dict[str, Instrument] = {}
        for instrument in instruments:
            self._by_symbol[instrument.symbol_name] = instrument
            self._by_venue_symbol[instrument.venue_symbol] = instrument

    def __len__(self) -> int:
        return len(self._by_symbol)

    def __iter__(self) -> Iterator[Instrument]:
        return iter(self._by_symbol.values())

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._by_symbol

    def __getitem__(self, symbol: str) -> Instrument:
        return self._by_symbol[symbol]

    def of_venue_symbol(self, venue_symbol: str) -> Instrument | None:
        """Find by the venue's own text, exact case."""
        return self._by_venue_symbol.get(venue_symbol)

    def resolve(self, patterns: Iterable[str]) -> list[Instrument]:
        """Expand names and patterns to instruments.

        Parameters
        ----------
        patterns : canonical names, venue names, or shell patterns over canonical names (``*-USDT``)

        Raises
        ------
        ConfigError
            If a name matches nothing; names the nearest matches.
        """
        found: dict[str, Instrument] = {}
        for pattern in patterns:
            if pattern in self._by_symbol:
                found[pattern] = self._by_symbol[pattern]
            elif pattern in self._by_venue_symbol:
                instrument = self._by_venue_symbol[pattern]
                found[instrument.symbol_name] = instrument
            else:
                matches = fnmatch.filter(self._by_symbol, pattern) if any(c in pattern for c in "*?[") else []
                if not matches:
                    known = list({**self._by_symbol, **self._by_venue_symbol})
                    near = difflib.get_close_matches(pattern.upper(), known, n=3, cutoff=0.5)
                    hint = f"; nearest: {', '.join(near)}" if near else ""
                    raise ConfigError(
                        f"exchanges.{self.venue}.symbols: {pattern!r} matches none of the "
                        f"{len(self)} instruments of {self.venue}{hint}"
                    )
                for symbol in matches:
                    found[symbol] = self._by_symbol[symbol]
        return list(found.values())
