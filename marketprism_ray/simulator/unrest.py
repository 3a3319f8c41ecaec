"""What befalls instruments: halts, auctions, expiries, delistings, listings; on command or by a seeded plan.

Pure: randomness comes from the seed, time from the caller. A command is data, as ``POST /control/market`` takes it::

    {"action": "halt", "venue": "okx_spot", "symbol": "BTC-USDT"}
    {"action": "list", "venue": "okx_derivatives", "symbol": "BTC-USDT-291228", "expiry_ms": 1795132800000}

==========  ===========================================================================================================
``halt``    nothing happens to it until ``resume``; its state says so where the venue publishes one
``auction`` orders come in, none is filled, the book crosses, until ``resume``; where the venue shows such
``resume``  end of a halt or an auction
``expire``  it reaches its delivery now, and is on the list no more
``delist``  it is on the list no more
``list``    a made-up coin (``C000-USDT``, ...) or one that was delisted is listed; with ``expiry_ms`` (and ``symbol`` a
            dated contract that is listed) one like it with this delivery, which it then reaches by itself
==========  ===========================================================================================================
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from marketprism_ray.simulator.market import (
    AUCTION_VENUES,
    BookEvent,
    Listing,
    Market,
    TradeEvent,
    made_up,
    made_up_coin,
)

COINS = 1000
"""Made-up coins that can be listed."""
ACTIONS = ("halt", "auction", "resume", "expire", "delist", "list")


@dataclass(frozen=True)
class Command:
    """Something that befalls an instrument.

    Parameters
    ----------
    expiry_ms : delivery of what is listed, ms since the epoch; None if it has none
    """

    action: str
    venue: str
    symbol: str
    expiry_ms: int | None = None

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"action {self.action!r} is unknown; allowed: {', '.join(ACTIONS)}")


def dated(listing: Listing, expiry_ms: int) -> Listing:
    """Give a contract like another one, with another delivery."""
    if listing.expiry_ms is None:
        raise ValueError(f"{listing.symbol} has no delivery")
    old, new = (datetime.fromtimestamp(at // 1000, UTC) for at in (listing.expiry_ms, expiry_ms))

    def renamed(name: str) -> str:
        name = name.replace(f"{old:%y%m%d}", f"{new:%y%m%d}")
        return name.replace(f"{old.day}{old:%b%y}".upper(), f"{new.day}{new:%b%y}".upper())

    symbol, venue_symbol = renamed(listing.symbol), renamed(listing.venue_symbol)
    return replace(listing, symbol=symbol, venue_symbol=venue_symbol, expiry_ms=expiry_ms)


def carry_out(market: Market, command: Command, time_ms: int) -> list[TradeEvent | BookEvent]:
    """Let it befall the instrument; give what happens in the book at once.

    Raises
    ------
    ValueError
        If the venue has no such instrument, or no such thing befalls one there.
    """
    venue, symbol = command.venue, command.symbol
    if command.action == "resume":
        return market.resume(venue, symbol, time_ms)
    if command.action == "list":
        market.enter(_listing(market, command))
        return []
    if (venue, symbol) not in market.symbols:
        raise ValueError(f"no symbol {symbol!r} at {venue!r}")
    match command.action:
        case "halt":
            market.halt(venue, symbol)
        case "auction":
            market.auction(venue, symbol)
        case "expire" if market.symbols[venue, symbol].listing.expiry_ms is None:
            raise ValueError(f"{symbol} has no delivery")
        case _:
            market.leave(venue, symbol)
    return []


def _listing(market: Market, command: Command) -> Listing:
    venue, symbol = command.venue, command.symbol
    if command.expiry_ms is not None:
        like = market.symbols.get((venue, symbol))
        if like is None:
            raise ValueError(f"no symbol {symbol!r} at {venue!r} to list another one like it")
        found = dated(like.listing, command.expiry_ms)
    elif (venue, symbol) in market.gone:
        found = market.gone[venue, symbol].listing
    else:
        coins = {listing.symbol: listing for listing in made_up(venue, COINS)}
        if symbol not in coins:
            raise ValueError(f"{symbol!r} is no coin that can be made up at {venue!r}: C000 to C999")
        found = coins[symbol]
    if (venue, found.symbol) in market.symbols:
        raise ValueError(f"{found.symbol} is listed at {venue!r} already")
    return found


class Unrest:
    """A plan of what befalls instruments, drawn from a seed.

    Parameters
    ----------
    per_minute : how many halts, auctions, listings and delistings a minute; what follows from them is not counted
    """

    def __init__(self, market: Market, seed: int, per_minute: float) -> None:
        self._market = market
        self._random = random.Random(f"unrest/{seed}")
        self._every_ms = 60_000 / per_minute if per_minute else None
        self._next_ms: float | None = None
        self._later: list[tuple[float, Command]] = []

    def due(self, time_ms: int) -> list[Command]:
        """Give what befalls instruments now."""
        found = [command for at, command in self._later if at <= time_ms]
        self._later = [(at, command) for at, command in self._later if at > time_ms]
        if self._every_ms is None:
            return found
        if self._next_ms is None:
            self._next_ms = time_ms + self._random.expovariate(1 / self._every_ms)
        # What falls due now may befall what would be drawn.
        if time_ms >= self._next_ms and not found:
            self._next_ms = time_ms + self._random.expovariate(1 / self._every_ms)
            found += self._draw(time_ms)
        return [
            command
            for command in found
            if command.action == "list" or (command.venue, command.symbol) in self._market.symbols
        ]

    def _draw(self, time_ms: int) -> list[Command]:
        chance = self._random
        planned = {(command.venue, command.symbol) for _, command in self._later}
        listed = sorted(self._market.symbols.items())
        open_ones = [key for key, one in listed if one.state == "open" and key not in planned]
        if not open_ones:
            return []
        venue, symbol = chance.choice(open_ones)
        kind = chance.choice(("halt", "halt", "auction", "coin", "delivery"))
        dated_ones = [key for key in open_ones if self._market.symbols[key].listing.market_type == "futures"]
        if kind == "delivery" and dated_ones:
            venue, symbol = chance.choice(dated_ones)
            expiry_ms = time_ms + chance.randint(5_000, 20_000)
            # Names tell days, not hours: one delivery a day and contract.
            if (venue, dated(self._market.symbols[venue, symbol].listing, expiry_ms).symbol) in self._market.symbols:
                return []
            return [Command("list", venue, symbol, expiry_ms)]
        if kind == "coin":
            coin = made_up_coin(venue, chance.randrange(COINS)).symbol
            if (venue, coin) in self._market.symbols:
                return []
            self._later.append((time_ms + chance.randint(5_000, 20_000), Command("delist", venue, coin)))
            return [Command("list", venue, coin)]
        action = "auction" if kind == "auction" and venue in AUCTION_VENUES else "halt"
        self._later.append((time_ms + chance.randint(500, 4_000), Command("resume", venue, symbol)))
        return [Command(action, venue, symbol)]
