"""Child processes that never outlive their parent: start, wait until ready, stop by pid."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marketprism_ray.errors import MarketPrismError

_PR_SET_PDEATHSIG = 1


def settle_gc() -> None:
    """Make the garbage collector look seldom, and never again at what is there now.

    A collector process makes many lists and no cycles: the default thresholds cost a tenth to a fifth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends, or its thread that started us, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:
            os.kill(os.getpid(), signal.SIGTERM)


class ChildProcess:
    """A child that prints one JSON line when it is ready.

    Parameters
    ----------
    log : file that takes what it writes to standard error
    """

    def __init__(self, module: str, arguments: Sequence[str], *, log: Path | None = None) -> None:
        self.ready: dict[str, Any] = {}
        self._command = [sys.executable, "-m", module, *arguments]
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Process id; 0 if it is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else 0

    def start(self, timeout_s: float = 30.0) -> dict[str, Any]:
        """Start it and wait for its ready line.

        Raises
        ------
        MarketPrismError
            If it ended instead, with the last of what it wrote, or did not get ready in time.
        """
        self._process = self._spawn()
        line = self._first_line(timeout_s)
        if not line:
            self._process.kill()
            words = b"" if self._process.stderr is None else self._process.stderr.read()
            if self._log is not None:
                words = self._log.read_bytes()[-2000:]
            self.stop()
            lines = words.decode(errors="replace").strip().splitlines()
            raise MarketPrismError(f"{self._command[2]} did not start: {lines[-1] if lines else 'no word from it'}")
        self.ready = json.loads(line)
        return self.ready

    def _spawn(self) -> subprocess.Popen[bytes]:
        """Start it from a thread that lives as long as it does.

        A child that dies with its parent dies with the thread that started it: the kernel means threads there.
        """
        answer: queue.SimpleQueue[subprocess.Popen[bytes] | OSError] = queue.SimpleQueue()

        def live() -> None:
            try:
                process = self._popen()
            except OSError as error:
                answer.put(error)
                return
            answer.put(process)
            process.wait()

        threading.Thread(target=live, name=f"parent of {self._command[2]}", daemon=True).start()
        found = answer.get()
        if isinstance(found, OSError):
            raise found
        return found

    def _popen(self) -> subprocess.Popen[bytes]:
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(self._log.open("ab")) if self._log is not None else None
            # A session of its own: Ctrl-C in a terminal goes to the parent, which stops its children in order.
            return subprocess.Popen(
                self._command,
                stdout=subprocess.PIPE,
                stderr=log or subprocess.PIPE,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def _first_line(self, timeout_s: float) -> bytes:
        assert self._process is not None
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if selector.select(max(0.0, deadline - time.monotonic())):
                return self._process.stdout.readline()
        return b""

    def kill(self) -> None:
        """Kill it without warning, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ask it to stop; kill it if it does not."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
