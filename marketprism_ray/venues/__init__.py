"""The registry: one line per venue. Everything else in the project finds venues here."""

from __future__ import annotations

from marketprism_ray.venue import Venue
from marketprism_ray.venues import binance, binance_futures, deribit, okx

VENUES: dict[str, Venue] = {
    venue.name: venue
    for venue in (
        binance.SPOT,
        binance_futures.DERIVATIVES,
        binance_futures.COINM,
        okx.SPOT,
        okx.DERIVATIVES,
        deribit.DERIVATIVES,
    )
}
