"""Disks of its own for a data directory: one that can be filled, one whose power can be cut, without harm to others."""

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
    _must("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0700", "marketprism", str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


class UnsyncedDisk:
    """A disk in a file, of which a copy can be taken as a power cut would leave it.

    The file has what was synced to the disk; what programs have written and not synced is in the kernel's memory alone.

    Parameters
    ----------
    folder : what the disk is put over
    image : file that is the disk; its copy stands beside it
    """

    def __init__(self, folder: Path, image: Path, size_bytes: int) -> None:
        self._folder = folder
        self._image = image
        self._copy = image.with_name(f"{image.name}.cut")
        self._size = size_bytes

    def __enter__(self) -> UnsyncedDisk:
        """Make the file system and put it over the folder.

        Raises
        ------
        CannotTry
            If that is not allowed here.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._image.open("wb") as file:
            file.truncate(self._size)
        _must("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(self._image))
        self._mount(self._image)
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()

    def _mount(self, image: Path) -> None:
        # The journal is not committed by the clock: nothing is synced but what a program syncs.
        _must("mount", "-o", "loop,commit=600", str(image), str(self._folder))

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], capture_output=True, check=False)

    def copy(self) -> None:
        """Take what is on the disk now; whoever writes there must stand still."""
        _must("cp", "--sparse=always", str(self._image), str(self._copy))

    def put_back(self) -> None:
        """Put the copy in the place of the disk: what was not synced when it was taken is gone."""
        self._unmount()
        self._mount(self._copy)


def _must(*command: str) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise CannotTry(f"a disk of its own needs the program `{command[0]}`") from error
    if done.returncode:
        raise CannotTry(f"a disk of its own needs the right to mount one (root): {done.stderr.strip()}")


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
