"""Deliberate defects, each of which the verdict must catch: what is proved is that the proof can fail.

A mutant is a piece of a module's text and what stands there instead. It is applied when the module is imported, in this
process and its children, by an entry in ``sys.meta_path``; nothing of the product knows of it. Mutants of what lies
between a venue and a session's batches run in a small world in one process (``small.py``); those of acknowledgement,
sinks and marks run in the whole system, under the scenario that would show them.

``python -m marketprism_ray.proof.mutants`` runs all, ``... NAME ...`` some, ``--list`` shows them.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType

from marketprism_ray.proof.defects import MUTANTS, Mutant

VARIABLE = "MARKETPRISM_MUTANT"
LIMIT_S = 240
PARALLEL = 2
SMALL = {"small": 4.0, "small-disturbed": 8.0}
"""Scenarios of the world in one process, and how long they take, s."""


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads a module's source with a mutant in it."""

    def __init__(self, name: str, path: str, mutant: Mutant) -> None:
        super().__init__(name, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        """Compile the changed text."""
        path = self.get_filename(fullname)
        text = self._mutant.applied(self.get_data(path).decode())
        code: CodeType = compile(text, path, "exec", dont_inherit=True)
        return code


class _Finder:
    """Finds the one module that is to be changed."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Give the changed module's place."""
        if name != self._mutant.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.origin is None:
            return None
        return importlib.util.spec_from_file_location(
            name, spec.origin, loader=_Loader(name, spec.origin, self._mutant)
        )


def install(name: str) -> None:
    """Let a mutant live in this process; before its module is imported."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == name)
    if mutant.module in sys.modules:
        raise RuntimeError(f"{mutant.module} is imported already")
    sys.meta_path.insert(0, _Finder(mutant))


@dataclass(frozen=True)
class Outcome:
    """What the verdict said of a mutant."""

    mutant: Mutant
    exit_code: int
    seconds: float
    words: str

    @property
    def is_caught(self) -> bool:
        """True if the verdict said that the data is not whole."""
        return self.exit_code == 1


def _environment(mutant: Mutant | None, folder: Path) -> dict[str, str]:
    """Give the environment in which children are mutants too: Python imports ``sitecustomize`` before anything else."""
    (folder / "sitecustomize.py").write_text(
        "import os\n"
        f"name = os.environ.get({VARIABLE!r})\n"
        "if name:\n"
        "    from marketprism_ray.proof import mutants\n"
        "    mutants.install(name)\n"
    )
    paths = [str(folder), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    own = {VARIABLE: mutant.name} if mutant else {}
    # The compiled twins of the inner loops cannot be changed.
    return {**os.environ, **own, "MARKETPRISM_PURE_PYTHON": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def try_out(mutant: Mutant | None, scenario: str = "small") -> Outcome:
    """Run the verdict on a mutant; on the product as it is if it is None."""
    scenario = mutant.scenario if mutant else scenario
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="marketprism-mutant-") as folder:
        if scenario in SMALL:
            command = [sys.executable, "-m", "marketprism_ray.proof.mutants", "--here", scenario]
        elif scenario == "demo":
            command = [sys.executable, "-m", "marketprism_ray.cli", "demo", "--seconds", "10", "--json"]
        else:
            command = [sys.executable, "-m", "marketprism_ray.cli", "prove", scenario, "--seconds", "10", "--json"]
        try:
            done = subprocess.run(
                command,
                env=_environment(mutant, Path(folder)),
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            exit_code, words = _read(done)
        except subprocess.TimeoutExpired:
            exit_code, words = -1, "no verdict in time"
    nobody = Mutant("none", "the product as it is", "", "", "", scenario)
    return Outcome(mutant or nobody, exit_code, time.monotonic() - begin, words)


def _read(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    """Give exit status and the first problem; a run that ended without a verdict is none."""
    try:
        verdict = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return -1, f"no verdict: {done.stderr.strip()[-300:]}"
    problems = verdict["problems"]
    return int(verdict["exit_code"]), str(problems[0] if problems else "")


def run_here(scenario: str) -> int:
    """Run the small world in this process, changed or not; print the verdict as a line of JSON."""
    from marketprism_ray.logs import configure
    from marketprism_ray.proof.small import run_small

    configure("critical")
    disturbed = scenario == "small-disturbed"
    verdict = asyncio.run(run_small(SMALL[scenario], disturbed=disturbed))
    print(json.dumps(verdict.as_json()))
    return verdict.exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run mutants; the exit status is 1 if one survives."""
    parser = argparse.ArgumentParser(description="Deliberate defects that the verdict must catch.")
    parser.add_argument("names", nargs="*", help="mutants to run; all without any")
    parser.add_argument("--list", action="store_true", help="show them")
    parser.add_argument("--small", action="store_true", help="only those that need no whole system")
    parser.add_argument("--here", choices=SMALL, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        return run_here(options.here)
    unknown = set(options.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no such mutant: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in MUTANTS if not options.names or mutant.name in options.names]
    if options.small:
        chosen = [mutant for mutant in chosen if mutant.scenario in SMALL]
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name:32} {mutant.scenario:20} {mutant.about}")
        return 0
    return _run(chosen)


def _run(chosen: Sequence[Mutant]) -> int:
    outcomes: list[Outcome] = []
    for scenario in sorted({mutant.scenario for mutant in chosen}):
        base = try_out(None, scenario)
        _show(base)
        if base.exit_code not in (0, 3):
            print(f"The product as it is does not pass {scenario}: what follows proves nothing.", flush=True)
        some = [mutant for mutant in chosen if mutant.scenario == scenario]
        with ThreadPoolExecutor(PARALLEL if scenario in SMALL else 1) as pool:
            for outcome in pool.map(try_out, some):
                outcomes.append(outcome)
                _show(outcome)
    survivors = [outcome.mutant.name for outcome in outcomes if not outcome.is_caught]
    print(f"{len(outcomes) - len(survivors)} of {len(outcomes)} mutants caught.", flush=True)
    if survivors:
        print(f"Not caught: {', '.join(survivors)}.", flush=True)
    return 1 if survivors else 0


def _show(outcome: Outcome) -> None:
    mutant = outcome.mutant
    said = "caught" if outcome.is_caught else "whole" if outcome.exit_code in (0, 3) else "no verdict"
    print(
        f"{mutant.name:32} {mutant.scenario:12} {outcome.seconds:5.0f} s  {said:10} {outcome.words[:100]}", flush=True
    )


if __name__ == "__main__":
    sys.exit(main())
