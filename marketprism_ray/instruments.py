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
from collections.abc import Collection, Iterable, Iterator, Mapping
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

    def is_traded(self, now: int) -> bool:
        """Tell whether it is live and not expired at a time (ns)."""
        return self.status == "live" and not self.has_expired(now)

    def has_expired(self, now: int) -> bool:
        """Tell whether its delivery was before a time (ns)."""
        return self.expiry is not None and self.expiry <= now

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

    def of_pattern(self, pattern: str, now: int, keep: Collection[str] = ()) -> list[Instrument]:
        """Give the instruments that are traded now and whose canonical name matches a shell pattern.

        Parameters
        ----------
        now : ns; what has expired by then is left out, whatever the venue still says
        keep : canonical symbols collected now: while they are listed and have not expired they are only halted
        """
        matching = [self._by_symbol[symbol] for symbol in fnmatch.filter(self._by_symbol, pattern)]
        return [i for i in matching if i.is_traded(now) or (i.symbol_name in keep and not i.has_expired(now))]

    def halted(self, symbols: Iterable[str], now: int) -> dict[str, str]:
        """Give those of the symbols that are listed and not traded now, with the venue's word for it."""
        found = {symbol: self._by_symbol[symbol] for symbol in symbols if symbol in self._by_symbol}
        return {symbol: i.status for symbol, i in found.items() if not i.is_traded(now) and not i.has_expired(now)}

    def find(self, name: str) -> Instrument | None:
        """Find by canonical or venue symbol."""
        return self._by_symbol.get(name) or self._by_venue_symbol.get(name)

    def resolve(
        self,
        patterns: Iterable[str],
        now: int,
        volumes: Mapping[str, float] | None = None,
        keep: Collection[str] = (),
    ) -> tuple[list[Instrument], list[str]]:
        """Expand names and patterns to instruments.

        Parameters
        ----------
        patterns : canonical names, venue names, shell patterns over canonical names (``*-USDT``), or the most traded:
            ``top:50``, or among a pattern ``top:50:*-USDT``
        now : ns
        volumes : venue symbol -> 24 h volume; needed for ``top:``
        keep : canonical symbols collected now: a halt does not end them, and they stay among the most traded while
            their rank is at most a fifth (and at least 2) beyond, so that neighbours at the border do not take turns

        Returns
        -------
        tuple
            The instruments, each once, and a line about each name or pattern that matches nothing, with the nearest
            names.
        """
        found: dict[str, Instrument] = {}
        problems = []
        for pattern in patterns:
            top = parse_top(pattern)
            if top is not None:
                count, among = top
                ranked = self.of_pattern(among, now, keep)
                ranked.sort(key=lambda i: (-(volumes or {}).get(i.venue_symbol, 0.0), i.symbol_name))
                kept = [i for i in ranked[: count + max(2, count // 5)] if i.symbol_name in keep][:count]
                others = [i for i in ranked if i not in kept]
                matches = kept + others[: count - len(kept)]
            elif any(c in pattern for c in "*?["):
                matches = self.of_pattern(pattern, now, keep)
            else:
                instrument = self.find(pattern)
                matches = [] if instrument is None else [instrument]
            if not matches:
                problems.append(self._unknown(pattern))
            found.update((instrument.symbol_name, instrument) for instrument in matches)
        return list(found.values()), problems

    def _unknown(self, pattern: str) -> str:
        known = list({**self._by_symbol, **self._by_venue_symbol})
        near = difflib.get_close_matches(pattern.upper(), known, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        return (
            f"exchanges.{self.venue}.symbols: {pattern!r} matches none of the {len(self)} instruments of "
            f"{self.venue}{hint}"
        )


def parse_top(pattern: str) -> tuple[int, str] | None:
    """Take ``top:50`` or ``top:50:*-USDT`` apart: (how many, among which); None for anything else.

    Raises
    ------
    ConfigError
        If it begins like one and is none.
    """
    if not pattern.startswith("top:"):
        return None
    count, _, among = pattern.removeprefix("top:").partition(":")
    if not count.isdigit() or not int(count):
        raise ConfigError(f"symbols: {pattern!r}: give top:N or top:N:PATTERN, for example top:50:*-USDT")
    return int(count), among or "*"
