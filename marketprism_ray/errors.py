"""The exception tree. The class says what to do, the message names what, where and the offending text, shortened.

::

    MarketPrismError
    +-- ConfigError        stop: the user must change something
    |   +-- SchemaRefused  a table of the store cannot hold our rows
    +-- VenueError         the venue broke the contract: count it, resync the stream, go on
    |   +-- FrameError     one frame could not be understood
    |   +-- BookError      a book cannot be continued
    +-- TransportError     the network or the server failed: retry with backoff
    |   +-- RateLimited    HTTP 429 or 418: wait for ``retry_after_s``
    |   +-- CircuitOpen    too many failures in a row; not even tried
    +-- SinkError          a sink failed
    |   +-- SinkUnavailable  its server is away: retry
    |   +-- BadBatch         the server refused the data: retrying cannot help
    +-- RecordingError     a recording cannot be read
    +-- ProofFailed        a verdict found something missing, doubled or unequal
"""

from __future__ import annotations

import re

import msgspec


class MarketPrismError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(MarketPrismError):
    """Configuration or arguments are wrong. Stop and tell the user."""


class SchemaRefused(ConfigError):
    """A table of the store differs from its schema in a way that cannot be changed in place. Nothing is written."""


class VenueError(MarketPrismError):
    """The venue sent something its own documentation rules out."""


class FrameError(VenueError):
    """One frame could not be decoded or made no sense."""


class BookError(VenueError):
    """An order book cannot be continued from what arrived."""


DECODE_ERRORS = (msgspec.DecodeError, VenueError, ValueError, TypeError, OverflowError, KeyError, IndexError)
"""What a venue's decoder may raise on a frame that is not what its documentation says."""


class TransportError(MarketPrismError):
    """A network or server failure. Retrying may help."""


class RateLimited(TransportError):
    """The venue told us to slow down (HTTP 429, or 418 for a ban)."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class CircuitOpen(TransportError):
    """Too many failures in a row; the request was not sent."""


class SinkError(MarketPrismError):
    """A sink could not write."""


class SinkUnavailable(SinkError):
    """The sink's server is away or overloaded. Retry the same batch."""


class BadBatch(SinkError):
    """The sink's server refused the data itself. Retrying cannot help."""


class RecordingError(MarketPrismError):
    """A recording or a file beside it cannot be read."""


class ProofFailed(MarketPrismError):
    """A verdict found something missing, doubled or unequal."""


_USERINFO = re.compile(r"(?<=://)[^/\s'\"]*(?=@)")


def mask_urls(text: str) -> str:
    """Take user and password out of every URL of a text."""
    return _USERINFO.sub("<redacted>", text)


def shorten(raw: bytes | str, limit: int = 120) -> str:
    """Give a printable, shortened form of what arrived, for error messages."""
    text = raw.decode("utf-8", "backslashreplace") if isinstance(raw, bytes) else raw
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text)} characters)"
