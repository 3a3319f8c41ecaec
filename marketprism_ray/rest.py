"""The one HTTP shell: GET under a request budget, with bounded retries. Nothing else retries REST.

Requests that draw from the same budget go by priority, then by age; others do not wait for them. A 429 or 418 silences
the whole venue for as long as it says. Budgets are counted by the monotonic clock: setting the clock changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import structlog
from aiohttp_socks import ProxyConnector, ProxyError

from marketprism_ray.budget import CircuitBreaker, RequestBudget
from marketprism_ray.errors import CircuitOpen, RateLimited, TransportError, VenueError, shorten
from marketprism_ray.venue import Request, Venue
from marketprism_ray.venue_clock import VenueClock

log = structlog.get_logger("rest")

BAN_S = 120.0
"""Shortest ban that a 418 means."""
SLOW_DOWN_S = 5.0
"""What a 429 means that does not say."""


@dataclass(frozen=True, slots=True)
class RestSettings:
    """Limits of one request."""

    timeout_s: float = 10.0
    attempts: int = 4
    backoff_s: float = 0.5
    max_body_bytes: int = 64 << 20
    proxy: str | None = field(default=None, repr=False)
    """It may hold a password."""


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """A good answer and when it came, ns.

    Parameters
    ----------
    sent : when the venue sent it, by its own word (``Date``, whole seconds), ns; None if it does not say
    """

    body: bytes
    received: int
    sent: int | None = None


class RestClient:
    """One venue's REST API.

    Parameters
    ----------
    base_url : overrides the venue's, for simulated venues and proxies
    """

    def __init__(
        self,
        venue: Venue,
        base_url: str | None = None,
        settings: RestSettings | None = None,
        budget: RequestBudget | None = None,
    ) -> None:
        self.venue = venue
        self.base_url = (base_url or venue.rest_url).rstrip("/")
        self.settings = settings or RestSettings()
        self.budget = budget or RequestBudget(venue.rest.budgets)
        self.breaker = CircuitBreaker()
        self.counts = dict.fromkeys(("requests", "failures", "rate_limited", "retries"), 0)
        self.on_answer: Callable[[Request, bytes, int], None] | None = None
        """Hears of every good answer (recording)."""
        self.wall_ns: Callable[[], int] = time.time_ns
        """Gives the time of receipt, ns since the epoch."""
        self.clock = VenueClock()
        """Told by the heads of answers, and by whoever reads rows."""
        self._session: aiohttp.ClientSession | None = None
        self._queues: dict[str, list[tuple[int, int]]] = defaultdict(list)
        """Budget -> (priority, ticket) of those who wait for it, as a heap; who has gone is dropped at the head."""
        self._turns: dict[tuple[int, int], asyncio.Event] = {}
        self._ticket = itertools.count()

    async def open(self) -> None:
        """Open the session."""
        proxy = self.settings.proxy
        connector = ProxyConnector.from_url(proxy) if proxy and proxy.startswith("socks") else None
        self._session = aiohttp.ClientSession(
            connector=connector,
            headers=dict(self.venue.rest.headers),
            timeout=aiohttp.ClientTimeout(total=self.settings.timeout_s),
            trust_env=proxy is None and not is_loopback(self.base_url),
        )

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()

    async def get(self, request: Request) -> RestAnswer:
        """Send one request when its budget allows; retry what may succeed later.

        Raises
        ------
        VenueError
            The venue refused the request for good.
        TransportError
            It could not be had within the allowed attempts.
        """
        last: TransportError | None = None
        for attempt in range(self.settings.attempts):
            if attempt:
                self.counts["retries"] += 1
            await self._wait_for_turn(request)
            try:
                return await self._send(request)
            except RateLimited as error:
                last = error
                self.counts["rate_limited"] += 1
                self.budget.block(error.retry_after_s, time.monotonic_ns())
                log.warning("rate_limited", venue=self.venue.name, path=request.path, wait_s=error.retry_after_s)
            except CircuitOpen:
                raise
            except TransportError as error:
                last = error
                self.counts["failures"] += 1
                self.breaker.failed(time.monotonic_ns())
                await asyncio.sleep(self.settings.backoff_s * 2**attempt)
        assert last is not None
        raise last

    async def _wait_for_turn(self, request: Request) -> None:
        place = (int(request.priority), next(self._ticket))
        names = [name for name, _ in request.costs]
        for name in names:
            heapq.heappush(self._queues[name], place)
        turn = self._turns[place] = asyncio.Event()
        try:
            while True:
                # A more urgent request may have come while we slept: look at the queues each time.
                if all(self._queues[name][0] == place for name in names):
                    delay = self.budget.delay_s(request, time.monotonic_ns())
                    if delay <= 0:
                        break
                    await asyncio.sleep(min(delay, 0.25))
                else:
                    turn.clear()
                    await turn.wait()
            self.budget.spend(request, time.monotonic_ns())
        finally:
            del self._turns[place]
            for name in names:
                self._wake_next(self._queues[name])

    def _wake_next(self, queue: list[tuple[int, int]]) -> None:
        """Drop those who have gone from the head of a queue; tell the next one to look."""
        while queue and queue[0] not in self._turns:
            heapq.heappop(queue)
        if queue:
            self._turns[queue[0]].set()

    async def _send(self, request: Request) -> RestAnswer:
        where = f"{self.venue.name}: GET {request.path}"
        if not self.breaker.allows(time.monotonic_ns()):
            raise CircuitOpen(f"{where}: not sent, the last requests all failed")
        if self._session is None:
            raise TransportError(f"{where}: the client is not open")
        self.counts["requests"] += 1
        proxy = self.settings.proxy
        options: dict[str, Any] = {"proxy": proxy} if proxy and not proxy.startswith("socks") else {}
        try:
            async with self._session.get(self.base_url + request.path, params=request.params, **options) as answer:
                body = await answer.content.read(self.settings.max_body_bytes + 1)
                while not answer.content.at_eof() and len(body) <= self.settings.max_body_bytes:
                    body += await answer.content.read(self.settings.max_body_bytes + 1 - len(body))
                status, headers = answer.status, answer.headers
        except (aiohttp.ClientError, ProxyError, TimeoutError, OSError) as error:
            raise TransportError(f"{where}: {type(error).__name__}: {error}") from error
        received = self.wall_ns()
        if (sent := sent_at(headers)) is not None:
            self.clock.head(sent, received)
        self.budget.observe(headers, time.monotonic_ns())
        if len(body) > self.settings.max_body_bytes:
            raise TransportError(f"{where}: answer above {self.settings.max_body_bytes} bytes")
        if status in (429, 418):
            raise RateLimited(f"{where}: HTTP {status}: {shorten(body)}", retry_after_s(headers, status, time.time()))
        try:
            self.venue.rest.check(status, body)
        except RateLimited as error:
            raise RateLimited(f"{where}: {error}", error.retry_after_s) from error
        except TransportError as error:
            raise TransportError(f"{where}: {error}") from error
        except VenueError:
            self.breaker.succeeded()  # it answers, if only to refuse
            raise
        self.breaker.succeeded()
        if self.on_answer is not None:
            self.on_answer(request, body, received)
        return RestAnswer(body, received, sent)


def is_loopback(url: str) -> bool:
    """Tell whether a URL stays on this machine: such requests use no proxy of the environment."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def sent_at(headers: Mapping[str, str]) -> int | None:
    """Give when an answer was sent by its own word, ns; None if it does not say."""
    try:
        return int(parsedate_to_datetime(headers.get("Date", "")).timestamp()) * 1_000_000_000
    except ValueError:
        return None


def retry_after_s(headers: Mapping[str, str], status: int, now: float) -> float:
    """Give the seconds that an answer 429 or 418 asks to wait.

    ``Retry-After`` is a number of seconds or a date; a ban (418) lasts two minutes at least, a limit (429) five
    seconds where it does not say.
    """
    text = headers.get("Retry-After", "").strip()
    found: float | None = None
    try:
        found = float(text)
    except ValueError:
        with contextlib.suppress(ValueError):
            found = parsedate_to_datetime(text).timestamp() - now
    if found is None or not math.isfinite(found) or found < 0:
        found = SLOW_DOWN_S
    return max(found, BAN_S) if status == 418 else max(found, 1.0)
