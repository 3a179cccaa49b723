"""What integration tests share: a client that watches a site, the disks of one, and a central for a whole file."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.integration import attacked_site
from tests.integration.plant import Watcher
from tests.integration.uplinks import Edge
from tests.mosquitto import Broker, running
from tests.processes import CentralProcess

SITES = (f"site-{number}" for number in count())


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


@pytest.fixture(scope="module")
def lasting_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for all tests of a file, each of which is a site of its own."""
    with running(tmp_path_factory.mktemp("mosquitto")) as begun:
        yield begun


@pytest.fixture(scope="module")
def central(lasting_broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CentralProcess]:
    """A central at that broker; a test that ends it starts it again."""
    begun = CentralProcess(tmp_path_factory.mktemp("central"), lasting_broker.port)
    begun.spawn()
    try:
        lasting_broker.wait_subscribed("metercast-central", "metercast/+/uplink")
        yield begun
    finally:
        begun.kill()


@pytest.fixture
def edge(central: CentralProcess, lasting_broker: Broker) -> Iterator[Edge]:
    """A stand-in for the edge of a site that is the test's own."""
    assert central.process is not None
    made = Edge(lasting_broker, next(SITES))
    yield made
    made.connection.stop()
