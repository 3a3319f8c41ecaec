"""The truth ledger: what simulated venues said, to whom, and what went wrong on the way.

It knows frames, answers and happenings, nothing of markets: what a venue's words mean is for the reader to work out.

=============  =======================================================================================================
frames         Every data frame of a stream that somebody subscribed once, in the words that a plain client gets (no
               envelope, times in milliseconds): also while nobody listens, and when a fault ate it.
answers        Every answer to a REST request, with the request.
happenings     Faults, sockets, subscriptions, pauses.
=============  =======================================================================================================

Frames and answers are kept as compressed pages, so that a run of hours fits into memory; beyond ``LIMIT_BYTES`` the
oldest pages go, and ``forgotten`` says how many rows went with them.
"""

from __future__ import annotations

import time
from typing import Any

import pyarrow as pa

PAGE_BYTES = 1 << 20
LIMIT_BYTES = 1 << 29
HAPPENINGS_LIMIT = 200_000

FRAMES = pa.schema(
    [
        pa.field("number", pa.int64(), False),
        pa.field("time", pa.int64(), False),
        pa.field("venue", pa.string(), False),
        pa.field("key", pa.string(), False),
        pa.field("text", pa.string(), False),
        pa.field("socket", pa.int64(), False),
        pa.field("sent", pa.int64(), False),
        pa.field("eaten", pa.string(), False),
    ]
)
"""``time`` is ns since the epoch. ``socket`` is the one a greeting was for, 0 for what goes to every listener. ``sent``
is the number of sockets that the frame was written to, ``eaten`` the fault that kept it from others."""
ANSWERS = pa.schema(
    [
        pa.field("number", pa.int64(), False),
        pa.field("time", pa.int64(), False),
        pa.field("venue", pa.string(), False),
        pa.field("method", pa.string(), False),
        pa.field("path", pa.string(), False),
        pa.field("query", pa.string(), False),
        pa.field("request", pa.string(), False),
        pa.field("status", pa.int64(), False),
        pa.field("body", pa.string(), False),
        pa.field("client", pa.string(), False),
    ]
)
"""``path`` is without the venue, ``query`` as it was sent, ``request`` the body of a POST, ``client`` who asked."""


class Pages:
    """Rows of one kind, page by page; sealed pages are compressed."""

    def __init__(self, schema: pa.Schema, limit_bytes: int = LIMIT_BYTES) -> None:
        self.schema = schema
        self.count = 0
        self.forgotten = 0
        self._limit = limit_bytes
        self._sealed: list[tuple[int, bytes]] = []
        self._bytes = 0
        self._rows: list[tuple[Any, ...]] = []
        self._open_bytes = 0
        self._dropped = 0

    def add(self, size: int, *row: Any) -> None:
        """Keep a row.

        Parameters
        ----------
        size : about how many bytes it takes
        row : values without the number, which is given here
        """
        self._rows.append((self.count, *row))
        self.count += 1
        self._open_bytes += size
        if self._open_bytes >= PAGE_BYTES:
            self._seal()

    def _seal(self) -> None:
        page = self._written()
        self._sealed.append((len(self._rows), page))
        self._bytes += len(page)
        self._rows, self._open_bytes = [], 0
        while self._bytes > self._limit:
            rows, oldest = self._sealed.pop(0)
            self._bytes -= len(oldest)
            self.forgotten += rows
            self._dropped += 1

    def _written(self) -> bytes:
        columns = list(zip(*self._rows, strict=True)) or [() for _ in self.schema]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self.schema, strict=True)]
        batch = pa.record_batch(arrays, schema=self.schema)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_batch(batch)
        return bytes(sink.getvalue())

    @property
    def pages(self) -> int:
        """Number of pages there ever were, with the open one."""
        return self._dropped + len(self._sealed) + 1

    def page(self, number: int) -> bytes | None:
        """Give a page as an Arrow IPC stream; None if it is forgotten or not yet there."""
        place = number - self._dropped
        if place < 0 or place > len(self._sealed):
            return None
        return self._sealed[place][1] if place < len(self._sealed) else self._written()

    def table(self) -> pa.Table:
        """Give all rows."""
        pages = [self.page(number) for number in range(self._dropped, self.pages)]
        tables = [pa.ipc.open_stream(page).read_all() for page in pages if page is not None]
        return pa.concat_tables(tables)


class Ledger:
    """What the simulated venues of one process said and suffered."""

    def __init__(self) -> None:
        self.frames = Pages(FRAMES)
        self.answers = Pages(ANSWERS)
        self.happenings: list[dict[str, Any]] = []
        self.forgotten_happenings = 0

    def frame(self, venue: str, key: str, text: str, *, socket: int = 0, sent: int = 0, eaten: str = "") -> None:
        """Keep a data frame."""
        self.frames.add(len(text) + 64, time.time_ns(), venue, key, text, socket, sent, eaten)

    def answer(
        self, venue: str, method: str, path: str, query: str, request: str, status: int, body: str, client: str
    ) -> None:
        """Keep a request and its answer."""
        row = (venue, method, path, query, request, status, body, client)
        self.answers.add(len(body) + 128, time.time_ns(), *row)

    def happened(self, kind: str, venue: str = "", **more: Any) -> None:
        """Note a fault, a socket that came or went, a subscription."""
        if len(self.happenings) >= HAPPENINGS_LIMIT:
            self.forgotten_happenings += 1
            return
        self.happenings.append({"time": time.time_ns(), "kind": kind, "venue": venue, **more})

    def summary(self) -> dict[str, Any]:
        """Give counts, and how many pages there are to read."""
        return {
            name: {"rows": pages.count, "pages": pages.pages, "forgotten": pages.forgotten}
            for name, pages in (("frames", self.frames), ("answers", self.answers))
        } | {"happenings": len(self.happenings), "forgotten_happenings": self.forgotten_happenings}
