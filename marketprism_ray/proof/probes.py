"""What an ordinary reader sees while a proof runs: how late trades come on the stream, how old the store is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from marketprism_ray.errors import MarketPrismError
from marketprism_ray.query import Store
from marketprism_ray.sinks.clickhouse import ClickHouseSettings
from marketprism_ray.sinks.nats import NatsSettings, connect

FRESHNESS_S = 1.0
NEWEST = (
    "SELECT toUnixTimestamp64Nano(max(timestamp)) AS at FROM trade "
    "WHERE timestamp > now64(9) - INTERVAL 1 MINUTE SETTINGS final = 0"
)


class Latency(threading.Thread):
    """Subscribes trades like any consumer and notes how old they are on arrival."""

    def __init__(self, settings: NatsSettings) -> None:
        super().__init__(daemon=True)
        self.samples: deque[float] = deque(maxlen=200_000)
        self.count = 0
        self._settings = settings
        self._ended = threading.Event()

    def run(self) -> None:
        """Listen until told to stop."""
        asyncio.run(self._listen())

    async def _listen(self) -> None:
        async def quiet(_: Exception) -> None:
            """Say nothing: the server may be killed on purpose, and the client reconnects."""

        client = await connect(self._settings, error_cb=quiet)

        async def take(message: Any) -> None:
            now = time.time_ns()
            self.count += 1
            data: bytes = message.data
            at = data.find(b'"timestamp":"') + 13
            with contextlib.suppress(pa.ArrowInvalid):
                text = data[at : at + 29].decode()
                stamp = pa.scalar(text).cast(pa.timestamp("ns")).value
                self.samples.append((now - stamp) / 1e6)

        await client.subscribe("trades-data.>", cb=take, pending_msgs_limit=1_000_000, pending_bytes_limit=1 << 30)
        while not self._ended.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.1)
        await client.close()

    def stop(self) -> None:
        """Stop listening."""
        self._ended.set()
        self.join(5)

    def percentiles(self) -> dict[str, float | None]:
        """Give p50 and p99 in ms."""
        return _percentiles(self.samples)


class Freshness(threading.Thread):
    """Reads the store like any user, now and then, and notes how old the newest trade is there."""

    def __init__(self, settings: ClickHouseSettings) -> None:
        super().__init__(daemon=True)
        self.samples: deque[float] = deque(maxlen=20_000)
        self._settings = settings
        self._ended = threading.Event()

    def run(self) -> None:
        """Read until told to stop; a server that is away is asked again."""
        store: Store | None = None
        while not self._ended.wait(FRESHNESS_S):
            try:
                store = store or Store(self._settings)
                (row,) = store.query(NEWEST).to_pylist()
            except MarketPrismError:
                store = None
                continue
            if row["at"]:
                self.samples.append((time.time_ns() - row["at"]) / 1e6)
        if store is not None:
            store.close()

    def stop(self) -> None:
        """Stop reading."""
        self._ended.set()
        self.join(10)

    def percentiles(self) -> dict[str, float | None]:
        """Give p50 and p99 in ms."""
        return _percentiles(self.samples)


def _percentiles(values: Iterable[float]) -> dict[str, float | None]:
    samples = pa.array(list(values), pa.float64())
    if not len(samples):
        return {"p50": None, "p99": None}
    p50, p99 = pc.quantile(samples, q=[0.5, 0.99]).to_pylist()
    return {"p50": round(p50, 2), "p99": round(p99, 2)}
