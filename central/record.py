"""The record: Delta tables of everything the uplink brought; the only home of deltalake.

Invariants:
- (epoch, seq) is committed as a Delta application transaction together with the rows, so rows and ledger cannot
  disagree. Side tables are written first, each skipping what its own transactions already hold; `readings` last, with
  an empty append when no reading came. A crash anywhere and a resend give each row exactly once.
- A version of `readings` can be read back for as long as the table stands: nothing is vacuumed, no log is expired.
- Every reader sees one row for each identity, the one received last; all stay in the table. The identity of a reading
  is (site, meter, ts), of a score (site, meter, valid_at, lead, role), of a dead letter (site, id),
  of a covariate's issue (site, name, issued_at, start).
"""

from __future__ import annotations

import logging
import operator
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Schema, Transaction, write_deltalake
from deltalake.exceptions import DeltaError
from numpy.typing import NDArray

from central.columns import INSTANT, SCHEMAS, spans_of, tables_of
from central.gaps import Gap, dead_letter_rows, widest
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

    def __init__(self, uri: str, *, compact_every: int = 200, aside: bool = False) -> None:
        """`aside` reads with one thread, so that who records meanwhile keeps its cores."""
        self._uri = uri.rstrip("/")
        self._compact_every = compact_every
        self._threads = not aside
        self._tables: dict[str, DeltaTable] = {}
        self._commits: dict[str, int] = {}

    def create(self) -> None:
        """Make the tables, and columns of earlier versions' tables, that are not there yet; raises RecordError."""
        for name, schema in SCHEMAS.items():
            try:
                table = self._tables[name] = DeltaTable.create(
                    self._path(name),
                    schema,
                    mode="ignore",
                    partition_by=PARTITIONS.get(name),
                    configuration=dict(CONFIGURATION),
                )
                there = {field.name for field in table.schema().fields}
                lacking = [field for field in Schema.from_arrow(schema).fields if field.name not in there]
                if lacking:
                    table.alter.add_columns(lacking)
            except _FOREIGN as error:
                raise RecordError(f"record {self._path(name)}: {_first_line(error)}") from error

    def recorded_seq(self, site: str, epoch: str) -> int:
        """The highest batch of an epoch in the record, 0 when there is none; raises RecordError."""
        return self._seq("readings", site, epoch)

    def append(self, batches: Sequence[Uplink], tables: Mapping[str, pa.Table] | None = None) -> int:
        """Commit `batches`, which continue their epochs without a gap, once each; returns the record's version.

        `tables` is what `tables_of` makes of them, when the caller has that already. Raises RecordError; the same call
        may then be made again.
        """
        tables = tables_of(batches) if tables is None else tables
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

    def readings(
        self,
        *,
        site: str | None = None,
        version: int | None = None,
        since_us: int | None = None,
        meters: Sequence[str] | None = None,
        corrected: bool = False,
    ) -> pa.Table:
        """One row for each identity, sorted by site, meter and ts, of the columns of EXPORTED.

        `version` reads the table as it stood then; `since_us` leaves out earlier `ts`, `meters` all others. With
        `corrected` every row ever received is there, those of one identity in the order they came. Raises RecordError.
        """
        conditions = _since(since_us)
        if meters is not None:
            conditions.append(pc.field("meter_id").isin(pa.array(meters, pa.string())))
        rows = self._read("readings", site=site, version=version, conditions=conditions)
        return _by_arrival(rows, ("site", "meter_id", "ts"), last=not corrected).select(EXPORTED)

    def newest_us(self, site: str) -> int | None:
        """The latest `ts` of a site's readings, None when there are none. Raises RecordError."""
        batches = self._stream("readings", site, ["ts"], [])
        newest = [pc.max(rows["ts"].cast(pa.int64())).as_py() for rows in batches if rows.num_rows]
        return max(newest, default=None)

    def reading_counts(self, site: str, *, since_us: int) -> dict[str, int]:
        """How many rows of readings each meter of a site has from `since_us` on. Raises RecordError."""
        counts: Counter[str] = Counter()
        for rows in self._stream("readings", site, ["meter_id"], _since(since_us)):
            for counted in pc.value_counts(rows["meter_id"]).to_pylist():
                counts[counted["values"]] += counted["counts"]
        return dict(counts)

    def dead_letters(self, *, site: str | None = None, root: str = "metercast") -> pa.Table:
        """One row for each id of a site's dead letters, and for each meter's readings lost in a gap.

        Topics of the latter are under `root`. Raises RecordError.
        """
        letters = _last_received(self._read("dead_letters", site=site), ("site", "id"))
        gaps = self._read("gaps", site=site).drop_columns(["seq", "row"]).rename_columns({"at": "received_at"})
        lost = self._recorded_anyway(widest(Gap(**row) for row in gaps.to_pylist()))
        given_up = pa.Table.from_pylist(list(dead_letter_rows(lost, root)), letters.schema)
        return pa.concat_tables([letters, given_up]).drop_columns(["row"])

    def scores(self, *, site: str | None = None, since_us: int | None = None, meter: str | None = None) -> pa.Table:
        """One score for each identity, by time, then place in the uplink. Raises RecordError.

        Copies come with another epoch, in which an edge sends again what it does not know to be recorded.
        """
        asked = [] if since_us is None else [pc.field("valid_at") >= _instant(since_us)]
        asked += [] if meter is None else [pc.field("meter_id") == meter]
        rows = self._read("scores", site=site, conditions=asked)
        return _last_received(rows, ("site", "meter_id", "valid_at", "lead", "role")).sort_by(
            [("valid_at", "ascending"), ("seq", "ascending"), ("row", "ascending")]
        )

    def covariates(self, *, site: str | None = None, since_us: int | None = None) -> pa.Table:
        """One row for each issue (site, name, issued_at, start), with `issued_us` and `start_us`. Raises RecordError.

        `since_us` leaves out what starts earlier; a record of a version that knew none has none.
        """
        since = [] if since_us is None else [pc.field("start") >= _instant(since_us)]
        if not DeltaTable.is_deltatable(self._path("covariates")):
            rows = SCHEMAS["covariates"].empty_table()
        else:
            rows = self._read("covariates", site=site, conditions=since)
        rows = _last_received(rows, ("site", "name", "issued_at", "start"))
        for name, column in (("issued_us", "issued_at"), ("start_us", "start")):
            rows = rows.append_column(name, rows[column].cast(pa.int64()))
        return rows

    def spans(self) -> pa.Table:
        """`site, meter_id, first, last` of every meter's readings. Raises RecordError."""
        return spans_of(self._read("readings", columns=["site", "meter_id", "ts"]))

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

    def _recorded_anyway(self, gaps: Iterable[Gap]) -> Iterator[tuple[Gap, int]]:
        """Each gap with how many of its meter's readings came after all, in batches before the gap's own."""
        counts: dict[tuple[str, str, int, int], dict[str, int]] = {}
        for gap in gaps:
            scope = (gap.site, gap.epoch, gap.from_seq, gap.to_seq)
            if scope not in counts:
                seq = pc.field("seq")
                within = [pc.field("epoch") == gap.epoch, seq >= gap.from_seq, seq < gap.to_seq]
                came = self._read("readings", site=gap.site, columns=["meter_id"], conditions=within)
                counts[scope] = dict(Counter(came["meter_id"].to_pylist()))
            yield gap, counts[scope].get(gap.meter_id, 0)

    def _stream(
        self, name: str, site: str, columns: list[str], conditions: Iterable[pc.Expression]
    ) -> Iterator[pa.RecordBatch]:
        """The rows of `_read`, some at a time, so that memory does not grow with them."""
        kept = reduce(operator.and_, conditions, pc.field("site") == site)
        try:
            table = self._open(name, None).to_pyarrow_dataset()
            yield from table.to_batches(columns=columns, filter=kept, use_threads=self._threads)
        except _FOREIGN as error:
            raise RecordError(f"record {self._path(name)}: {_first_line(error)}") from error

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
            table = self._open(name, version).to_pyarrow_dataset()
            return table.to_table(columns=columns, filter=kept, use_threads=self._threads)
        except _FOREIGN as error:
            raise RecordError(f"record {self._path(name)}: {_first_line(error)}") from error


def _instant(instant_us: int) -> pa.Scalar:
    return pa.scalar(instant_us, pa.int64()).cast(INSTANT)


def _since(since_us: int | None) -> list[pc.Expression]:
    """Conditions on readings: from an instant on, and so in the partitions of no earlier month."""
    if since_us is None:
        return []
    month = str(np.datetime64(since_us, "us").astype("datetime64[M]"))
    return [pc.field("month") >= month, pc.field("ts") >= _instant(since_us)]


def _app_id(site: str, epoch: str) -> str:
    return f"{site}/{epoch}"


def _last_received(rows: pa.Table, identity: Sequence[str]) -> pa.Table:
    """For each identity the row received last: by `received_at`, then place in the uplink, sorted by identity."""
    return _by_arrival(rows, identity, last=True)


def _by_arrival(rows: pa.Table, identity: Sequence[str], *, last: bool) -> pa.Table:
    """Rows sorted by identity, then `received_at` and place in the uplink; with `last` only the last of each."""
    if not rows.num_rows:
        return rows
    keys = [_sortable(rows[name]) for name in identity]
    later = [_sortable(rows[name]) for name in ("row", "seq", "received_at")]
    order = np.lexsort((*later, *reversed(keys)))
    if not last:
        return rows.take(pa.array(order))
    changes = np.zeros(len(order) - 1, dtype=bool)
    for key in keys:
        ordered = key[order]
        changes |= ordered[1:] != ordered[:-1]
    return rows.take(pa.array(order[np.append(changes, True)]))


def _sortable(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Integers that sort as the column does, what is not known first."""
    if pa.types.is_timestamp(column.type) or pa.types.is_integer(column.type):
        return np.asarray(pc.fill_null(column.combine_chunks().cast(pa.int64()), -1).to_numpy())
    encoded = column.combine_chunks().dictionary_encode()
    rank = np.empty(len(encoded.dictionary), dtype=np.int64)
    rank[np.asarray(pc.sort_indices(encoded.dictionary))] = np.arange(len(rank))
    return np.asarray(rank[np.asarray(encoded.indices)])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
