"""Children end with us, and not with the thread that started them."""

from __future__ import annotations

import os
import select
import sys
import threading
from pathlib import Path

import pytest

from marketprism_ray.processes import ChildProcess


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere children do not hear of their parent's death")
def test_a_child_that_a_thread_started_lives_on_when_the_thread_has_ended(tmp_path: Path) -> None:
    child = ChildProcess("marketprism_ray.servers", ["--data-dir", str(tmp_path), "--nats-port", "0"])
    starter = threading.Thread(target=child.start)
    starter.start()
    starter.join()
    handle = os.pidfd_open(child.pid)
    try:
        ended, _, _ = select.select([handle], [], [], 1.0)
        assert not ended
    finally:
        os.close(handle)
        child.stop()
