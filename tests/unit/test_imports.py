"""The import rules of the tree: layers, one home per heavy library, and an edge that stays small.

The rules themselves stand in pyproject.toml, under `tool.importlinter`; here they are run, and what the
processes really load is looked at from outside.
"""

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

ROOT = Path(__file__).resolve().parents[2]

HEAVY = {
    "dask", "deltalake", "fastapi", "lightgbm", "matplotlib", "mlflow", "onnxmltools", "pandas", "pyarrow", "river",
    "scipy", "skl2onnx", "sklearn",
}  # fmt: skip

# Told, never asking (DESIGN §4.8): these are given the time, and touch neither files nor sockets.
PURE = [
    "shared/baselines.py", "shared/bindings.py", "shared/calendars.py", "shared/features.py", "shared/grid.py",
    "shared/manifest.py", "shared/messages.py", "shared/metrics.py", "shared/packets.py", "shared/topics.py",
    "edge/bounds.py", "edge/changes.py", "edge/dialects/native.py", "edge/effects.py", "edge/forecaster.py",
    "edge/forms.py", "edge/history.py", "edge/intake.py", "edge/letters.py", "edge/meters.py", "edge/node.py",
    "edge/recording.py", "edge/restoring.py", "edge/rounds.py", "edge/rows.py", "edge/scoring.py", "edge/settling.py",
    "edge/site.py", "edge/siteclock.py", "edge/topic_events.py", "edge/uplink.py", "edge/window.py",
    "central/columns.py", "central/criteria.py", "central/drift.py", "central/live_scores.py", "central/rollout.py",
    "central/rollout_events.py", "central/rollout_state.py", "central/stages.py", "central/steering.py",
    "central/transitions.py",
    "central/triggers.py",
]  # fmt: skip
CLOCKS = {"now", "utcnow", "today", "time", "time_ns", "monotonic", "monotonic_ns", "perf_counter"}
DOORS = {"asyncio", "os", "pathlib", "random", "socket", "sqlite3", "subprocess", "threading", "urllib"}

IMPORT_EVERY_MODULE = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@cache
def loaded_by(package: str) -> set[str]:
    """Top-level modules that a fresh process holds once every module of the package is imported."""
    run = [sys.executable, "-c", IMPORT_EVERY_MODULE, package]
    result = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


def test_layers_and_homes_hold() -> None:
    lint = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_edge_loads_no_heavy_library() -> None:
    loaded = loaded_by("edge")
    assert {"numpy", "onnxruntime", "paho"} <= loaded, "the walk found no edge to look at"
    assert loaded & HEAVY == set()


def test_the_edge_loads_onnx_in_no_process_but_the_gates_child() -> None:
    assert "onnx" not in loaded_by("edge")


def test_shared_loads_neither_side_and_no_heavy_library() -> None:
    assert loaded_by("shared") & (HEAVY | {"edge", "central", "onnxruntime"}) == set()


@pytest.mark.parametrize("path", PURE)
def test_a_pure_module_opens_no_door(path: str) -> None:
    assert imported_by(ROOT / path) & DOORS == set()


@pytest.mark.parametrize("path", PURE)
def test_a_pure_module_never_asks_the_clock(path: str) -> None:
    calls = [node.func for node in ast.walk(parsed(ROOT / path)) if isinstance(node, ast.Call)]
    assert [call.attr for call in calls if isinstance(call, ast.Attribute) and call.attr in CLOCKS] == []


def test_the_demo_loads_neither_side() -> None:
    loaded = loaded_by("demo")
    assert {"demo", "shared"} <= loaded
    assert loaded & {"edge", "central"} == set()


def test_no_test_folder_shadows_a_package() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def parsed(path: Path) -> ast.Module:
    """The syntax tree of a module."""
    return ast.parse(path.read_text("utf-8"))


def imported_by(path: Path) -> set[str]:
    """Top-level names that a module imports."""
    nodes = list(ast.walk(parsed(path)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    from_ = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    return {name.partition(".")[0] for name in plain | from_}
