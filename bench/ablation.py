"""`make bench-ablation DATA=folder`: what each group of features and each choice of the recipe buys, as one table.

A choice is the recipe with something changed or features kept from the trees. Each is trained once before the first of
many origins, at all hours of the day, on each development set and with several seeds, one after another. What is
measured is written at once and not measured again, so a run that was cut goes on where it ended. docs/recipe.md holds
a table.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bench.ablation_choices import GROUPS, SHIPPED, Choice, all_choices, choice_from_text, without
from bench.ablation_results import Measured, Results, Run, Store
from bench.ablation_sets import QUANTILES, DataSet, Protocol, data_set
from bench.ablation_table import table
from bench.accuracy import list_of, missing_reason
from bench.accuracy_sets import SETS
from bench.stage import say
from central.evaluation import forecast_windows, measure, model_forecaster
from central.training import train
from shared.errors import ExitCode

LOWEST_PRIORITY: Final = 19


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what was not measured yet and print the table of all that was; progress goes to stderr."""
    options = _parser().parse_args(argv)
    protocol = Protocol(options.origins, options.spacing, options.before)
    sets = _present(options.sets, options.data, protocol)
    if not sets:
        print("Nothing was measured: `make bench-ablation DATA=folder` needs the folder of the development sets.")
        return ExitCode.FAILED
    choices = chosen(options.only, options.change, options.without)
    store = Store(options.out / "ablation", protocol)
    seeds = range(1, options.seeds + 1)
    code = ExitCode.OK
    results: dict[Run, Measured] = {}
    try:
        run(choices, sets, seeds, store, results)
    except KeyboardInterrupt:
        say("ablation: cut; the same command goes on from here")
        code = ExitCode.INTERRUPTED
    print(table(results, [one.name for one in choices], [one.name for one in sets], seeds))
    return code


def chosen(only: Sequence[str], changes: Sequence[Choice], groups: Sequence[Choice]) -> list[Choice]:
    """Return the recipe, and the choices whose names hold a text of `only` (all without), and those made up."""
    made_up = [*changes, *groups]
    known = [one for one in all_choices()[1:] if any(part in one.name for part in only) or not (only or made_up)]
    return [SHIPPED, *known, *made_up]


def run(
    choices: Sequence[Choice], sets: Sequence[DataSet], seeds: Sequence[int], store: Store, results: dict[Run, Measured]
) -> Results:
    """Put the result of every (choice, set, seed) into `results`, measuring what is not in the store.

    Seed by seed, so that a run that is cut has compared everything with fewer seeds.
    """
    runs = [(choice, one, seed) for seed in seeds for choice in choices for one in sets]
    for number, (choice, one, seed) in enumerate(runs, 1):
        found = store.load(choice, one.name, seed)
        if found is None:
            found = measured(choice, one, seed)
            store.save(choice, one.name, seed, found)
            ratios = f"{found.rel_mase:.4f} / {found.rel_wql:.4f}"
            say(f"ablation: {number} of {len(runs)}: {choice.name}, {one.name}, seed {seed}: {ratios}")
        results[Run(choice.name, one.name, seed)] = found
    return results


def measured(choice: Choice, one: DataSet, seed: int) -> Measured:
    """Train a choice on a data set and measure it against seasonal naive on the same windows."""
    began_s = time.process_time()
    until_us = int(one.windows.origins_us.max())
    recipe = choice.recipe(seed)
    model = train(one.known, until_us=until_us, recipe=recipe, calendar=one.calendar, ignored=choice.ignored)
    train_s = time.process_time() - began_s
    forecast = forecast_windows(one.panel, one.windows, model_forecaster(model, one.calendar))
    own = measure(one.windows, forecast, QUANTILES, slice(None))
    return Measured(own["mase"] / one.naive["mase"], own["wql"] / one.naive["wql"], own["coverage_80_raw"], train_s)


def _present(names: Sequence[str], folder: Path | None, protocol: Protocol) -> list[DataSet]:
    """Return the sets that are there; says what is not."""
    there = []
    for name in names:
        reason = missing_reason(folder, SETS[name])
        if folder is None or reason:
            say(f"{name} is left out: {reason}")
            continue
        try:
            there.append(data_set(name, SETS[name], folder, protocol))
        except (OSError, ValueError) as error:
            say(f"{name} is left out: {error}")
    return there


def _parser() -> argparse.ArgumentParser:
    usual = Protocol()
    parser = argparse.ArgumentParser(prog="bench.ablation", description="What each choice of the recipe buys.")
    parser.add_argument("--data", type=Path, help="folder of the development sets' Parquet files")
    parser.add_argument("--sets", type=list_of(SETS), default=list(SETS), metavar="LIST", help=f"of: {','.join(SETS)}")
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="N", help="train with seeds 1 to N (default %(default)s)"
    )
    for option, default, text in (
        ("--origins", usual.origins, "origins of each meter"),
        ("--spacing", usual.spacing_h, "hours between them"),
        ("--before", usual.before_h, "hours kept at each meter's end for other tests"),
    ):
        parser.add_argument(option, type=int, default=default, metavar="N", help=f"{text} (default %(default)s)")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="choices whose names hold it (all)")
    parser.add_argument(
        "--change", action="append", default=[], type=_change, metavar="FIELD=VALUE,…", help="try this change of fields"
    )
    parser.add_argument(
        "--without", action="append", default=[], type=_groups, metavar="GROUP,…", help=f"of: {', '.join(GROUPS)}"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("bench-out"), help="folder of the results (default %(default)s)"
    )
    return parser


def _change(text: str) -> Choice:
    try:
        return choice_from_text(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _groups(text: str) -> Choice:
    return without(list_of(GROUPS)(text))


if __name__ == "__main__":
    os.nice(LOWEST_PRIORITY)  # it takes an hour and nobody waits for it
    raise SystemExit(main())
