"""Values put into a parameters file: only their lines change."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from central.params_edit import with_values
from shared import params_file

ROOT = Path(__file__).parents[2]
VALUES = {"leaves": 63, "learning_rate": 0.2, "half_life_days": None}


def test_in_the_shipped_file_nothing_but_the_lines_of_the_values_change(tmp_path: Path) -> None:
    before = (ROOT / "params.yaml").read_text()
    after = with_values(before, "training", VALUES)
    changed = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert changed == [
        ("  learning_rate: 0.05", "  learning_rate: 0.2"),
        ("  leaves: 31", "  leaves: 63"),
    ]
    (tmp_path / "p.yaml").write_text(after)
    assert params_file.load(tmp_path / "p.yaml").training.leaves == 63


def test_a_comment_behind_a_value_stays_and_what_is_new_comes_first() -> None:
    text = (
        "site: a\ntraining: # ours\n    # few\n    leaves: 7   # as told by Ann\n    criteria:\n"
        "        holdout: 5d\ngrid:\n    step: 1h\n"
    )
    assert with_values(text, "training", {"leaves": 9, "trees": 50}) == (
        "site: a\ntraining: # ours\n    trees: 50\n    # few\n    leaves: 9   # as told by Ann\n    criteria:\n"
        "        holdout: 5d\ngrid:\n    step: 1h\n"
    )


@pytest.mark.parametrize("text", ["", "# nothing\n", "site: a\n", "training:\n", "training:\ngrid:\n  step: 1h\n"])
def test_a_file_without_the_section_or_with_an_empty_one_gets_it(text: str) -> None:
    made = yaml.safe_load(with_values(text, "training", VALUES))
    assert made == {**(yaml.safe_load(text) or {}), "training": VALUES}


@pytest.mark.parametrize("text", ["training: {leaves: 5}\n", "training:\n  leaves:\n    5\n", "- a\n"])
def test_a_file_written_otherwise_is_left_alone(text: str) -> None:
    with pytest.raises(ValueError, match="training cannot be changed in place"):
        with_values(text, "training", VALUES)
