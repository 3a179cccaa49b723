"""The record: Delta tables of everything the uplink brought; the only home of deltalake.

Invariants:
- (epoch, seq) is committed as a Delta application transaction together with the rows, so rows and ledger cannot
  disagree. Side tables are written first, each skipping what its own transactions already hold; `readings` last, with
  an empty append when no reading came. A crash anywhere and a resend give each row exactly once.
- A version of `readings` can be read back for as long as the table stands: nothing is vacuumed, no log is expired.
- Every reader sees one row for each identity (site, meter, ts), the one received last; both stay in the table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray

from central.columns import INSTANT, SCHEMAS, tables_of
from shared.errors import RecordError
from shared.messages import Uplink

log = logging.getLogger(__name__)

SIDE_TABLES: Final = tuple(name for name in SCHEMAS if name != "readings")
PARTITIONS: Final[Mapping[str, list[str]]] = {"readings": ["site", "month"]}
EXPORTED: Final = ("site", "meter_id", "ts", "value", "unit", "kind", "period_s", "quality", "received_at")
# By default delta-rs forgets log entries after 30 days of wall time, and with them the versions models were trained on.
CONFIGURATION: Final[Mapping[str, str | None]] = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
}
_FOREIGN: Final = (DeltaError, OSError, pa.ArrowException, ValueError)


class Record:
    """The tables under one path or object-store URI. One process writes; any number read meanwhile."""

    def __init__(self, uri: str, *, compact_every: int = 200) -> None:
        self._uri = uri.rstrip("/")
        self._compact_every = compact_every
        self._tables: dict[str, DeltaTable] = {}
        self._commits: dict[str, int] = {}

    def create(self) -> None:
        """Make the tables that are not there yet; raises RecordError."""
        for name, schema in SCHEMAS.items():
            try:
                self._tables[name] = DeltaTable.create(
                    self._path(name),
                    schema,
                    mode="ignore",
                    partition_by=PARTITIONS.get(name),
                    configuration=dict(CONFIGURATION),
                )
            except _FOREIGN as error:
                raise RecordError(f"record {self._path(name)}: {_first_line(error)}") from error

    def recorded_seq(self, site: str, epoch: str) -> int:
        """The highest batch of an epoch in the record, 0 when there is none; raises RecordError."""
        return self._seq("readings", site, epoch)

    def append(self, batches: Sequence[Uplink]) -> int:
        """Commit `batches`, which continue their epochs without a gap, once each; returns the record's version.

        Raises RecordError; the same call may then be made again.
        """
        tables = tables_of(batches)
        for name in (*SIDE_TABLES, "readings"):
            fresh = self._unwritten(name, batches)
            rows = (tables if len(fresh) == len(batches) else tables_of(fresh)).get(name)
            if rows is not None:
                self._write(name, rows, fresh)
            elif fresh and name == "readings":
                self._write(name, SCHEMAS[name].empty_table(), fresh)
        return self.version

    @property
    def version(self) -> int:
        """Version of the readings table: the data version that models name."""
        return int(self._table("readings").version())

    def readings(self, *, site: str | None = None, version: int | None = None, since_us: int | None = None) -> pa.Table:
        """One row for each identity, sorted by site, meter and ts, of the columns of EXPORTED.

        `version` reads the table as it stood then; `since_us` leaves out earlier `ts`. Raises RecordError.
        """
        conditions: list[pc.Expression] = []
        if since_us is not None:
            since = pa.scalar(since_us, pa.int64()).cast(INSTANT)
            months = str(np.datetime64(since_us, "us").astype("datetime64[M]"))
            conditions += [pc.field("month") >= months, pc.field("ts") >= since]
        rows = self._read("readings", site=site, version=version, conditions=conditions)
        return _last_received(rows, ("site", "meter_id", "ts")).select(EXPORTED)

    def dead_letters(self, *, site: str | None = None) -> pa.Table:
        """One row for each id of a site's dead letters. Raises RecordError."""
        rows = self._read("dead_letters", site=site)
        return _last_received(rows, ("site", "id")).drop_columns(["row"])

    def scores(self, *, site: str | None = None, since_us: int | None = None) -> pa.Table:
        """Score rows by time, then place in the uplink: a table keeps no order of its own. Raises RecordError."""
        since = [] if since_us is None else [pc.field("valid_at") >= pa.scalar(since_us, pa.int64()).cast(INSTANT)]
        return self._read("scores", site=site, conditions=since).sort_by(
            [("valid_at", "ascending"), ("seq", "ascending"), ("row", "ascending")]
        )

    def spans(self) -> pa.Table:
        """`site, meter_id, first, last` of every meter's readings. Raises RecordError."""
        rows = self._read("readings", columns=["site", "meter_id", "ts"])
        spans = rows.group_by(["site", "meter_id"]).aggregate([("ts", "min"), ("ts", "max")])
        return spans.rename_columns({"ts_min": "first", "ts_max": "last"})

    def compact(self) -> None:
        """Merge small files of every table; raises RecordError. Rows and their order stay."""
        for name in SCHEMAS:
            self._compact(name)

    def _path(self, name: str) -> str:
        return f"{self._uri}/{name}"

    def _table(self, name: str) -> DeltaTable:
        if name not in self._tables:
            self._tables[name] = self._open(name, None)
        return self._tables[name]

    def _open(self, name: str, version: int | None) -> DeltaTable:
        try:
            return DeltaTable(self._path(name), version=version)
        except _FOREIGN as error:
            at = "" if version is None else f" at version {version}"
            raise RecordError(f"record {self._path(name)}{at}: {_first_line(error)}") from error

    def _unwritten(self, name: str, batches: Iterable[Uplink]) -> list[Uplink]:
        known = {key: self._seq(name, *key) for key in {(batch.site, batch.epoch) for batch in batches}}
        return [batch for batch in batches if batch.seq > known[batch.site, batch.epoch]]

    def _seq(self, name: str, site: str, epoch: str) -> int:
        table = self._table(name)
        try:
            return table.transaction_version(_app_id(site, epoch)) or 0
        except _FOREIGN as error:
            self._tables.pop(name, None)
            raise RecordError(f"record {self._path(name)}: {_first_line(error)}") from error

    def _write(self, name: str, rows: pa.Table, batches: Iterable[Uplink]) -> None:
        newest: dict[str, int] = {}
        for batch in batches:
            app_id = _app_id(batch.site, batch.epoch)
            newest[app_id] = max(batch.seq, newest.get(app_id, 0))
        ledger = CommitProperties(app_transactions=[Transaction(app_id, seq) for app_id, seq in newest.items()])
        try:
            write_deltalake(self._table(name), rows, mode="append", commit_properties=ledger)
        except _FOREIGN as error:
            self._tables.pop(name, None)  # whatever it holds now, the next attempt looks afresh
            raise RecordError(f"record {self._path(name)}: {_first_line(error)}") from error
        self._commits[name] = self._commits.get(name, 0) + 1
        if self._commits[name] % self._compact_every == 0:
            self._compact(name)

    def _compact(self, name: str) -> None:
        try:
            self._table(name).optimize.compact()
            self._table(name).create_checkpoint()
        except _FOREIGN as error:
            self._tables.pop(name, None)
            raise RecordError(f"record {self._path(name)}: compaction: {_first_line(error)}") from error

    def _read(
        self,
        name: str,
        *,
        site: str | None = None,
        version: int | None = None,
        columns: list[str] | None = None,
        conditions: Iterable[pc.Expression] = (),
    ) -> pa.Table:
        kept = pc.scalar(True)
        for condition in [*conditions, *([] if site is None else [pc.field("site") == site])]:
            kept = kept & condition
        try:
            return self._open(name, version).to_pyarrow_dataset().to_table(columns=columns, filter=kept)
        except _FOREIGN as error:
            raise RecordError(f"record {self._path(name)}: {_first_line(error)}") from error


def _app_id(site: str, epoch: str) -> str:
    return f"{site}/{epoch}"


def _last_received(rows: pa.Table, identity: Sequence[str]) -> pa.Table:
    """For each identity the row received last: by `received_at`, then place in the uplink, sorted by identity."""
    if not rows.num_rows:
        return rows
    keys = [_sortable(rows[name]) for name in identity]
    later = [rows[name].combine_chunks().cast(pa.int64()).to_numpy() for name in ("row", "seq", "received_at")]
    order = np.lexsort((*later, *reversed(keys)))
    changes = np.zeros(len(order) - 1, dtype=bool)
    for key in keys:
        ordered = key[order]
        changes |= ordered[1:] != ordered[:-1]
    return rows.take(pa.array(order[np.append(changes, True)]))


def _sortable(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Integers that sort as the column does."""
    if pa.types.is_timestamp(column.type):
        return np.asarray(column.combine_chunks().cast(pa.int64()).to_numpy())
    encoded = column.combine_chunks().dictionary_encode()
    rank = np.empty(len(encoded.dictionary), dtype=np.int64)
    rank[np.asarray(pc.sort_indices(encoded.dictionary))] = np.arange(len(rank))
    return np.asarray(rank[np.asarray(encoded.indices)])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
