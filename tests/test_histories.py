"""Each venue's histories, asked of the simulated venue: what is asked for comes, no more than that, page by page."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from marketprism_ray.bars import shortest
from marketprism_ray.config import Config
from marketprism_ray.records import Kline
from marketprism_ray.session import fetch_instruments, make_rest
from marketprism_ray.simulator.server import Simulator
from marketprism_ray.venues import VENUES

SECOND = 1_000_000_000
SYMBOLS = {
    "binance_spot": "BTC-USDT",
    "binance_derivatives": "BTC-USDT-SWAP",
    "binance_coinm": "BTC-USD-SWAP",
    "okx_spot": "BTC-USDT",
    "okx_derivatives": "BTC-USDT-SWAP",
    "deribit_derivatives": "BTC-USD-SWAP",
}


@pytest.mark.parametrize("name", list(VENUES))
async def test_every_history_gives_what_lies_between_two_times_and_nothing_else(name: str) -> None:
    venue = VENUES[name]
    simulator = Simulator([name], seed=3, rate=400)
    await simulator.start()
    rest = None
    try:
        while simulator.events < 800:  # noqa: ASYNC110 - there is no event for a number of events
            await asyncio.sleep(0.01)
        endpoint = simulator.endpoints()[name]["rest"]
        config = Config.model_validate(
            {"exchanges": {name: {"symbols": [SYMBOLS[name]], "endpoints": {"rest": endpoint}}}}
        )
        rest = make_rest(venue, config.exchanges[name], config)
        await rest.open()
        item = (await fetch_instruments(venue, rest))[SYMBOLS[name]]
        assert venue.histories
        for history in venue.histories:
            if not history.applies(item):
                continue
            rows = await _newest(history, item, rest)
            assert rows, history.data_type
            times = sorted(_time(row) for row in rows)
            # Asked once more between two of its own rows, it gives exactly those.
            low, high = times[max(0, len(times) - 3)], times[-1]
            again = await _ask(history, item, rest, low, high)
            assert sorted(_time(row) for row in again) == [at for at in times if low <= at <= high], history.data_type
            assert len(rows) <= history.page
    finally:
        if rest is not None:
            await rest.close()
        await simulator.stop()


def _time(row: Any) -> int:
    return row.open_time if isinstance(row, Kline) else row.timestamp


async def _newest(history: Any, item: Any, rest: Any) -> list[Any]:
    end = time.time_ns()
    interval = "1m" if history.data_type == "kline" else ""
    step = shortest(interval) if interval else int(history.step_s * SECOND)
    return await _ask(history, item, rest, end - min(history.page, 40) * step + 1, end)


async def _ask(history: Any, item: Any, rest: Any, first: int, last: int) -> list[Any]:
    interval = "1m" if history.data_type == "kline" else ""
    request = history.request(item, first, last, interval)
    answer = await rest.get(request)
    lookup = {item.venue_symbol: item}.get
    # Read later, so that a candle that was open when it was asked for counts as finished.
    later = answer.received + 120 * SECOND if interval else answer.received
    return list(history.answer.decode(answer.body, request.params, lookup, later))
