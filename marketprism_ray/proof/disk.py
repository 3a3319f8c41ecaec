"""A small disk for a data directory, so that it can be filled without harm to anybody else."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from marketprism_ray.errors import MarketPrismError

CHUNK_BYTES = 1 << 20
NOT_TRIED = 4
"""Exit status of a scenario that this machine does not allow."""


class CannotTry(MarketPrismError):
    """A drill needs what this machine does not give; says what."""


@contextlib.contextmanager
def small_disk(folder: Path, size_bytes: int) -> Iterator[None]:
    """Put a file system of a given size over a folder, in memory.

    Raises
    ------
    CannotTry
        If that is not allowed here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "marketprism", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotTry("a small disk needs the program `mount`") from error
    if done.returncode:
        raise CannotTry(f"a small disk needs the right to mount one (root): {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


def fill(folder: Path) -> Path:
    """Fill the disk that a folder is on to the last byte; gives the file whose removal makes room again."""
    ballast = folder / "ballast"
    size = CHUNK_BYTES
    with ballast.open("wb", buffering=0) as file:
        while size:
            try:
                file.write(b"\0" * size)
            except OSError:
                size //= 2
    return ballast
