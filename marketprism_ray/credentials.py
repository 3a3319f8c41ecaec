"""Secrets that we make ourselves: one file in the data directory that only its owner can read.

They never stand in a command line, in an environment or in the files that say where a system runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import asdict, dataclass, field
from pathlib import Path

from marketprism_ray.errors import ConfigError

FILE = "credentials.json"
WRITER = "writer"
READER = "reader"
BITS = 192


def write_private(path: Path, text: str) -> None:
    """Write a file as one step that only its owner can read, from its first byte on.

    Raises
    ------
    OSError
        If the directory does not take it.
    """
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "w") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        # A server that is started again after a power cut reads it again.
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private(path: Path) -> str:
    """Read such a file.

    Raises
    ------
    ConfigError
        If it is not there, not ours to read, or others can read or write it.
    """
    try:
        with path.open() as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            text = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: who started the system can read it") from error
    if mode & 0o077:
        raise ConfigError(f"{path}: others can read it (mode {mode:o}); chmod 600 it")
    return text


def make_secret() -> str:
    """Give a random secret of letters and digits."""
    return secrets.token_hex(BITS // 8)


@dataclass(frozen=True)
class Credentials:
    """Passwords of the embedded servers, of the one who writes and the one who only reads."""

    nats_writer: str = field(default_factory=make_secret, repr=False)
    nats_reader: str = field(default_factory=make_secret, repr=False)
    clickhouse_writer: str = field(default_factory=make_secret, repr=False)
    clickhouse_reader: str = field(default_factory=make_secret, repr=False)

    def write(self, data_dir: Path) -> None:
        """Leave them for those who may read the data directory's private files."""
        write_private(data_dir / FILE, json.dumps(asdict(self)))

    @staticmethod
    def read(data_dir: Path) -> Credentials:
        """Find those of the servers that run with a data directory.

        Raises
        ------
        ConfigError
            If there are none, or they cannot be read.
        """
        path = data_dir / FILE
        with contextlib.suppress(json.JSONDecodeError, TypeError):
            return Credentials(**json.loads(read_private(path)))
        raise ConfigError(f"{path}: not what a running system leaves; start it anew")

    def nats(self, user: str) -> str:
        """Give the NATS password of a user."""
        return self.nats_writer if user == WRITER else self.nats_reader

    def clickhouse(self, user: str) -> str:
        """Give the ClickHouse password of a user."""
        return self.clickhouse_writer if user == WRITER else self.clickhouse_reader
