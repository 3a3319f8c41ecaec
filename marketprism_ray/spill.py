"""Batches on local disk until every sink has them: what a process had received survives its end.

A collector writes each batch here before it offers it to a sink, so that a killed one loses nothing that it had put
into a batch, and memory may forget batches while a server is away. Nothing is synced: what is here survives the
process, not the machine. The sinks are what is durable.

A segment is a file of entries that is only appended to, ``FOLDER/SHARD/EPOCH-NUMBER.spill``::

    entry   "MPB1"  length of head (u32)  length of body (u64)  CRC-32 of head and body  head  body
    done    "MPD1"  position of the sink (u32)  offset of the entry (u64)  CRC-32 of these two

An entry ends where its checksum says so: what a death in the middle of a write has left at the end of a file is
recognised, and is no entry. Files are given back when nothing in them is needed; those of a process that ended are read
by `leftovers` and given back by whoever has delivered them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

from marketprism_ray.batching import Batch
from marketprism_ray.extents import Claim
from marketprism_ray.schemas import arrow_schema

SEGMENT_BYTES = 64 << 20
RESET_BYTES = 1 << 20
"""A segment of which nothing is needed begins anew from this size on."""
RESERVE_BYTES = 1 << 30
"""Left free on the disk for others, above all the servers."""
SUFFIX = ".spill"
_PART = struct.Struct("<4sIQI")
_ENTRY, _DONE = b"MPB1", b"MPD1"
_DONE_BODY = struct.Struct("<IQ")


def spill_folder(data_dir: Path) -> Path:
    """Give where the collectors of a system keep batches on a machine."""
    return data_dir.absolute() / "spill"


class _Head(msgspec.Struct, array_like=True):
    """What belongs to a batch beside its rows."""

    batch_id: str
    data_type: str
    claims: dict[str, Claim]
    sinks: tuple[str, ...]


class _Segment:
    """A file that is only appended to, and given back when nothing in it is needed."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self.size = 0
        self.needed = 0

    def append(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write at the end; what was written in part is written over by the next one."""
        left, offset = [memoryview(part) for part in parts], self.size
        while left:
            done = os.pwritev(self.file, left, offset)
            offset += done
            while left and done >= len(left[0]):
                done -= len(left.pop(0))
            if left:
                left[0] = left[0][done:]
        self.size = offset

    def give_back(self) -> None:
        os.close(self.file)
        self.path.unlink(missing_ok=True)


@dataclass(slots=True)
class Place:
    """Where a batch is kept."""

    segment: _Segment
    offset: int
    head: int
    body: int
    waiting: set[int]
    """Positions of the sinks that do not have it yet."""


class Spill:
    """The batches of one collector.

    Parameters
    ----------
    folder : of all collectors of this machine
    limit : bytes on disk at most; 0 keeps nothing
    shard, epoch : name the files
    sinks : who must have a batch before it is forgotten
    reserve : bytes that must stay free on the disk
    """

    def __init__(
        self,
        folder: Path,
        limit: int,
        shard: str,
        epoch: int,
        sinks: Sequence[str],
        *,
        segment_bytes: int = SEGMENT_BYTES,
        reserve: int = RESERVE_BYTES,
    ) -> None:
        self.folder = folder / shard
        self.sinks = tuple(sinks)
        self._epoch = epoch
        self._limit = limit
        self._segment_bytes = segment_bytes
        self._reserve = reserve
        self._segments: list[_Segment] = []
        self._number = 0
        self.error = ""
        """Why the last batch was not taken."""

    @property
    def bytes(self) -> int:
        """Size of the files."""
        return sum(segment.size for segment in self._segments)

    def put(self, batch: Batch) -> Place | None:
        """Keep a batch; None, with the reason in ``error``, if there is no room or the disk refuses."""
        head = msgspec.msgpack.encode(_Head(batch.batch_id, batch.data_type, batch.claims, self.sinks))
        body = memoryview(batch.data.serialize()).cast("B")
        size = _PART.size + len(head) + len(body)
        if self.bytes + size > self._limit:
            self.error = f"{self.folder}: {self._limit:,} bytes are used" if self._limit else "not wanted"
            return None
        try:
            segment = self._open_segment()
            place = Place(segment, segment.size, len(head), len(body), set(range(len(self.sinks))))
            check = zlib.crc32(body, zlib.crc32(head))
            segment.append([_PART.pack(_ENTRY, len(head), len(body), check), head, body])
        except OSError as error:
            self.error = f"{self.folder}: {error.strerror or error}"
            return None
        segment.needed += 1
        return place

    def _open_segment(self) -> _Segment:
        if self._segments and not self._segments[-1].needed and self._segments[-1].size >= self._segment_bytes:
            os.ftruncate(self._segments[-1].file, 0)
            self._segments[-1].size = 0
        if not self._segments or self._segments[-1].size >= self._segment_bytes:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
            if free < self._reserve + self._segment_bytes:
                raise OSError(f"{free:,} bytes are free, {self._reserve + self._segment_bytes:,} must be")
            self._number += 1
            # Nobody shares a name: an epoch may come again where a state file was lost.
            name = f"{self._epoch}-{os.getpid()}-{self._number}{SUFFIX}"
            self._segments.append(_Segment(self.folder / name))
        return self._segments[-1]

    def get(self, place: Place) -> Batch:
        """Read a batch back.

        Raises
        ------
        OSError
            If the disk does not give it.
        """
        found = _read(place.segment.file, place.offset + _PART.size, place.head, place.body)
        if found is None:
            raise OSError(f"{self.folder}: a batch of {place.head + place.body} bytes could not be read")
        return found[0]

    def done(self, place: Place, sink: int) -> bool:
        """Note that a sink has a batch; True if nobody needs it any more, and the place is given back.

        Parameters
        ----------
        sink : position in ``sinks``
        """
        place.waiting.discard(sink)
        segment = place.segment
        if not place.waiting:
            segment.needed -= 1
            if not segment.needed and segment is not self._segments[-1]:
                self._segments.remove(segment)
                segment.give_back()
                return True
        try:
            if not segment.needed and segment.size >= RESET_BYTES:
                os.ftruncate(segment.file, 0)
                segment.size = 0
            else:
                check = zlib.crc32(_DONE_BODY.pack(sink, place.offset))
                segment.append([_PART.pack(_DONE, sink, place.offset, check)])
        except OSError as error:
            # It would come again after our death, and be dropped as a repeat.
            self.error = f"{self.folder}: {error.strerror or error}"
        return not place.waiting

    def close(self) -> None:
        """End: files of which nothing is needed are given back, the others are left to a successor."""
        for segment in self._segments:
            if segment.needed:
                os.close(segment.file)
            else:
                segment.give_back()
        self._segments.clear()
        with contextlib.suppress(OSError):  # there is more in it, or it never was
            self.folder.rmdir()


@dataclass(frozen=True, slots=True)
class Leftover:
    """A batch that a process left behind."""

    batch: Batch
    sinks: tuple[str, ...]
    """Who does not have it yet."""


@dataclass(frozen=True, slots=True)
class Remains:
    """A file that a process left behind."""

    path: Path
    epoch: int
    entries: tuple[tuple[int, int, int, frozenset[int]], ...]
    """Offset, sizes of head and body, positions of the sinks that have it, of what is still needed."""
    torn: int
    """Bytes at its end that are no entry."""
    made: int
    """When it was last written to, ns."""

    def batches(self) -> Iterator[Leftover]:
        """Read what is needed, one after the other, oldest first.

        Raises
        ------
        OSError
            If the disk does not give it.
        """
        file = os.open(self.path, os.O_RDONLY)
        try:
            for offset, head, body, has in self.entries:
                found = _read(file, offset + _PART.size, head, body)
                if found is None:
                    raise OSError(f"{self.path}: the batch at {offset} could not be read")
                batch, sinks = found
                yield Leftover(batch, tuple(name for at, name in enumerate(sinks) if at not in has))
        finally:
            os.close(file)

    def forget(self) -> None:
        """Give the file back: everything in it is delivered."""
        self.path.unlink(missing_ok=True)


def leftovers(folder: Path, shard: str) -> list[Remains]:
    """Find what processes that collected a shard have left on this machine, oldest first.

    Only before a successor begins: it writes files of its own here.
    """
    found = []
    for path in (folder / shard).glob(f"*{SUFFIX}"):
        epoch, _, _ = path.name.partition("-")
        if epoch.isdigit():
            found.append(_scan(path, int(epoch)))
    return sorted(found, key=lambda remains: (remains.epoch, remains.made, remains.path.name))


def _scan(path: Path, epoch: int) -> Remains:
    """Read the entries of a file, up to the first that is not whole."""
    entries: dict[int, tuple[int, int, set[int]]] = {}
    everybody: dict[int, int] = {}
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at + _PART.size <= size:
            mark, first, second, check = _PART.unpack(os.pread(file.fileno(), _PART.size, at))
            if mark == _DONE and zlib.crc32(_DONE_BODY.pack(first, second)) == check:
                if second in entries:
                    entries[second][2].add(first)
                at += _PART.size
                continue
            end = at + _PART.size + first + second
            if mark != _ENTRY or end > size:
                break
            raw = os.pread(file.fileno(), first + second, at + _PART.size)
            if zlib.crc32(raw) != check:
                break
            head = msgspec.msgpack.decode(raw[:first], type=_Head)
            entries[at], everybody[at] = (first, second, set()), len(head.sinks)
            at = end
        made = os.fstat(file.fileno()).st_mtime_ns
    needed = tuple(
        (offset, head, body, frozenset(has))
        for offset, (head, body, has) in entries.items()
        if len(has) < everybody[offset]
    )
    return Remains(path, epoch, needed, size - at, made)


def _read(file: int, offset: int, head: int, body: int) -> tuple[Batch, tuple[str, ...]] | None:
    raw = os.pread(file, head, offset)
    buffer = pa.allocate_buffer(body)  # aligned, as Arrow wants its columns
    if len(raw) + os.preadv(file, [buffer], offset + head) != head + body:
        return None
    found = msgspec.msgpack.decode(raw, type=_Head)
    data = pa.ipc.read_record_batch(buffer, arrow_schema(found.data_type))
    return Batch(found.batch_id, found.data_type, data, found.claims), found.sinks
