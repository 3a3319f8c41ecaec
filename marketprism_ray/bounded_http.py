"""An HTTP server whose strangers can take neither its threads nor its memory nor its time.

Connections are counted; those that have not shown a password yet have few places, of which a newcomer takes the oldest,
and little time in all, however they spend it.
"""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CONNECTIONS = 128
STRANGERS = 32
"""Connections without a password so far."""
STRANGER_S = 10.0
"""All the time such a connection has."""
REQUEST_S = 120.0
"""Time in which a request of a known user must have come in whole."""
IDLE_S = 600.0
"""Time between two requests of a known user."""


class _TimedReader(io.RawIOBase):
    """Reads a socket until a point in time, not for a time per piece: a byte now and then does not prolong it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.until = 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the time for this request is over")
        self._connection.settimeout(left)
        return self._connection.recv_into(buffer)


class BoundedServer(ThreadingHTTPServer):
    """A threading server with places for a number of connections."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._places = threading.Lock()
        self._open: set[socket.socket] = set()
        self._strangers: dict[socket.socket, None] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a place; the stranger who has waited longest makes room."""
        with self._places:
            full = len(self._open) >= CONNECTIONS
            if full or len(self._strangers) >= STRANGERS:
                oldest = next(iter(self._strangers), None)
                if oldest is not None:
                    del self._strangers[oldest]
                    with contextlib.suppress(OSError):
                        oldest.shutdown(socket.SHUT_RDWR)
            if full:
                self.shutdown_request(request)
                return
            self._open.add(request)
            self._strangers[request] = None
        super().process_request(request, client_address)

    def known(self, request: socket.socket) -> None:
        """Hear that a connection has shown its password."""
        with self._places:
            self._strangers.pop(request, None)

    def shutdown_request(self, request: Any) -> None:
        """Give the place back."""
        super().shutdown_request(request)

    def close_request(self, request: Any) -> None:
        """Close a connection and give its place back."""
        self._open.discard(request)
        self._strangers.pop(request, None)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away or was too slow is no error of ours."""


class TimedHandler(BaseHTTPRequestHandler):
    """A handler whose requests must come in within their time."""

    server: BoundedServer

    def setup(self) -> None:
        """Read through a clock."""
        super().setup()
        self._timed = _TimedReader(self.connection)
        self._timed.until = time.monotonic() + STRANGER_S
        self.rfile = io.BufferedReader(self._timed, 1 << 16)
        self._is_known = False

    def handle_one_request(self) -> None:
        """Wait for the next request of a known user for long, for a stranger's not."""
        if self._is_known:
            self._timed.until = time.monotonic() + IDLE_S
        super().handle_one_request()

    def trust(self) -> None:
        """Take the sender as known: its password was right."""
        if not self._is_known:
            self._is_known = True
            self.server.known(self.connection)
        self._timed.until = time.monotonic() + REQUEST_S

    def answered(self) -> None:
        """Let the answer take as long as its reader needs."""
        self.connection.settimeout(REQUEST_S)
