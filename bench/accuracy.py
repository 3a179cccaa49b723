"""`make bench-accuracy DATA=folder`: ours beside simple rules and other libraries, same series, origins and measures.

Ours is the command `central backtest`; its forecasts say which windows there are. Everybody hands in forecasts as rows
`meter_id, origin, lead, quantile, value`, which are all measured by the same functions.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pandas as pd

from bench.accuracy_groups import Group, group_table, groups_of
from bench.accuracy_judge import RULES, Judge, Measured
from bench.accuracy_sets import SETS, DevelopmentSet, prepare
from bench.contestants import PEERS
from bench.stage import ROOT, BenchFailed, python, say
from shared.errors import ExitCode

OURS: Final = "metercast"
PATIENCE_S: Final = 1200.0

# The order of the command line: what is slow is bounded in its meters, and the table says on how many.
_METERS_AT_MOST: Final[Mapping[str, int]] = {"ets": 8, "mstl": 8, "theta": 20}
_TITLES: Final[Mapping[str, str]] = {
    "mlforecast": "mlforecast, recursive LightGBM 400 × 63",
    "ets": "statsforecast AutoETS (24)",
    "mstl": "statsforecast MSTL (24, 168)",
    "theta": "statsforecast DynamicOptimizedTheta (24)",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What one contestant reached on one set; `ours` is metercast on the same meters, where those are not all."""

    set: str
    who: str
    measured: Measured
    ours: Measured
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is there, say what is not, print the tables and write the JSON."""
    options = _parser().parse_args(argv)
    peers = _present(options.peers)
    rows: list[Row] = []
    groups: list[Group] = []
    for name in options.sets:
        reason = missing_reason(options.data, SETS[name])
        if reason:
            say(f"{name} is left out: {reason}")
            continue
        try:
            made, own = run_set(name, SETS[name], options.data, peers)
        except (BenchFailed, OSError, ValueError) as error:
            say(f"{name} is left out: {error}")
            continue
        rows += made
        groups += own
        _write(rows, groups, options.out)
    if not rows:
        print("Nothing was measured: `make bench-accuracy DATA=folder` needs the folder of the development sets.")
        return ExitCode.FAILED
    print(accuracy_table(rows))
    print()
    print(group_table(groups))
    print(f"\nThe same as JSON is in {options.out}/accuracy.json.")
    return ExitCode.OK


def run_set(name: str, chosen: DevelopmentSet, data: Path, peers: Sequence[str]) -> tuple[list[Row], list[Group]]:
    """Return everybody's rows on one set, ours first, and the groups of its meters."""
    with tempfile.TemporaryDirectory(prefix="metercast-accuracy-") as folder:
        readings, windows = Path(folder) / "readings.parquet", Path(folder) / "windows.parquet"
        hours = prepare(chosen, data)
        hours.to_parquet(readings)
        say(f"{name}: {hours['meter_id'].nunique()} meters, {len(hours)} hours")
        began_s = time.monotonic()
        ours = _ours(chosen, readings, Path(folder) / "ours.parquet")
        judge = Judge(readings, ours)
        ours[["meter_id", "origin"]].drop_duplicates().to_parquet(windows)
        all_of_ours = judge.measure(ours)
        rows = [Row(name, OURS, all_of_ours, all_of_ours, time.monotonic() - began_s)]
        for rule in RULES:
            made = judge.rule(rule)
            rows.append(Row(name, rule, judge.measure(made), all_of_ours, 0.0))
        for peer in peers:
            rows += _peer_row(name, peer, chosen, readings, windows, judge, ours)
        return rows, groups_of(name, chosen, judge, ours)


def _peer_row(
    name: str, peer: str, chosen: DevelopmentSet, readings: Path, windows: Path, judge: Judge, ours: pd.DataFrame
) -> list[Row]:
    """Return a peer's row, or none if it broke down, which is told."""
    out = windows.with_name(f"{peer}.parquet")
    began_s = time.monotonic()
    say(f"{name}: {_TITLES[peer]}")
    try:
        _run(_peer_command(peer, chosen, readings, windows, out), peer)
        made = pd.read_parquet(out)
    except (BenchFailed, OSError) as error:
        say(f"{name}: {peer} is left out: {error}")
        return []
    same = ours[ours["meter_id"].isin(set(made["meter_id"]))]
    return [Row(name, _TITLES[peer], judge.measure(made), judge.measure(same), time.monotonic() - began_s)]


def _ours(chosen: DevelopmentSet, readings: Path, out: Path) -> pd.DataFrame:
    """Return our forecasts, as the command makes them."""
    command = [
        "backtest",
        "--readings",
        str(readings),
        "--own-ends",
        "--zone",
        chosen.zone,
        "--out",
        str(out),
        "--json",
    ]
    _run(python("central", *command, *(["--country", chosen.country] if chosen.country else [])), OURS)
    return pd.read_parquet(out)


def _peer_command(peer: str, chosen: DevelopmentSet, readings: Path, windows: Path, out: Path) -> list[str]:
    interpreter = [str(PEERS / "bin" / "python"), "-m"]
    files = [str(readings), str(windows), str(out)]
    if peer == "mlforecast":
        return [*interpreter, "bench.peers_mlforecast", *files, chosen.zone]
    return [*interpreter, "bench.peers_statsforecast", peer, str(_METERS_AT_MOST[peer]), *files]


def _run(command: list[str], who: str) -> None:
    """Run a contestant on one thread, its progress on our stderr; raises BenchFailed when it fails."""
    try:
        done = subprocess.run(command, cwd=ROOT, env=one_thread(), stdout=subprocess.DEVNULL, timeout=PATIENCE_S)
    except subprocess.TimeoutExpired as error:
        raise BenchFailed(f"{who} was not through after {PATIENCE_S:g} s") from error
    if done.returncode:
        raise BenchFailed(f"{who} ended with {done.returncode}")


def one_thread() -> dict[str, str]:
    """Return the environment in which numeric libraries keep to one thread."""
    return dict(os.environ) | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


def _present(peers: Sequence[str]) -> Sequence[str]:
    """Return the peers that can run here; says so if none can."""
    if peers and not (PEERS / "bin" / "python").exists():
        say(f"{', '.join(peers)}: there is no .venv-bench (`make peers` makes it), so only simple rules compete.")
        return []
    return peers


def missing_reason(data: Path | None, chosen: DevelopmentSet) -> str:
    """Return why a set cannot be measured, if so."""
    if data is None:
        return f"no DATA folder was named, and it needs {chosen.file} from there"
    return "" if (data / chosen.file).is_file() else f"{chosen.file} is not in {data}"


def accuracy_table(rows: Sequence[Row]) -> str:
    """Return all rows as a Markdown table; who is ahead of ours on the same meters is marked."""
    lines = [
        "| set | forecaster | meters | MASE | wQL | coverage of 80 % | ours on the same meters: MASE / wQL |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        got, ours = row.measured, row.ours
        beside = "" if row.who == OURS else f"{ours.mase:.3f} / {ours.wql:.4f}{_verdict(got, ours)}"
        cells = [row.set, row.who, str(got.meters), f"{got.mase:.3f}", f"{got.wql:.4f}", f"{got.coverage_80:.1%}"]
        lines.append("| " + " | ".join([*cells, beside]) + " |")
    return "\n".join(lines)


def _verdict(got: Measured, ours: Measured) -> str:
    ahead = [name for name, theirs, own in (("MASE", got.mase, ours.mase), ("wQL", got.wql, ours.wql)) if theirs < own]
    return f" **ahead of ours: {', '.join(ahead)}**" if ahead else ""


def _write(rows: Sequence[Row], groups: Sequence[Group], folder: Path) -> None:
    """`folder/accuracy.json`, after every set, so that what was measured is not lost."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {
        "sets": [
            {
                "set": row.set,
                "who": row.who,
                **row.measured.as_json(),
                "ours_on_same_meters": row.ours.as_json(),
                "seconds": round(row.seconds, 1),
            }
            for row in rows
        ],
        "groups": [group.as_json() for group in groups],
    }
    text = json.dumps(found, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "accuracy.json").write_text(text + "\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.accuracy", description="Ours beside peers on the development sets.")
    parser.add_argument("--data", type=Path, help="folder of the development sets' Parquet files")
    parser.add_argument("--sets", type=list_of(SETS), default=list(SETS), metavar="LIST", help=f"of: {','.join(SETS)}")
    parser.add_argument(
        "--peers",
        type=list_of(_TITLES),
        default=list(_TITLES),
        metavar="LIST",
        help=f"of: {','.join(_TITLES)}, or none",
    )
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder of the JSON (default %(default)s)")
    return parser


def list_of(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    """Return what makes a list of names of `known` out of `a,b` (`none`: an empty one), as argparse takes it."""

    def names(text: str) -> list[str]:
        given = [] if text == "none" else [part.strip() for part in text.split(",") if part.strip()]
        wrong = [name for name in given if name not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]!r}: expected some of {','.join(known)}")
        return given

    return names


if __name__ == "__main__":
    raise SystemExit(main())
