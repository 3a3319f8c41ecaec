"""What is proven by what: the table in ``venues/README.md`` and in the README, counted anew.

``python tests/test_evidence.py`` writes it.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from marketprism_ray.config import validate
from marketprism_ray.session import Session, Shard, find_instruments, make_rest
from marketprism_ray.simulator.server import Simulator
from marketprism_ray.venues import VENUES

ROOT = Path(__file__).resolve().parents[1]
RECORDINGS = ROOT.parent / "shared" / "recordings"
PLACES = (ROOT / "marketprism_ray" / "venues" / "README.md", ROOT / "README.md")
MARKS = ("<!-- begin evidence -->\n", "<!-- end evidence -->")
CCXT: dict[str, set[str]] = {venue: {"trade", "orderbook", "ticker", "kline"} for venue in VENUES}
"""What ``ccxt`` reads from the simulated venues (``tests/test_ccxt.py``)."""
for _venue in ("binance_derivatives", "okx_derivatives"):
    CCXT[_venue] |= {"funding_rate", "open_interest"}
NO_FIXTURE_NEEDED = {"orderbook"}
"""Published states come from the changes that fixtures hold; the replay compares them with what is expected."""


def types_of(venue: str, channel: str) -> list[str]:
    """Give the data types that a channel of a recording holds."""
    value = VENUES[venue]
    found = [c.data_type for c in (*value.channels, *value.recorded_channels) if c.name == channel]
    return [*dict.fromkeys(found), *(["orderbook_delta"] if "orderbook" in found else [])]


def venue_of(stem: str, symbol: str) -> str:
    """Give the venue of a recorded symbol; one file holds both markets of a house where they share sockets."""
    candidates = [name for name, venue in VENUES.items() if venue.recording == stem]
    if len(candidates) == 1:
        return candidates[0]
    is_spot = symbol.count("-") == 1
    return next(name for name in candidates if ("spot" in VENUES[name].market_types) == is_spot)


def recorded() -> Counter[tuple[str, str]]:
    """Count recorded messages by venue and data type."""
    found: Counter[tuple[str, str]] = Counter()
    expected = json.loads((RECORDINGS / "expected.json").read_text())
    for name, file in expected.items():
        for segment in file.get("segments", ()):
            for symbol, channels in segment["symbols"].items():
                venue = venue_of(name.split(".")[0], symbol)
                for channel, figures in channels.items():
                    count = figures.get("count") or figures.get("deltas") or 0
                    count = count or figures.get("updates", figures.get("changes", 0)) + figures.get("snapshots", 0)
                    for data_type in types_of(venue, channel):
                        if data_type in ("funding_rate", "liquidation") and venue.startswith("deribit"):
                            continue  # the recorded tickers are of options, and no trades were recorded
                        found[venue, data_type] += count
    return found


def examples() -> Counter[tuple[str, str]]:
    """Count example messages by venue and data type."""
    found: Counter[tuple[str, str]] = Counter()
    for path in RECORDINGS.glob("*.examples.jsonl"):
        stem = path.name.split(".")[0]
        for line in path.read_text().splitlines():
            example = json.loads(line)
            if example["type"] in ("error", "heartbeat", "lsr_top_account"):
                continue
            match = re.search(r'"instId":"([^"]+)"', example["raw"])
            symbol = match[1] if match else "X-X-X"
            found[venue_of(stem, symbol), example["type"]] += 1
    return found


def fixtures() -> Counter[tuple[str, str]]:
    """Count the rows of fixtures, whose values were worked out by hand."""
    found: Counter[tuple[str, str]] = Counter()
    for venue in VENUES:
        for line in (ROOT / "tests" / "fixtures" / f"{venue}.jsonl").read_text().splitlines()[1:]:
            for record in json.loads(line)["records"]:
                found[venue, record["table"]] += 1
    return found


def table() -> str:
    """Write the table."""
    seen, shown, made = recorded(), examples(), fixtures()
    lines = [
        "| venue | data type | recorded | examples | fixture rows | simulated | independent client |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for venue, value in VENUES.items():
        for data_type in value.data_types:
            cells = [
                f"{counted[venue, data_type]:,}" if counted[venue, data_type] else "-"
                for counted in (seen, shown, made)
            ]
            client = "ccxt.pro" if data_type in CCXT.get(venue, ()) else "-"
            lines.append(f"| `{venue}` | {data_type} | {' | '.join(cells)} | yes | {client} |")
    return "\n".join(lines) + "\n"


def written(path: Path) -> str:
    text = path.read_text()
    begin, end = text.index(MARKS[0]) + len(MARKS[0]), text.index(MARKS[1])
    return text[begin:end]


@pytest.mark.parametrize("place", PLACES, ids=lambda path: path.parent.name)
def test_the_table_of_evidence_is_true(place: Path, recordings: Path) -> None:
    assert written(place) == table(), "run `make docs`"


def test_every_data_type_of_every_venue_has_a_worked_example() -> None:
    made = fixtures()
    missing = [
        (venue, data_type)
        for venue, value in VENUES.items()
        for data_type in value.data_types
        if not made[venue, data_type] and data_type not in NO_FIXTURE_NEEDED
    ]
    assert missing == []


@pytest.mark.parametrize("venue", list(VENUES))
async def test_every_data_type_flows_from_the_simulated_venue(venue: str) -> None:
    value = VENUES[venue]
    simulator = Simulator([venue], rate=600)
    await simulator.start()
    wanted = set(value.data_types) | {"instrument"}
    exchange = {"symbols": ["*"], "data_types": list(value.data_types), "endpoints": simulator.endpoints()[venue]}
    config = validate({"exchanges": {venue: exchange}}, "test")
    rest = make_rest(value, config.exchanges[venue], config)
    await rest.open()
    _, instruments, _ = await find_instruments(value, rest, ["*"])
    await rest.close()
    streams = tuple(
        (data_type, item.symbol_name)
        for item in instruments
        for data_type in value.data_types
        if data_type != "orderbook_delta"
    )
    session = Session(Shard(venue, venue, streams), config)
    found: Counter[str] = Counter()
    try:
        await session.start()
        async with asyncio.timeout(60):
            while set(found) < wanted:
                await asyncio.sleep(0.05)
                for batch in session.drain(force=True):
                    found[batch.data_type] += batch.data.num_rows
                    assert set(batch.data["exchange_name"].to_pylist()) == {venue}
        status: dict[str, Any] = session.status()
        assert set(found) == wanted
        assert (status["decode_errors"], status["rejected_rows"], status["trades_missing"]) == (0, 0, 0)
        assert status["refused"] == {}
        assert all(poll["failures"] == 0 and poll["rows"] > 0 for poll in status["polls"].values()), status["polls"]
        assert status["rest"]["rate_limited"] == 0
    finally:
        await session.stop()
        await simulator.stop()


if __name__ == "__main__":
    for path in PLACES:
        path.write_text(path.read_text().replace(written(path), table(), 1))
