"""Recordings of raw frames: write them, find them, read them.

What we write is zstandard-compressed and flushed as it goes; what we read may be plain, gzip or zstandard.

One JSON object a line: receive time ``t`` in seconds with nanoseconds, ``dir``, ``channel``, ``raw``. REST answers go
to a second file, ``<name>.rest.jsonl.zst``, with their ``url``. A writer that is killed loses at most the last second;
what it left can be read.
"""

from __future__ import annotations

import gzip
import io
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec
import zstandard

from marketprism_ray import __version__
from marketprism_ray.errors import RecordingError, shorten
from marketprism_ray.venue import Request, Venue
from marketprism_ray.venues import VENUES

FLUSH_S = 1.0
SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


class Line(msgspec.Struct):
    """One line of a recording. ``t`` is the receive time in seconds, exact."""

    raw: str
    t: Decimal | None = None
    dir: str = "in"
    channel: str = ""
    url: str | None = ""
    type: str = ""
    """What an example is said to be."""


_decode_line = msgspec.json.Decoder(Line).decode


@dataclass(frozen=True)
class Segment:
    """A part of a file that stands for itself: line numbers from 1, inclusive; None means to the end."""

    name: str
    first_line: int = 1
    last_line: int | None = None
    rest_first_line: int | None = 1
    rest_last_line: int | None = None


def recordings(folder: Path) -> dict[Path, tuple[Venue, ...]]:
    """Give the recordings of a folder and the venues that can read each.

    Raises
    ------
    RecordingError
        If the folder has none.
    """
    if not folder.is_dir():
        raise RecordingError(f"{folder}: {'a file, give its folder' if folder.exists() else 'no such folder'}")
    found: dict[Path, tuple[Venue, ...]] = {}
    for path in sorted(folder.iterdir()):
        stem = stem_of(path)
        if stem is None or stem.endswith((".rest", ".examples")) or path.is_dir():
            continue
        named = tuple(v for v in VENUES.values() if stem.startswith(v.name))
        venues = named or tuple(v for v in VENUES.values() if stem.startswith(v.recording))
        if venues:
            found[path] = venues
    if not found:
        known = ", ".join(sorted({f"{name}*" for v in VENUES.values() for name in (v.recording, v.name)}))
        raise RecordingError(
            f"{folder}: no recording of a known venue; looked for {known} .jsonl, .jsonl.gz, .jsonl.zst"
        )
    return found


def examples(folder: Path) -> dict[Path, Venue]:
    """Give the files of single messages in a folder and the venue that reads each: the wider one of a house."""
    found = {}
    for path in sorted(folder.iterdir()):
        stem = stem_of(path)
        if stem is not None and stem.endswith(".examples"):
            venues = [v for v in VENUES.values() if stem.startswith((v.recording, v.name))]
            if venues:
                found[path] = venues[-1]
    return found


def stem_of(path: Path) -> str | None:
    """Give a recording's name without its suffix; None if it has none of ours."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if path.name.endswith(suffix):
            return path.name[: -len(suffix)]
    return None


def read_lines(path: Path, cut: list[str] | None = None) -> Iterator[tuple[int, Line]]:
    """Give numbered lines of a recording.

    Parameters
    ----------
    cut : gets a sentence if the file is cut short, as a killed writer leaves it; what could be read is given

    Raises
    ------
    RecordingError
        If a line that is not the last cannot be read, or nothing can.
    """
    number = 0
    bad: str | None = None
    try:
        with _open(path) as stream:
            for number, text in enumerate(stream, 1):
                if bad is not None:
                    raise RecordingError(bad)
                if not text.strip():
                    continue
                try:
                    line = _decode_line(text)
                except msgspec.DecodeError as error:
                    if number == 1 and text.startswith(b'{"header"'):
                        continue
                    bad = f"{path.name}: line {number}: {error}: {shorten(text)}"
                    continue
                yield number, line
    except (EOFError, zstandard.ZstdError) as error:
        if not number:
            raise RecordingError(f"{path.name}: nothing can be read: {error}") from error
        bad = f"{path.name}: line {number}: {error}"
    except gzip.BadGzipFile as error:
        raise RecordingError(f"{path.name}: not gzip: {error}") from error
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
    if bad is not None and number == 1:
        raise RecordingError(bad)
    if bad is not None and cut is not None:
        cut.append(f"cut short, read up to there: {bad}")


def _open(path: Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True))
    return path.open("rb")


def segments_of(path: Path, expected: Mapping[str, Any] | None) -> list[Segment]:
    """Give the segments of a file: from ``expected.json`` if it says, else one."""
    entry = (expected or {}).get(path.name)
    if not entry or "segments" not in entry:
        return [Segment("all")]
    return [
        Segment(
            item["id"],
            item["first_line"],
            item["last_line"],
            item.get("rest_first_line"),
            item.get("rest_last_line"),
        )
        for item in entry["segments"]
    ]


def read_expected(folder: Path) -> dict[str, Any] | None:
    """Read ``expected.json``, if there is one.

    Raises
    ------
    RecordingError
        If it is not a JSON object.
    """
    path = folder / "expected.json"
    if not path.exists():
        return None
    try:
        loaded: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise RecordingError(f"{path}: {error}") from error
    if not isinstance(loaded, dict):
        raise RecordingError(f"{path}: it must be an object of files, it is a {type(loaded).__name__}")
    return loaded


class _Writer:
    def __init__(self, path: Path, header: dict[str, Any]) -> None:
        self._file: IO[bytes] = path.open("xb")
        self._stream: Any = zstandard.ZstdCompressor(level=3).stream_writer(self._file)
        self._flushed = time.monotonic()
        self.write({"header": header})

    def write(self, line: dict[str, Any], t: int | None = None) -> None:
        text = json.dumps(line, ensure_ascii=False, separators=(",", ":"))
        if t is not None:
            # Exact: a float cannot hold nanoseconds since the epoch.
            text = f'{{"t":{t // 10**9}.{t % 10**9:09d},{text[1:]}'
        self._stream.write(text.encode() + b"\n")
        if time.monotonic() - self._flushed > FLUSH_S:
            self._flushed = time.monotonic()
            self._stream.flush(zstandard.FLUSH_BLOCK)
            self._file.flush()

    def close(self) -> None:
        self._stream.close()
        self._file.close()


class Recorder:
    """Two files: frames and REST answers.

    Parameters
    ----------
    path : of the frames, ending in ``.jsonl.zst``
    """

    def __init__(self, path: Path, venue: Venue) -> None:
        self.frames = 0
        self._venue = venue
        header = {"venue": venue.name, "began": time.time_ns(), "version": __version__}
        self._frames = _Writer(path, header)
        self._rest = _Writer(path.with_name(path.name.removesuffix(".jsonl.zst") + ".rest.jsonl.zst"), header)

    def frame(self, endpoint: str, raw: bytes, received: int) -> None:
        """Write one frame down."""
        self.frames += 1
        key = self._venue.route(raw)
        try:
            channel = self._venue.parse_key(key.decode())[0]
        except (ValueError, KeyError):
            channel = endpoint
        self._frames.write({"dir": "in", "channel": channel, "raw": raw.decode("utf-8", "replace")}, received)

    def answer(self, request: Request, body: bytes, received: int) -> None:
        """Write one REST answer down."""
        query = "&".join(f"{key}={value}" for key, value in request.params.items())
        url = f"{self._venue.rest_url}{request.path}?{query}"
        self._rest.write({"method": "GET", "url": url, "raw": body.decode("utf-8", "replace")}, received)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frames.close()
        self._rest.close()
