from __future__ import annotations

from pathlib import Path

from marketprism_ray.readme import render

README = Path(__file__).resolve().parents[1] / "README.md"


def test_the_generated_parts_of_the_readme_are_true() -> None:
    text = README.read_text()
    assert render(text) == text, "run `make docs`"
