"""The simulated venues as a child process, and a small client of its control interface."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from marketprism_ray.errors import MarketPrismError
from marketprism_ray.processes import ChildProcess
from marketprism_ray.simulator.server import VENUES


class SimulatorProcess:
    """Start, ask, disturb and stop the simulated venues."""

    def __init__(
        self,
        venues: Sequence[str] = VENUES,
        *,
        seed: int = 1,
        rate: float = 200.0,
        port: int = 0,
        extra: int = 0,
        unrest: float = 0.0,
        clock_offset_ms: int = 0,
        log: Path | None = None,
    ) -> None:
        arguments = [
            "--seed",
            str(seed),
            "--rate",
            str(rate),
            "--port",
            str(port),
            "--extra",
            str(extra),
            "--unrest",
            str(unrest),
            f"--clock-offset-ms={clock_offset_ms}",
            "--venues",
            *venues,
        ]
        self._child = ChildProcess("marketprism_ray.simulator", arguments, log=log)
        self.venues = tuple(venues)

    def __enter__(self) -> SimulatorProcess:
        self._child.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._child.stop()

    @property
    def endpoints(self) -> dict[str, dict[str, str]]:
        """Venue -> URLs."""
        found: dict[str, dict[str, str]] = self._child.ready["endpoints"]
        return found

    def _call(self, path: str, body: dict[str, Any] | None = None, *, post: bool = False) -> bytes:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._child.ready['port']}/control/{path}",
            data=json.dumps(body or {}).encode() if post else None,
            headers={"Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as answer:
                found: bytes = answer.read()
                return found
        except urllib.error.HTTPError as error:
            raise MarketPrismError(f"simulator: {path}: {error.read().decode()}") from error

    def pause(self) -> None:
        """Stop the market."""
        self._call("pause", post=True)

    def resume(self) -> None:
        """Let the market go on."""
        self._call("resume", post=True)

    def fault(self, kind: str, venue: str, **more: Any) -> None:
        """Inject a fault."""
        self._call("fault", {"kind": kind, "venue": venue, **more}, post=True)

    def befall(self, action: str, venue: str, symbol: str, **more: Any) -> None:
        """Let something befall an instrument, see ``unrest.Command``."""
        self._call("market", {"action": action, "venue": venue, "symbol": symbol, **more}, post=True)

    def ledger(self) -> dict[str, Any]:
        """Give counts per venue and symbol."""
        found: dict[str, Any] = json.loads(self._call("ledger"))
        return found

    def truth(self, part: str) -> pa.Table:
        """Give all pages of a part of the truth ledger: ``frames`` or ``answers``, see ``truth.py``."""
        summary = json.loads(self._call("truth"))[part]
        if summary["forgotten"]:
            raise MarketPrismError(f"simulator: {summary['forgotten']} {part} are forgotten: the run was too long")
        pages = [self._call(f"truth/{part}?page={number}") for number in range(summary["pages"])]
        return pa.concat_tables([pa.ipc.open_stream(page).read_all() for page in pages])

    def happenings(self) -> list[dict[str, Any]]:
        """Give faults, sockets, subscriptions and pauses, in order, each with ``time``, ``kind`` and ``venue``."""
        found: list[dict[str, Any]] = json.loads(self._call("truth/happenings"))
        return found

    def trades(self, venue: str, symbol: str) -> pa.Table:
        """Give every trade from the first subscription on."""
        query = urllib.parse.urlencode({"venue": venue, "symbol": symbol})
        return pa.ipc.open_stream(self._call(f"trades?{query}")).read_all()

    def book(self, venue: str, symbol: str) -> dict[str, Any]:
        """Give the true book."""
        query = urllib.parse.urlencode({"venue": venue, "symbol": symbol})
        found: dict[str, Any] = json.loads(self._call(f"book?{query}"))
        return found
