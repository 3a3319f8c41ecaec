"""How long a cold start takes: every book of many symbols live, from nothing, under the venue's request limits.

The simulated venue's limiter is on. Beside the measured time stands the theoretical minimum: the weight of one snapshot
a symbol, at the whole published limit, with a full window at the beginning. We use 80 % of a limit, so a quarter more
is expected. Not a single 429 is allowed.

    python benchmarks/cold_start.py --venue binance_derivatives --symbols 500
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import time
from typing import Any

from marketprism_ray.book_stream import BookStream
from marketprism_ray.config import validate
from marketprism_ray.logs import configure
from marketprism_ray.session import Session, Shard, find_instruments, make_rest
from marketprism_ray.simulator.process import SimulatorProcess
from marketprism_ray.venue import BookCodec
from marketprism_ray.venues import VENUES

DATA_TYPES = ("trade", "orderbook", "funding_rate", "open_interest", "lsr_top_position", "lsr_all_account")


def minimum_s(venue_name: str, symbols: int) -> float | None:
    """Give the least seconds in which so many snapshots can be had; None if the channel sends its own."""
    venue = VENUES[venue_name]
    codec = venue.channel("orderbook").codec
    assert isinstance(codec, BookCodec)
    if codec.pushes_snapshot or codec.snapshot is None:
        return None
    instrument: Any = type("Named", (), {"venue_symbol": "X"})()
    slowest = 0.0
    capacity = {budget.name: budget for budget in venue.rest.budgets}
    for name, weight in codec.snapshot(instrument, codec.depth).costs:
        windows = math.ceil(symbols * weight / capacity[name].capacity)
        slowest = max(slowest, (windows - 1) * capacity[name].period_s)
    return slowest


async def run(venue_name: str, symbols: int, rate: float, limit_s: float) -> dict[str, Any]:
    """Start and wait."""
    venue = VENUES[venue_name]
    with SimulatorProcess([venue_name], rate=rate, extra=symbols) as simulator:
        exchange = {
            "symbols": ["C*"],
            "data_types": [name for name in DATA_TYPES if name in venue.data_types],
            "endpoints": simulator.endpoints[venue_name],
            "orderbook": {"interval_s": 10},
        }
        config = validate({"exchanges": {venue_name: exchange}}, "cold start")
        rest = make_rest(venue, config.exchanges[venue_name], config)
        await rest.open()
        _, wanted, _ = await find_instruments(venue, rest, ["C*"])
        await rest.close()
        streams = tuple((t, i.symbol_name) for i in wanted for t in exchange["data_types"])  # type: ignore[attr-defined]
        session = Session(Shard(venue_name, venue_name, streams), config, share=0.5)
        session.rest.budget = make_rest(venue, config.exchanges[venue_name], config).budget
        begin = time.monotonic()
        await session.start()
        books = [stream for stream in session.streams if isinstance(stream, BookStream)]
        try:
            while (live := sum(book.sync.is_live for book in books)) < len(books):
                await asyncio.sleep(0.2)
                session.drain(force=True)
                if time.monotonic() - begin > limit_s:
                    break
            seconds = time.monotonic() - begin
            status = session.status()
        finally:
            await session.stop()
        return {
            "venue": venue_name,
            "symbols": len(wanted),
            "books_live": live,
            "seconds": round(seconds, 1),
            "theoretical_minimum_s": minimum_s(venue_name, len(wanted)),
            "requests": status["rest"]["requests"],  # type: ignore[index]
            "rate_limited_by_venue": simulator.ledger()["rate_limited"],
            "polled_rows": sum(poll["rows"] for poll in status["polls"].values()),  # type: ignore[attr-defined]
            "decode_errors": status["decode_errors"],
        }


def main() -> None:
    """Print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venue", default="binance_derivatives", choices=list(VENUES))
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--rate", type=float, default=500.0, help="market events a second")
    parser.add_argument("--limit", type=float, default=1800.0, help="give up after so many seconds")
    arguments = parser.parse_args()
    configure("error")
    print(json.dumps(asyncio.run(run(arguments.venue, arguments.symbols, arguments.rate, arguments.limit))))


if __name__ == "__main__":
    main()
