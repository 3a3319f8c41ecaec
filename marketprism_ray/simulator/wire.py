"""Sockets, subscriptions and faults of simulated venues: frames go from an event to whoever asked for them.

All data goes through `Wire.publish` or, to one new listener, `Wire.greet`: both write it into the truth ledger.

A fault is data: ``{"kind": "drop", "venue": "okx_spot", "stream": "books", "count": 3}``. ``stream`` is a part of the
stream's name; without it every stream of the venue is meant. ``connection`` is the number of a socket as
``GET /control/sockets`` gives it; without it every socket is meant. A fault lasts ``count`` frames (requests), or
``seconds`` if given.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count as numbers

from aiohttp import WSMsgType, web

from marketprism_ray.simulator.rules import POLICY_VIOLATION, Attempts, Conduct, Rules
from marketprism_ray.simulator.truth import Ledger

STREAM_FAULTS = ("drop", "repeat", "reorder", "corrupt", "silence")
KINDS = (*STREAM_FAULTS, "disconnect", "refuse", "delay", "status", "html", "hangup", "notice", "reset", "keep_alive")
QUEUE_LIMIT = 200_000
NO_DATA = 4004
"""Code of the close frame that ends a silent socket."""


@dataclass
class Fault:
    """Something to go wrong."""

    kind: str
    venue: str
    stream: str = ""
    count: int = 1
    seconds: float = 0.0
    status: int = 500
    connection: int | None = None
    until: float = field(init=False, default=0.0)
    key: str | None = field(init=False, default=None)
    """Stream whose frame is held back: a swap is of two neighbours in one stream."""
    held: dict[Client, str] = field(init=False, default_factory=dict)
    """What each socket would have got, until its successor is sent."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"fault kind {self.kind!r} is unknown; allowed: {', '.join(KINDS)}")
        self.until = time.monotonic() + self.seconds

    @property
    def is_over(self) -> bool:
        """True when it has done its work; what is held back is sent in any case."""
        if self.held:
            return False
        return time.monotonic() >= self.until if self.seconds else self.count <= 0

    def meets(self, venue: str, key: str) -> bool:
        """Tell whether it is about this stream, now."""
        if self.kind not in STREAM_FAULTS or self.venue != venue or self.stream not in key:
            return False
        return self.key in (None, key) and not self.is_over

    def spares(self, client: Client) -> bool:
        """Tell whether it is about another socket."""
        return self.connection is not None and self.connection != client.number


class Client:
    """One connected socket: a bounded queue and a task that writes it."""

    def __init__(self, number: int, socket: web.WebSocketResponse, request: web.Request, venue: str, path: str) -> None:
        self.number = number
        self.in_microseconds = request.query.get("timeUnit", "").upper() == "MICROSECOND"
        self.socket = socket
        self.venue = venue
        self.path = path
        self.keys: set[str] = set()
        self.touched = time.monotonic()
        self._transport = request.transport
        self._queue: asyncio.Queue[str | tuple[int, str]] = asyncio.Queue(QUEUE_LIMIT)

    def send(self, text: str) -> None:
        """Queue a frame; a client that does not read is cut off, as venues do."""
        try:
            self._queue.put_nowait(text)
        except asyncio.QueueFull:
            self.abort()

    def end(self, code: int, reason: str) -> None:
        """Close the socket with a close frame, behind what is queued."""
        try:
            self._queue.put_nowait((code, reason))
        except asyncio.QueueFull:
            self.abort()

    def abort(self) -> None:
        """Cut the TCP connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    async def write(self) -> None:
        """Write the queue to the socket, until cancelled."""
        while True:
            item = await self._queue.get()
            if not isinstance(item, str):
                code, reason = item
                await self.socket.close(code=code, message=reason.encode())
                return
            await self.socket.send_str(item)
            self.touched = time.monotonic()


class _Onlooker(Client):
    """A plain client that gets nothing: what would be written for it goes into the ledger."""

    def __init__(self, venue: str) -> None:
        self.number, self.venue, self.path = 0, venue, ""
        self.in_microseconds = False
        self.keys = set()

    def send(self, text: str) -> None:
        """Take nothing."""

    def abort(self) -> None:
        """Have no connection."""


class Wire:
    """Who listens to what, and what goes wrong on the way.

    Parameters
    ----------
    clock_offset_ms : by how much the venues' clock is ahead of the machine's
    """

    def __init__(self, clock_offset_ms: int = 0) -> None:
        self.clock_offset_ms = clock_offset_ms
        self.truth = Ledger()
        self.clients: set[Client] = set()
        self._known: dict[str, set[str]] = defaultdict(set)
        self.faults: list[Fault] = []
        self._listeners: dict[tuple[str, str], set[Client]] = defaultdict(set)
        self._numbers = numbers(1)
        self._attempts: dict[tuple[str, str | None], Attempts] = defaultdict(Attempts)

    def now_us(self) -> int:
        """Give the venues' time, µs since the epoch."""
        return time.time_ns() // 1000 + self.clock_offset_ms * 1000

    def now_ms(self) -> int:
        """Give the time on the venues' clock."""
        return int(time.time() * 1000) + self.clock_offset_ms

    def subscribe(self, client: Client, key: str) -> None:
        """Add a stream to a socket."""
        client.keys.add(key)
        self._known[client.venue].add(key)
        self._listeners[client.venue, key].add(client)
        self.truth.happened("subscribed", client.venue, socket=client.number, key=key)

    def known(self, venue: str) -> set[str]:
        """Give every stream of a venue that somebody subscribed once: it goes on, heard or not."""
        return set(self._known[venue])

    def unsubscribe(self, client: Client, key: str) -> None:
        """Take a stream off a socket."""
        if key in client.keys:
            self.truth.happened("unsubscribed", client.venue, socket=client.number, key=key)
        client.keys.discard(key)
        self._listeners[client.venue, key].discard(client)

    def publish(self, venue: str, key: str, text: Callable[[Client], str]) -> None:
        """Send a frame to every listener, through the faults; keep it in the ledger, heard or not.

        Parameters
        ----------
        text : writes the frame as a client gets it; asked with a plain client as well, for the ledger
        """
        if key not in self._known[venue]:
            return
        plain = text(_Onlooker(venue))
        listeners = list(self._listeners[venue, key])
        sent, eaten = len(listeners), "" if listeners else "unheard"
        for fault in self.faults:
            if fault.meets(venue, key) and not all(fault.spares(client) for client in listeners):
                sent, eaten = self._publish_badly(fault, key, listeners, text), fault.kind
                self.faults = [f for f in self.faults if not f.is_over]
                break
        else:
            for client in listeners:
                client.send(text(client))
        self.truth.frame(venue, key, plain, sent=sent, eaten=eaten)

    def greet(self, client: Client, key: str, text: str) -> None:
        """Send a new listener what it gets at once: a book's snapshot, the last state of a stream."""
        client.send(text)
        self.truth.frame(client.venue, key, text, socket=client.number, sent=1)

    def _publish_badly(self, fault: Fault, key: str, listeners: list[Client], text: Callable[[Client], str]) -> int:
        """Send a frame as a fault has it; give the number of sockets that get it whole, now or soon."""
        held, fault.held, fault.key = fault.held, {}, None
        if not fault.seconds and not held:
            fault.count -= 1
        whole = 0
        for client in listeners:
            frame = text(client)
            if fault.spares(client):
                client.send(frame)
                whole += 1
                continue
            match fault.kind:
                case "repeat":
                    client.send(frame)
                    client.send(frame)
                    whole += 1
                case "corrupt":
                    client.send(frame[: len(frame) * 2 // 3])
                case "reorder":
                    whole += 1
                    if client in held:
                        client.send(frame)
                        client.send(held[client])
                    elif held:
                        client.send(frame)  # it came between the two
                    else:
                        fault.held[client], fault.key = frame, key
                case _:
                    pass  # drop and silence
        return whole

    def active(self, venue: str, *kinds: str) -> Fault | None:
        """Give an active fault of these kinds; it is used up by one."""
        self.faults = [fault for fault in self.faults if not fault.is_over]
        for fault in self.faults:
            if fault.kind in kinds and fault.venue == venue:
                if not fault.seconds:
                    fault.count -= 1
                return fault
        return None

    def disconnect(self, venue: str, stream: str = "", connection: int | None = None) -> int:
        """Cut the sockets of a venue, or those with a stream, or one; gives how many."""
        cut = [
            client
            for client in self.clients
            if client.venue == venue
            and connection in (None, client.number)
            and (not stream or any(stream in key for key in client.keys))
        ]
        for client in cut:
            client.abort()
            self.truth.happened("cut", venue, socket=client.number)
        return len(cut)

    async def serve(
        self,
        request: web.Request,
        venue: str,
        path: str,
        handle: Callable[[Client, str], None],
        *,
        idle_s: float | None,
        names: Sequence[str] = (),
        opened: Callable[[Client, str], None] | None = None,
        rules: Rules = Rules(),  # noqa: B008 - frozen
    ) -> web.StreamResponse:
        """Run one socket to its end."""
        if self.active(venue, "refuse"):
            return web.Response(status=503, text="refused")
        if not self._attempts[venue, request.remote].allows(rules.connects, time.monotonic()):
            self.truth.happened("refused", venue, reason="connects")
            return web.Response(status=429, text="Too many connections")
        socket = web.WebSocketResponse(autoping=False, max_msg_size=1 << 20, compress=False)
        await socket.prepare(request)
        client = Client(next(self._numbers), socket, request, venue, path)
        self.clients.add(client)
        self.truth.happened("opened", venue, socket=client.number, path=path)
        for name in names:
            assert opened is not None
            opened(client, name)
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(client.write())]
        if idle_s:
            tasks.append(loop.create_task(_cut_when_idle(client, idle_s)))
        conduct = Conduct(rules, time.monotonic())
        tasks.append(loop.create_task(self._keep(client, conduct)))
        try:
            async for message in socket:
                if not conduct.hears(time.monotonic()):
                    self.refuse(client, "Too many requests")
                if message.type is WSMsgType.PING:
                    await socket.pong(message.data)
                elif message.type is WSMsgType.PONG:
                    conduct.pong(bytes(message.data))
                elif message.type is WSMsgType.TEXT:
                    client.touched = time.monotonic()
                    handle(client, message.data)
        finally:
            for task in tasks:
                task.cancel()
            self.truth.happened("closed", venue, socket=client.number)
            for key in list(client.keys):
                self._listeners[venue, key].discard(client)
            self.clients.discard(client)
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await asyncio.gather(*tasks, return_exceptions=True)
        return socket

    def refuse(self, client: Client, reason: str) -> None:
        """Close a socket that broke a rule; the ledger remembers why."""
        self.truth.happened("refused", client.venue, socket=client.number, reason=reason)
        client.end(POLICY_VIOLATION, reason)

    async def _keep(self, client: Client, conduct: Conduct) -> None:
        """Ping a socket, and close it when its rules say so."""
        while (due := conduct.wakes_at()) is not None:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            if (verdict := conduct.verdict(now)) is not None:
                self.truth.happened("refused", client.venue, socket=client.number, reason=verdict[1])
                client.end(*verdict)
                return
            if (payload := conduct.ping(now)) is not None:
                await client.socket.ping(payload)


async def _cut_when_idle(client: Client, idle_s: float) -> None:
    while (left := client.touched + idle_s - time.monotonic()) > 0:  # noqa: ASYNC110 - the deadline moves
        await asyncio.sleep(left)
    client.end(NO_DATA, f"No data received in {idle_s:.0f}s.")
