"""Logs of actors: a file a day that stays, in the configured format, without secrets."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import structlog

from marketprism_ray.config import System
from marketprism_ray.logs import KEPT_DAYS, DailyFile, LogSettings, configure, configure_actor

DAY_S = 86400.0


def test_each_day_has_a_file_and_the_oldest_go(tmp_path: Path) -> None:
    now = [0.0]
    (tmp_path / "sink-nats-else.log").touch()
    file = DailyFile(tmp_path, "sink-nats", now=lambda: now[0])
    for day in range(KEPT_DAYS + 3):
        now[0] = day * DAY_S + DAY_S - 1
        file.write(f"{day} evening\n")
    now[0] += 2
    file.write("morning\n")
    names = sorted(path.name for path in tmp_path.glob("sink-nats-1970-*"))
    assert len(names) == KEPT_DAYS
    assert names[-1] == "sink-nats-1970-01-18.log"
    assert (tmp_path / names[-1]).read_text() == "morning\n"
    assert (tmp_path / names[-2]).read_text() == "16 evening\n"
    assert (tmp_path / "sink-nats-else.log").exists()


def test_processes_of_one_name_append_and_a_disk_that_refuses_does_not_stop_anybody(tmp_path: Path) -> None:
    also = io.StringIO()
    first, second = (DailyFile(tmp_path / "logs", "collector-a#0", also, now=lambda: 0.0) for _ in range(2))
    first.write("one\n")
    second.write("two\n")
    first.write("three\n")
    assert (tmp_path / "logs" / "collector-a#0-1970-01-01.log").read_text() == "one\ntwo\nthree\n"
    (tmp_path / "file").touch()
    refused = DailyFile(tmp_path / "file", "../x", also)
    refused.write("four\n")
    assert also.getvalue() == "one\ntwo\nthree\nfour\n"


def test_the_configured_format_reaches_an_actors_file_and_secrets_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    settings = LogSettings.of(System(data_dir=tmp_path, log_format="json", log_level="warning"))
    configure_actor(settings, "sink-nats")
    try:
        log = structlog.get_logger("sink")
        log.info("too_little")
        log.warning("said", url="nats://me:hunter2@a:1", password="hunter2")
        (file,) = (tmp_path / "logs").iterdir()
        (line,) = file.read_text().splitlines()
        said = json.loads(line)
        assert (said["event"], said["level"], said["url"]) == ("said", "warning", "nats://<redacted>@a:1")
        assert "hunter2" not in line
    finally:
        monkeypatch.undo()
        configure("error")
