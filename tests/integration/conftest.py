"""What integration tests share: a client that watches a site, and the disks of one, made once and then copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import attacked_site
from tests.integration.plant import Watcher
from tests.mosquitto import Broker


@pytest.fixture
def watcher(broker: Broker) -> Iterator[Watcher]:
    """A client at the test's broker that publishes to the site and hears all of it."""
    watching = Watcher(broker.port)
    yield watching
    watching.stop()


@pytest.fixture(scope="session")
def prepared_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of an edge and a broker that have been stopped; the edge has some days of a meter and runs version 1."""
    folder = tmp_path_factory.mktemp("prepared") / "site"
    attacked_site.prepare(folder)
    return folder
