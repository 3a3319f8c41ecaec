"""The coordinator's small file: written as one step, recovered from whatever a crash leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from marketprism_ray.state_file import StateFile


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "state" / "a.json", ("n",))


def test_nothing_written_is_nothing_lost(state: StateFile) -> None:
    assert state.read().content is None
    assert state.read().lost == "nothing"


def test_the_last_write_counts(state: StateFile) -> None:
    state.write({"n": 1})
    state.write({"n": 2})
    assert state.read().content == {"n": 2}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"other": 1}', "\x00\x00"])
def test_a_damaged_file_is_set_aside_and_the_one_before_counts(state: StateFile, text: str) -> None:
    state.write({"n": 1})
    state.write({"n": 2})
    state.path.write_text(text)
    found = state.read()
    assert found.content == {"n": 1}
    assert found.lost == "latest"
    assert f"({len(text)} characters)" in found.notes[0]
    assert (state.path.parent / "a.json.damaged").read_text() == text


def test_a_crash_between_the_renames_loses_nothing(state: StateFile) -> None:
    state.write({"n": 1})
    state.path.rename(state.path.with_suffix(".bak"))
    assert state.read().content == {"n": 1}
    assert state.read().lost == "nothing"


def test_if_both_are_damaged_everything_is_lost_and_said(state: StateFile) -> None:
    state.write({"n": 1})
    state.write({"n": 2})
    for path in (state.path, state.path.with_suffix(".bak")):
        path.write_text("")
    found = state.read()
    assert (found.content, found.lost, len(found.notes)) == (None, "all", 2)
    state.write({"n": 3})
    assert state.read().content == {"n": 3}
