"""`python -m tests.faults`: play the faults with fresh seeds until the time is over, or one of them again."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from shared.clock import to_us, wall_now
from tests.faults.rig import Stage
from tests.faults.scenarios import SCENARIOS, Outcome, play

_COLUMNS = "{:<25}{:>12}{:>10}{:>9}{:>7}{:>9}  {}"


def main(argv: Sequence[str] | None = None) -> int:
    """0 when every run was sound, 1 when one was not, 2 for wrong arguments."""
    options = _parser().parse_args(argv)
    if options.replay:
        name, seed = options.replay
        return _report([_run(name, int(seed), long=not options.short)])
    until_s = time.monotonic() + options.minutes * 60
    seed = options.seed if options.seed is not None else to_us(wall_now()) // 1_000_000 % 1_000_000
    outcomes: list[Outcome] = []
    with contextlib.suppress(KeyboardInterrupt):
        for name, number in _runs(seed):
            if time.monotonic() >= until_s:
                break
            outcomes.append(_run(name, number, long=not options.short))
    return _report(outcomes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to go on (default %(default)s)")
    parser.add_argument("--seed", type=int, help="the first seed (default: the time)")
    parser.add_argument("--short", action="store_true", help="runs as short as in make test")
    parser.add_argument(
        "--replay", nargs=2, metavar=("SCENARIO", "SEED"), help=f"play one again: {', '.join(SCENARIOS)}"
    )
    return parser


def _runs(seed: int) -> Iterator[tuple[str, int]]:
    """Every scenario in an order of the seed's, again and again, each time with another seed."""
    for number in itertools.count(seed):
        names = list(SCENARIOS)
        random.Random(number).shuffle(names)
        for name in names:
            yield name, number


def _run(name: str, seed: int, *, long: bool) -> Outcome:
    """Play one on a stage of its own; its folder goes away when it was sound."""
    folder = Path(tempfile.mkdtemp(prefix=f"metercast-{name}-{seed}-"))
    stage = Stage(folder, bridged=SCENARIOS[name].bridged)
    begun_s = time.monotonic()
    try:
        stage.start(f"{name}-{seed}")
        outcome = play(name, seed, stage, long=long)
    except (Exception, pytest.fail.Exception) as error:  # noqa: BLE001  # a run that fails is a finding, not the end
        outcome = Outcome(name, seed, seconds=time.monotonic() - begun_s)
        outcome.verdict.broken.append(f"{type(error).__name__}: {error}")
    finally:
        stage.stop()
    _say(outcome)
    if outcome.verdict.sound:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        _print(f"{outcome.verdict}\nkept: {folder}\nreplay: {_replay(name, seed, long=long)}")
    return outcome


def _replay(name: str, seed: int, *, long: bool) -> str:
    return f"python -m tests.faults {'' if long else '--short '}--replay {name} {seed}"


def _say(outcome: Outcome) -> None:
    word = "sound" if outcome.verdict.sound else "BROKEN"
    counts = (outcome.readings, outcome.letters, outcome.kills, f"{outcome.seconds:.1f} s")
    _print(_COLUMNS.format(outcome.scenario, outcome.seed, *counts, "; ".join([word, *outcome.notes])))


def _report(outcomes: Sequence[Outcome]) -> int:
    """The table of all runs by scenario; the exit code."""
    _print("\n" + _COLUMNS.format("scenario", "runs", "readings", "letters", "kills", "seconds", "broken"))
    for name in dict.fromkeys(outcome.scenario for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.scenario == name]
        sums = [sum(getattr(outcome, what) for outcome in mine) for what in ("readings", "letters", "kills")]
        broken = sum(not outcome.verdict.sound for outcome in mine)
        _print(_COLUMNS.format(name, len(mine), *sums, f"{sum(outcome.seconds for outcome in mine):.0f}", broken))
    return 0 if all(outcome.verdict.sound for outcome in outcomes) else 1


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
