"""Shared fixtures: streams of made-up instruments, small enough to read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from marketprism_ray.instruments import Instrument

# A deadline is a statement about the machine, not about the code: a busy one breaks it. The suite tries the same
# examples each time, so that a failure is about the change; HYPOTHESIS_PROFILE=explore (`make explore`) has new ones.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))

RECORDINGS = Path(__file__).resolve().parents[2] / "shared" / "recordings"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Folder of recorded messages; tests that need it skip where it is not."""
    if not (RECORDINGS / "expected.json").exists():
        pytest.skip("no recordings at ../shared/recordings")
    return RECORDINGS


def instrument(**changes: object) -> Instrument:
    """Make a spot instrument."""
    fields: dict[str, object] = {
        "exchange_name": "binance_spot",
        "market_type": "spot",
        "symbol_name": "BTC-USDT",
        "venue_symbol": "BTCUSDT",
        "base": "BTC",
        "quote": "USDT",
        "settle": "USDT",
        "quantity_unit": "base",
    }
    return Instrument(**{**fields, **changes})  # type: ignore[arg-type]
