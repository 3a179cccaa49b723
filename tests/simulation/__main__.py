"""`python -m tests.simulation`: many seeds with progress, or one seed again with its event log."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Final

from tests.simulation.run import failure_of
from tests.simulation.world import FAULTS

FAILED: Final = 1


def main(argv: list[str] | None = None) -> int:
    """Run the seeds asked for; returns 1 when one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000, help="how many seeds (default 2000)")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed (default 0)")
    parser.add_argument("--seconds", type=float, help="stop after so long, however many seeds are left")
    parser.add_argument("--replay", type=int, metavar="SEED", help="run this seed alone")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the event log")
    parser.add_argument("--without", action="append", choices=FAULTS, default=[], help="leave a fault out; repeatable")
    given = parser.parse_args(argv)
    if given.replay is not None:
        found = failure_of(given.replay, print if given.verbose else None, without=given.without)
        print(found or f"seed {given.replay} holds")
        return FAILED if found else 0
    return _many(range(given.first, given.first + given.seeds), given.seconds or float("inf"), given.without)


def _many(seeds: range, seconds: float, without: list[str]) -> int:
    begun_s = told_s = time.monotonic()
    failures, done = 0, 0
    for seed in seeds:
        now_s = time.monotonic()
        if now_s - begun_s > seconds:
            break
        if now_s - told_s > 5:
            told_s = now_s
            print(f"{done} seeds in {now_s - begun_s:.0f} s, {failures} failed", file=sys.stderr)
        found = failure_of(seed, without=without)
        done += 1
        if found:
            failures += 1
            print(found, flush=True)
    print(f"{done} seeds in {time.monotonic() - begun_s:.1f} s, {failures} failed")
    return FAILED if failures else 0


if __name__ == "__main__":
    sys.exit(main())
