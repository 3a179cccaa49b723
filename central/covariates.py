"""Covariates centrally: what the sites' records or a file say of series known ahead, as columns for training rows.

Invariants: a row's columns hold what was issued by its origin, whatever was issued later; a site's meters see its own
covariates alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import pyarrow as pa

from shared.clock import DAY_US, SECOND_US, iso
from shared.covariates import (
    COLUMNS_OF_A_NAME,
    KNOWN_FROM_EVER_US,
    MAX_NAMES,
    Columns,
    Issue,
    check_issue,
    check_steps,
    is_covariate_name,
)
from shared.errors import DataFileError
from shared.outlook import Ints, Outlook, covariate_columns

WORTH_FROM: Final = 0.1  # of the meters' days on which a covariate was known a day ahead: of less nothing is learned
_HOUR_STRIDE: Final = 25  # days are tried at changing hours

Outlooks = Mapping[str, Outlook]


@dataclass(frozen=True, slots=True)
class Covariates:
    """What N rows may know ahead: `names` is what a model is trained with, `places` [N] each row's place in `sites`."""

    names: tuple[str, ...]
    sites: tuple[Outlooks, ...]
    places: Ints

    @classmethod
    def by_site(cls, issues: Mapping[str, Iterable[Issue]], sites_of_rows: list[str], step_us: int) -> Covariates:
        """From each site's issues, for rows of these sites, on the grid of `step_us`."""
        known = sorted(set(sites_of_rows))
        outlooks = tuple(_outlooks(issues.get(site, ()), step_us) for site in known)
        names = sorted({name for own in outlooks for name in own})
        places = np.array([known.index(site) for site in sites_of_rows], dtype=np.int64)
        return cls(tuple(names), outlooks, places)

    def of(self, rows: Ints) -> Covariates:
        """Those of some of the rows, in their order."""
        return replace(self, places=self.places[rows])

    def columns(self, names: tuple[str, ...], origins_us: Ints, leads: Ints) -> Columns:
        """Return float32 [N, L, 3·names] of what was known at origins [N] about leads [L] or [N, L]."""
        shape = (len(origins_us), leads.shape[-1], COLUMNS_OF_A_NAME * len(names))
        columns = np.full(shape, np.nan, dtype=np.float32)
        for place in np.unique(self.places).tolist() if names else ():
            mine = self.places == place
            own_leads = leads if leads.ndim == 1 else leads[mine]
            columns[mine] = covariate_columns(self.sites[place], names, origins_us[mine], own_leads)
        return columns

    def worth_learning(self, start_us: int, end_us: int, step_us: int) -> Covariates:
        """Those that were known often enough, the best known MAX_NAMES of them."""
        origins_us = np.arange(start_us, end_us, _HOUR_STRIDE * DAY_US // 24, dtype=np.int64)
        lead = np.array([DAY_US // step_us], dtype=np.int64)
        rows = np.bincount(self.places, minlength=len(self.sites))
        shares = dict.fromkeys(self.names, 0.0)
        for own, weight in zip(self.sites, rows / max(1, len(self.places)), strict=True):
            for name, outlook in own.items():
                known = np.isfinite(outlook.columns(origins_us, lead)[:, 0, 0])
                shares[name] += float(weight * known.mean()) if len(known) else 0.0
        best = sorted(self.names, key=lambda name: -shares[name])[:MAX_NAMES]
        return replace(self, names=tuple(sorted(name for name in best if shares[name] >= WORTH_FROM)))


def _outlooks(issues: Iterable[Issue], step_us: int) -> Outlooks:
    by_name: dict[str, list[Issue]] = {}
    for issue in issues:
        by_name.setdefault(issue.name, []).append(issue)
    return {name: Outlook.of(own, step_us) for name, own in by_name.items()}


def covariate_columns_of(
    covariates: Covariates | None, names: tuple[str, ...], origins_us: Ints, leads: Ints
) -> Columns:
    """Return the columns of `names` for rows that may have no covariates at all: then they are NaN."""
    nothing = Covariates(names, ({},), np.zeros(len(origins_us), dtype=np.int64))
    return (covariates or nothing).columns(names, origins_us, leads)


def issues_from_record(rows: pa.Table) -> dict[str, list[Issue]]:
    """Return each site's issues of the record's rows (see Record.covariates); what is no issue is left out."""
    issues: dict[str, list[Issue]] = {}
    for row in rows.to_pylist():
        values = np.array([np.nan if value is None else value for value in row["values"]], dtype=np.float64)
        try:
            step_us = round(row["step_s"] * SECOND_US)
            issue = Issue(row["name"], row["issued_us"], row["start_us"], step_us, values, row["unit"] or "")
            check_issue(issue)
        except (ValueError, OverflowError):  # an edge of another version took it
            continue
        if not is_covariate_name(issue.name):
            continue
        issues.setdefault(row["site"], []).append(issue)
    return issues


def issues_from_file(path: Path) -> list[Issue]:
    """Read `name, ts, value` and perhaps `issued_at` from Parquet or CSV; raises DataFileError in a sentence.

    A value holds from its `ts` for the most common distance between the `ts` of its name. Without `issued_at` all is
    taken as known from ever, as if forecasts were perfect.
    """
    issues: list[Issue] = []
    for name, rows in _read(path).groupby("name", sort=True):
        step_us = _step_us(rows["ts_us"].to_numpy())
        for issued_us, own in rows.groupby("issued_us", sort=True):
            issues += _issues(str(name), int(str(issued_us)), own, step_us, path)
    return issues


def _read(path: Path) -> pd.DataFrame:
    """Return `name, issued_us, ts_us, value` of a file, of one identity the last, or say what is wrong with it."""
    try:
        rows = pd.read_csv(path) if path.suffix.lower() == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as e:  # pyarrow's own errors are ValueErrors
        raise DataFileError(f"{path}: cannot be read: {str(e).splitlines()[0]}") from e
    missing = {"name", "ts", "value"} - set(rows.columns)
    if missing:
        raise DataFileError(f"{path}: has no column {', '.join(sorted(missing))}")
    rows = rows.dropna(subset=["name", "ts", "value"])
    wrong = [name for name in map(str, rows["name"].unique()) if not is_covariate_name(name)]
    if wrong or not len(rows):
        raise DataFileError(f"{path}: {f'{wrong[0]!r:.80} is no name of a covariate' if wrong else 'holds no values'}")
    try:
        issued_us = _instants_us(rows["issued_at"]) if "issued_at" in rows else KNOWN_FROM_EVER_US
        value = pd.to_numeric(rows["value"]).astype(np.float64)
        told = {"name": rows["name"].astype(str), "issued_us": issued_us, "ts_us": _instants_us(rows["ts"])}
    except (ValueError, TypeError) as e:
        raise DataFileError(f"{path}: {str(e).splitlines()[0]}") from e
    identity = ["name", "issued_us", "ts_us"]
    return pd.DataFrame({**told, "value": value}).drop_duplicates(identity, keep="last").sort_values(identity)


def _instants_us(column: pd.Series) -> pd.Series:
    return pd.to_datetime(column, utc=True).dt.as_unit("us").astype("int64")


def _step_us(ts_us: Ints) -> int:
    """The most common distance between instants, an hour where there is one instant alone."""
    distances, counts = np.unique(np.diff(np.unique(ts_us)), return_counts=True)
    return int(distances[counts.argmax()]) if len(distances) else DAY_US // 24


def _issues(name: str, issued_us: int, own: pd.DataFrame, step_us: int, path: Path) -> Iterator[Issue]:
    """One issue's values, in as many parts as its instants are off one another's steps or further apart than one."""
    ts_us, values = own["ts_us"].to_numpy(dtype=np.int64), own["value"].to_numpy(dtype=np.float64)
    ends = np.flatnonzero(np.diff(ts_us) != step_us) + 1
    for part in np.split(np.arange(len(ts_us)), ends):
        issue = Issue(name, issued_us, int(ts_us[part[0]]), step_us, values[part])
        try:
            check_steps(issue)
        except ValueError as e:
            raise DataFileError(f"{path}: {name} at {iso(issue.start_us)}: {e}") from e
        yield issue
