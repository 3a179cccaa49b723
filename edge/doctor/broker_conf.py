"""The broker's own configuration, for what no client can see: `--broker-conf FILE`, a mosquitto.conf.

Invariant: what the file leaves out is Mosquitto's default, and a value that Mosquitto would not take is an error here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge.doctor.broker import PACKET_BYTES_WANTED
from edge.doctor.demand import Demand, lasts
from edge.doctor.wording import size, span
from shared.errors import DataFileError
from shared.findings import Finding, note, ok, to_mend

AUTOSAVE_WANTED_S: Final = 60
MESSAGE_BYTES: Final = 256  # what a reading takes in the broker's queue, topic included
_OPTION: Final = re.compile(r"[a-z][a-z0-9_]*")
_SQLITE: Final = re.compile(r"persist[-_]sqlite")
_TRUTH: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class BrokerConf:
    """The options that matter to an edge."""

    file: Path
    persistence: bool
    persistence_location: str
    persists_in_sqlite: bool
    autosave_interval_s: int
    autosave_on_changes: bool
    max_queued_messages: int
    max_queued_bytes: int
    max_inflight_messages: int
    max_packet_bytes: int | None
    include_dir: str


def read(file: Path) -> BrokerConf:
    """Read a mosquitto.conf; raises DataFileError naming the file and what is wrong with it."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataFileError(f"--broker-conf {file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataFileError(f"--broker-conf {file}: not UTF-8 text") from error
    options, plugins = _options(file, text)
    number, truth = _Typed(file, options).number, _Typed(file, options).truth
    return BrokerConf(
        file=file,
        persistence=truth("persistence"),
        persistence_location=options.get("persistence_location", ""),
        persists_in_sqlite=any(_SQLITE.search(plugin) for plugin in plugins),
        autosave_interval_s=number("autosave_interval", 1800),
        autosave_on_changes=truth("autosave_on_changes"),
        max_queued_messages=number("max_queued_messages", 1000),
        max_queued_bytes=number("max_queued_bytes", 0),
        max_inflight_messages=number("max_inflight_messages", 20),
        max_packet_bytes=number("max_packet_size", 0) or None,
        include_dir=options.get("include_dir", ""),
    )


def _options(file: Path, text: str) -> tuple[dict[str, str], list[str]]:
    """The last value of each option, and the values of all that load a plugin."""
    options: dict[str, str] = {}
    plugins: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, value = line.strip().partition(" ")
        if _OPTION.fullmatch(name) is None:
            raise DataFileError(f"--broker-conf {file}: line {number}: {name!r:.40} is no option of a mosquitto.conf")
        options[name] = value.strip()
        if name.startswith(("plugin", "global_plugin")):
            plugins.append(value)
    return options, plugins


@dataclass(frozen=True, slots=True)
class _Typed:
    file: Path
    options: Mapping[str, str]

    def number(self, name: str, default: int) -> int:
        value = self._first_word(name) or str(default)
        if not value.isascii() or not value.isdigit():
            raise DataFileError(f"--broker-conf {self.file}: {name} {value!r:.40}: expected a whole number")
        return int(value)

    def truth(self, name: str) -> bool:
        value = self._first_word(name) or "false"
        if value not in _TRUTH:
            raise DataFileError(f"--broker-conf {self.file}: {name} {value!r:.40}: expected true or false")
        return _TRUTH[value]

    def _first_word(self, name: str) -> str:
        return self.options.get(name, "").partition(" ")[0]


def unknown() -> list[Finding]:
    """What there is to say without a file."""
    mend = "name the broker's configuration with --broker-conf FILE"
    return [note("persistence", "unknown: no client can see whether the broker's queue outlives its restart", mend)]


def judge(conf: BrokerConf, demand: Demand) -> list[Finding]:
    """Whether this configuration keeps what an edge counts on."""
    looked = [*_persistence(conf), _queue(conf, demand), _queue_bytes(conf, demand), _inflight(conf), _packets(conf)]
    if conf.include_dir:
        looked.append(note("include_dir", f"{conf.include_dir} is not followed: its files may say otherwise"))
    return looked


def _persistence(conf: BrokerConf) -> list[Finding]:
    if conf.persists_in_sqlite and conf.persistence:
        found = "the persist-sqlite plugin and `persistence true` are both in the file, and only one may be"
        return [to_mend("persistence", found, "take `persistence true` out of the broker's configuration")]
    if conf.persists_in_sqlite:
        return [ok("persistence", "the persist-sqlite plugin writes each change")]
    if not conf.persistence:
        found = "off: a restart of the broker loses sessions, queued readings and retained messages"
        return [to_mend("persistence", found, "set `persistence true` and `persistence_location` to a lasting folder")]
    return [_location(conf), _autosave(conf)]


def _location(conf: BrokerConf) -> Finding:
    if conf.persistence_location:
        return ok("persistence", f"on, in {conf.persistence_location}")
    mend = "set persistence_location to a folder that lasts"
    return note("persistence", "on, in whatever folder the broker is started", mend)


def _autosave(conf: BrokerConf) -> Finding:
    interval_s = conf.autosave_interval_s
    if conf.autosave_on_changes and interval_s:
        return ok("autosave_interval", f"after every {interval_s:,} changes")
    if 0 < interval_s <= AUTOSAVE_WANTED_S:
        return ok("autosave_interval", f"{span(interval_s)}: what a power cut can cost of queued readings")
    cost = f"{span(interval_s)} of queued readings" if interval_s else "all queued readings: it saves only when it ends"
    mend = "set autosave_interval to 10, or use the persist-sqlite plugin of Mosquitto 2.1"
    return to_mend("autosave_interval", f"a power cut costs up to {cost}", mend)


def _queue(conf: BrokerConf, demand: Demand) -> Finding:
    limit = conf.max_queued_messages
    if not limit:
        return ok("max_queued_messages", "0: no limit but the broker's memory")
    if not demand.meters:
        return note("max_queued_messages", f"{limit:,}; {demand}, and this is good for {lasts(limit)}")
    if limit < demand.messages:
        return to_mend("max_queued_messages", f"{limit:,}; {demand}", f"set it to {demand.messages} or more")
    return ok("max_queued_messages", f"{limit:,}; {demand}")


def _queue_bytes(conf: BrokerConf, demand: Demand) -> Finding:
    limit, wanted = conf.max_queued_bytes, demand.messages * MESSAGE_BYTES
    if not limit:
        return ok("max_queued_bytes", "0: no limit")
    told = f"{size(limit)}; an hour's outage takes about {size(wanted)}" if wanted else f"{size(limit)}; {demand}"
    if limit < wanted:
        return to_mend("max_queued_bytes", told, f"set it to {wanted} or more")
    return ok("max_queued_bytes", told)


def _inflight(conf: BrokerConf) -> Finding:
    limit = f"{conf.max_inflight_messages:,}" if conf.max_inflight_messages else "0: no limit"
    return ok("max_inflight_messages", f"{limit}; MQTT 5 clients such as the edge say their own")


def _packets(conf: BrokerConf) -> Finding:
    limit = conf.max_packet_bytes
    if limit is None:
        return ok("max_packet_size", "not set: 2,000,000 bytes from Mosquitto 2.1 on, 256 MB before")
    told = f"{limit:,} bytes; an uplink batch needs {PACKET_BYTES_WANTED:,}"
    if limit < PACKET_BYTES_WANTED:
        return to_mend("max_packet_size", told, "set it to 2000000")
    return ok("max_packet_size", told)
