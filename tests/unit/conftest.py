"""What unit tests share: an edge at a desk that has seen a week."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.edge_harness import EdgeAtDesk
from tests.unit.models_desk import going_on_from, with_eight_days


@pytest.fixture(scope="session")
def eight_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of an edge with eight days of one meter, to be copied."""
    return with_eight_days(tmp_path_factory.mktemp("prepared") / "edge")


@pytest.fixture
def desk(eight_days: Path, tmp_path: Path) -> EdgeAtDesk:
    """An edge of the test's own that goes on from there."""
    return going_on_from(eight_days, tmp_path / "edge")
