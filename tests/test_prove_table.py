"""The table of proofs is made of the verdicts and says what they say."""

from __future__ import annotations

from typing import Any

import pytest

from marketprism_ray.proof.table import BEGIN, END, put, render


def line(seed: int, exit_status: int = 0, **changes: Any) -> dict[str, Any]:
    verdict = dict.fromkeys(
        ("missing", "stream_missing", "duplicated", "stream_duplicated", "wrong", "invented"), 0
    ) | {"injected": [{"recovered_s": float(seed)}, {"recovered_s": None}]}
    run = {"scenario": "kill-all", "seed": seed, "seconds": 20.0, "at": None, "code": "x", "exit_status": exit_status}
    return run | {"verdict": verdict | changes}


def test_each_scenario_is_one_row_with_the_sums_of_its_runs() -> None:
    lines = [line(1), line(2, 1, missing=3, stream_missing=1, wrong=2, stream_duplicated=5), line(6)]
    _, _, row = render(lines).splitlines()
    assert row == (
        "| `kill-all` | 3 | 2 | 4 | 5 | 2 | 2.0 | 6.0 | `marketprism prove kill-all --seconds 20 --seed 1 ... 6` |"
    )


def test_a_run_that_failed_counts_as_tried_and_one_that_could_not_be_tried_does_not() -> None:
    failed = line(1, 1) | {"verdict": {"failed": "no port"}}
    refused = line(2, 4) | {"verdict": {"not_tried": "no disk"}}
    _, _, row = render([failed, refused]).splitlines()
    assert row.startswith("| `kill-all` | 1 | 0 | 0 | 0 | 0 | - | - |")


def test_the_table_replaces_the_one_before() -> None:
    text = put(f"a\n{BEGIN}old\n{END}\nb", "new")
    assert text == f"a\n{BEGIN}new\n{END}\nb"
    with pytest.raises(ValueError, match="0 places"):
        put("nothing", "new")
