"""Logs and metrics: one line per event with fields, and Prometheus over HTTP (only home of prometheus_client)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.errors import MetercastError

__all__ = [
    "CollectorRegistry",
    "Counter",
    "Gauge",
    "Histogram",
    "Sample",
    "configure_logging",
    "register",
    "serve_metrics",
]

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldsFormatter(logging.Formatter):
    """`time level logger message key=value …`: a constant message, then what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, plus the traceback where there is one."""
        line = super().format(record)
        fields = " ".join(f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD)
        return f"{line} {fields}" if fields else line


def configure_logging(level: str) -> None:
    """Send all logs at `level` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldsFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric; a counter's `_total` is added to its name."""

    kind: Literal["counter", "gauge"]
    name: str
    text: str
    value: float
    labels: Mapping[str, str]


class _AtScrape(Collector):
    """Asks for the samples when Prometheus does."""

    def __init__(self, samples: Callable[[], Iterable[Sample]]) -> None:
        self._samples = samples

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """The samples as metric families."""
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for sample in self._samples():
            family = families.get(sample.name)
            if family is None:
                make = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
                family = families[sample.name] = make(sample.name, sample.text, labels=list(sample.labels))
            family.add_metric(list(sample.labels.values()), sample.value)
        return families.values()


def register(registry: CollectorRegistry, samples: Callable[[], Iterable[Sample]]) -> None:
    """Have `registry` ask `samples` at each scrape."""
    registry.register(_AtScrape(samples))


def serve_metrics(registry: CollectorRegistry, host: str, port: int) -> int:
    """Serve `registry` on /metrics from a daemon thread; port 0 serves nothing. Returns the port.

    Raises MetercastError when the port is taken.
    """
    if port == 0:
        return 0
    try:
        server, _thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise MetercastError(f"metrics on {host}:{port}: {error.strerror}; set metrics_port to a free port") from error
    return int(server.server_port)
