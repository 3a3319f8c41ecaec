"""Writing raw frames down: the line format that ``replay`` reads, zstandard-compressed, flushed as it goes.

One JSON object a line: receive time ``t`` in seconds with nanoseconds, ``dir``, ``channel``, ``raw``. REST answers go
to a second file, ``<name>.rest.jsonl.zst``, with their ``url``. A writer that is killed loses at most the last second;
what it left can be read.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import zstandard

from marketprism_ray import __version__
from marketprism_ray.venue import Request, Venue

FLUSH_S = 1.0


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
