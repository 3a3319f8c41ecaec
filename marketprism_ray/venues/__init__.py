"""The registry: one line per venue. Everything else in the project finds venues here."""

from __future__ import annotations

from marketprism_ray.venue import Venue
from marketprism_ray.venues import binance, okx

VENUES: dict[str, Venue] = {
    venue.name: venue
    for venue in (
        binance.SPOT,
        okx.SPOT,
        okx.DERIVATIVES,
    )
}
