"""Every test and case that docs/threats.md names exists, and every document it points to."""

from __future__ import annotations

import re
from pathlib import Path

from tests.bad_models import HAZARDS
from tests.integration import test_model_attacks

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threats.md").read_text(encoding="utf-8")
SOURCES = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
IN_TABLES = {name for line in PAGE.splitlines() if line.startswith("|") for name in re.findall(r"`([a-z_]{6,})`", line)}


def test_every_test_it_names_exists() -> None:
    named = set(re.findall(r"test_[a-z0-9_]{20,}+(?!\.py)", PAGE))
    assert len(named) > 15
    assert {name for name in named if f"def {name}(" not in SOURCES} == set()


def test_every_file_it_names_exists() -> None:
    named = set(re.findall(r"`((?:tests|shared)/[\w/]+\.py)`", PAGE)) | {
        f"docs/{name}" for name in re.findall(r"\]\((adr/[^)]+)\)", PAGE)
    }
    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).exists()} == set()


def test_every_test_is_in_the_file_it_is_said_to_be_in() -> None:
    placed = re.findall(r"`(test_[a-z0-9_]+)` in `(tests/[\w/]+\.py)`", PAGE)
    assert len(placed) > 5
    assert [name for name, file in placed if f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8")] == []


def test_every_attack_and_hazard_of_the_suite_stands_on_it_and_every_case_it_names_is_one() -> None:
    attacks = {attack.__name__ for attack in test_model_attacks.SENT} - {"made_for_an_edge_to_come"}
    played = attacks | set(test_model_attacks.SIGNED)
    assert played <= IN_TABLES
    assert set(test_model_attacks.SIGNED) <= set(HAZARDS)
