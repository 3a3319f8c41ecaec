from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import actors
import marketprism_ray

ROOT = Path(marketprism_ray.__file__).parents[1]


def test_every_library_module_imports_with_ray_blocked() -> None:
    names = [
        m.name for m in pkgutil.walk_packages(marketprism_ray.__path__, "marketprism_ray.") if "__main__" not in m.name
    ]
    assert len(names) > 10
    code = "import sys, importlib\nsys.modules['ray'] = None\n" + "".join(
        f"importlib.import_module({n!r})\n" for n in names
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_actors_is_our_package() -> None:
    assert Path(actors.__file__).parent == ROOT / "actors"


def test_shared_code_names_no_venue() -> None:
    apart = {"venues", "simulator", "proof"}
    named = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in (ROOT / "marketprism_ray").rglob("*.py")
        if not apart & set(path.parts)
        for line in path.read_text().splitlines()
        if re.search(r"\b(binance|okx|deribit)", line, re.IGNORECASE)
        and "`binance_spot`" not in line
        and not line.strip().startswith("marketprism ")  # an example in a help text
    ]
    assert named == []


def test_only_the_edges_import_ray() -> None:
    importers = {
        str(path.relative_to(ROOT))
        for package in ("marketprism_ray", "actors")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"^\s*(import ray\b|from ray\b)", path.read_text(), re.MULTILINE)
    }
    assert importers <= {"actors/access.py", "actors/app.py", "actors/cluster.py", "actors/metrics.py"}
