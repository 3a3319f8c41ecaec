"""Batches on local disk while a server is away: more room than memory has, and no store.

Nothing here is durable or meant to be: a batch counts as delivered when the sinks say so, wherever it waits. The files
have no name (they are unlinked as they are opened), so whatever ends the process leaves nothing behind.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec
import pyarrow as pa

from marketprism_ray.batching import Batch
from marketprism_ray.extents import Claim
from marketprism_ray.schemas import arrow_schema

SEGMENT_BYTES = 64 << 20
RESERVE_BYTES = 1 << 30
"""Left free on the disk for others, above all the servers."""


class _Head(msgspec.Struct, array_like=True):
    """What belongs to a batch beside its rows."""

    batch_id: str
    data_type: str
    claims: dict[str, Claim]


class _Segment:
    """A file that is only appended to, and given back when nothing in it is needed."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file: BinaryIO = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed when free
        self.size = 0
        self.needed = 0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a batch is kept."""

    segment: _Segment
    offset: int
    head: int
    size: int


class Spill:
    """A folder's worth of batches.

    Parameters
    ----------
    limit : bytes on disk at most; 0 keeps nothing
    reserve : bytes that must stay free on the disk
    """

    def __init__(
        self, folder: Path, limit: int, *, segment_bytes: int = SEGMENT_BYTES, reserve: int = RESERVE_BYTES
    ) -> None:
        self.folder = folder
        self._limit = limit
        self._segment_bytes = segment_bytes
        self._reserve = reserve
        self._segments: list[_Segment] = []
        self.error = ""
        """Why the last batch was not taken."""

    @property
    def bytes(self) -> int:
        """Size of the files."""
        return sum(segment.size for segment in self._segments)

    def put(self, batch: Batch) -> Place | None:
        """Keep a batch; None, with the reason in ``error``, if there is no room or the disk refuses."""
        head = msgspec.msgpack.encode(_Head(batch.batch_id, batch.data_type, batch.claims))
        body = batch.data.serialize()
        size = len(head) + body.size
        if self.bytes + size > self._limit:
            self.error = f"{self.folder}: {self._limit:,} bytes are used" if self._limit else "not wanted"
            return None
        try:
            segment = self._open_segment()
            place = Place(segment, segment.size, len(head), size)
            for part, offset in ((head, segment.size), (body, segment.size + len(head))):
                _write(segment.file.fileno(), memoryview(part).cast("B"), offset)
        except OSError as error:
            self.error = f"{self.folder}: {error.strerror or error}"
            return None
        segment.size += size
        segment.needed += 1
        return place

    def _open_segment(self) -> _Segment:
        if not self._segments or self._segments[-1].size >= self._segment_bytes:
            segment = _Segment(self.folder)
            free = shutil.disk_usage(self.folder).free
            if free < self._reserve + self._segment_bytes:
                segment.file.close()
                raise OSError(f"{free:,} bytes are free, {self._reserve + self._segment_bytes:,} must be")
            self._segments.append(segment)
        return self._segments[-1]

    def get(self, place: Place) -> Batch:
        """Read a batch back.

        Raises
        ------
        OSError
            If the disk does not give it.
        """
        file, start = place.segment.file.fileno(), place.offset + place.head
        raw = os.pread(file, place.head, place.offset)
        body = pa.allocate_buffer(place.size - place.head)  # aligned, as Arrow wants its columns
        done = len(raw) + os.preadv(file, [body], start)
        if done != place.size:
            raise OSError(f"{self.folder}: {done} of {place.size} bytes could be read")
        head = msgspec.msgpack.decode(raw, type=_Head)
        data = pa.ipc.read_record_batch(body, arrow_schema(head.data_type))
        return Batch(head.batch_id, head.data_type, data, head.claims)

    def free(self, place: Place) -> None:
        """Forget a batch; a file of which nothing is needed is given back."""
        segment = place.segment
        segment.needed -= 1
        if not segment.needed:
            self._segments.remove(segment)
            segment.file.close()

    def close(self) -> None:
        """Give everything back."""
        for segment in self._segments:
            segment.file.close()
        self._segments.clear()


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        done = os.pwrite(file, data, offset)
        data = data[done:]
        offset += done
