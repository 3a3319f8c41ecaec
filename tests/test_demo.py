"""The whole product as a user runs it: simulated venues, real servers, a local Ray, and the verdict."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from marketprism_ray.proof.disk import NOT_TRIED
from marketprism_ray.proof.scenarios import SCENARIOS


def run(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "marketprism_ray.cli", *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.stdout.strip(), done.stderr[-3000:]
    verdict: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if done.returncode == NOT_TRIED:
        pytest.skip(verdict["not_tried"])
    assert done.returncode == 0, verdict
    return verdict


def check(verdict: dict[str, Any]) -> None:
    assert (verdict["missing"], verdict["duplicated"], verdict["wrong"]) == (0, 0, 0)
    assert (verdict["stream_missing"], verdict["stream_duplicated"]) == (0, 0)
    assert verdict["books_checked"] == verdict["books_equal"] == 24
    assert (verdict["invented"], verdict["untrue_gaps"]) == (0, 0)
    waiting = verdict["types"]["trade"]["waiting"]
    assert verdict["trades_emitted"] <= verdict["trades_stored"] + waiting
    assert waiting == verdict["claimed_missing"]
    assert verdict["trades_emitted"] > 500
    assert verdict["frames"] > 100, "frames of collectors that live, not of those killed with all who counted for them"
    assert verdict["latency_ms"]["p50"] > 0


@pytest.mark.ray
def test_demo_with_a_killed_collector_and_cut_sockets_ends_whole() -> None:
    verdict = run("demo", "--seconds", "12", "--chaos")
    check(verdict)
    assert len(verdict["faults"]) == 2
    assert verdict["gaps_repaired"] >= 3


@pytest.mark.ray
@pytest.mark.chaos
@pytest.mark.parametrize("scenario", list(SCENARIOS))
def test_every_scenario_ends_with_nothing_silently_missing(scenario: str) -> None:
    verdict = run("prove", scenario, "--seconds", "15")
    check(verdict)
    assert verdict["faults"]
    if scenario in ("kill-collector", "disconnect"):
        assert verdict["gaps_repaired"] > 0
    if scenario == "stall-servers":
        assert any("kept on local disk" in fault for fault in verdict["faults"])
        assert verdict["gaps_repaired"] == verdict["book_gaps"] == 0
    if scenario == "drop-delta":
        assert verdict["book_gaps"] > 0


@pytest.mark.ray
def test_killing_everything_at_once_loses_and_doubles_nothing() -> None:
    verdict = run("prove", "kill-all", "--seconds", "10")
    check(verdict)
    assert verdict["gaps_repaired"] > 0
    assert verdict["gaps_open"] == 0
