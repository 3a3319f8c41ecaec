"""A disk whose power can be cut: what was written and not synced is gone, as when a machine goes down.

A SIGKILL takes nothing from the page cache, and a copy of a directory has its unsynced pages in it, so neither shows
what a power cut does. Here the disk is a file system of its own (ext4 in a file, on a loop device), and the cut is the
kernel's own: ``FS_IOC_SHUTDOWN`` without flushing the journal, made for this purpose. From then on nothing reaches the
disk; the next mount replays the journal, as after a real cut. What it does not show: a disk that loses what it has
confirmed, or writes of which a part arrives.

Needs root, a loop device and ``mkfs.ext4``. Device mapper is not needed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from marketprism_ray.errors import MarketPrismError

_FS_IOC_SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
_WITHOUT_FLUSHING = 2
RELEASE_S = 30.0


def why_not() -> str:
    """Give what is missing to cut the power here; empty if nothing is."""
    if os.geteuid() != 0:
        return "only root mounts file systems"
    for tool in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"{tool} is not there"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices"
    return ""


class Disk:
    """An ext4 file system in a file.

    Parameters
    ----------
    image : the file; it is made
    place : where it is mounted
    """

    def __init__(self, image: Path, place: Path, size_bytes: int = 3 << 30) -> None:
        self.image = image
        self.place = place
        self.size_bytes = size_bytes

    def __enter__(self) -> Disk:
        self.place.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.truncate(self.size_bytes)
        _run("mkfs.ext4", "-q", "-F", str(self.image))
        self._mount()
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", str(self.place)], capture_output=True, check=False)
        self.image.unlink(missing_ok=True)

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self.image), str(self.place))

    def cut(self, processes: Iterable[int] = ()) -> None:
        """Cut the power: what is not synced is lost, and the processes are killed.

        Parameters
        ----------
        processes : everything that has files of this disk open
        """
        folder = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _FS_IOC_SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING))
        except OSError as error:
            raise MarketPrismError(f"{self.place}: the power cannot be cut: {error.strerror}") from error
        finally:
            os.close(folder)
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restore(self) -> None:
        """Switch on again: the journal is replayed.

        Raises
        ------
        MarketPrismError
            If somebody keeps files of the disk open.
        """
        deadline = time.monotonic() + RELEASE_S
        while subprocess.run(["umount", str(self.place)], capture_output=True, check=False).returncode:
            if time.monotonic() > deadline:
                raise MarketPrismError(f"{self.place}: somebody has files of it open")
            time.sleep(0.05)
        self._mount()


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MarketPrismError(f"{' '.join(command)}: {done.stderr.strip()}")
