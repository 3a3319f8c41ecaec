"""Deliberate defects still fit the code they change, and the small world in which they are judged is whole without."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import marketprism_ray.batching
from marketprism_ray.proof.defects import MUTANTS, Mutant
from marketprism_ray.proof.mutants import SMALL, install, try_out


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_fits_its_module_and_compiles(mutant: Mutant) -> None:
    spec = importlib.util.find_spec(mutant.module)
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text()
    changed = mutant.applied(text)
    assert changed != text
    compile(changed, mutant.name, "exec")


def test_there_are_enough_and_each_has_a_name_of_its_own() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 30


def test_a_mutant_comes_before_its_module() -> None:
    assert marketprism_ray.batching.__name__ == next(m.module for m in MUTANTS if m.name == "side-inverted")
    with pytest.raises(RuntimeError, match="imported already"):
        install("side-inverted")


@pytest.mark.chaos
def test_the_product_as_it_is_passes_where_mutants_are_judged() -> None:
    for scenario in SMALL:
        outcome = try_out(None, scenario)
        assert outcome.exit_code in (0, 3), outcome.words
