"""The ablation's table: what a choice changes, as mean over seeds, with the spread that chance alone makes.

A choice and the recipe are compared seed by seed, so what both owe to the seed's drawing of rows falls out. Noise is
estimated from all choices of a column together (the spread of three seeds says little); the last row tells what a
change must exceed. The recipe's own chance is in every row of a column: all may be a little too high together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from bench.ablation_choices import SHIPPED
from bench.ablation_results import Measured, Results, Run

Floats = NDArray[np.float64]

_ERRORS: Final = 3.0  # standard errors beyond which a change counts: one cell in 370 by chance, if normal


def table(results: Results, choices: Sequence[str], sets: Sequence[str], seeds: Sequence[int]) -> str:
    """Return Markdown, with a row for each choice that was measured on every set with at least one seed.

    A cell is the change of MASE / that of the weighted quantile loss against the recipe in per cent, mean ± standard
    deviation between seeds; the recipe's own row holds its ratios to seasonal naive. A change all seeds agree on that
    is beyond noise is bold.
    """
    changed = {name: changes(results, name, sets, seeds) for name in choices if name != SHIPPED.name}
    changed = {name: found for name, found in changed.items() if len(found)}
    noise = noise_of(list(changed.values()))
    lines = [
        f"| change in % | {' | '.join(sets)} | mean of sets | coverage | training |",
        "|---|" + "---|" * (len(sets) + 3),
        _recipe_row(results, sets, seeds),
    ]
    for name, found in changed.items():
        title = name if len(found) == len(seeds) else f"{name} ({len(found)} of {len(seeds)} seeds)"
        cells = [_cell(found[:, i], noise[i]) for i in range(found.shape[1])]
        lines.append(_row(title, cells, _complete(results, name, sets, seeds)))
    if np.isfinite(noise).all():
        bounds = [f"{mase:.2f} / {wql:.2f}" for mase, wql in noise * _ERRORS / np.sqrt(len(seeds))]
        lines.append(f"| a change must exceed | {' | '.join(bounds)} | | |")
    return "\n".join(lines)


def changes(results: Results, choice: str, sets: Sequence[str], seeds: Sequence[int]) -> Floats:
    """Return per cent [seeds, sets + 1, 2] against the recipe with the same seed; the last column is the sets' mean.

    Seeds that are not measured on every set are left out.
    """
    both = [
        [[_ratios(results[Run(name, one, seed)]) for one in sets] for name in (choice, SHIPPED.name)]
        for seed in seeds
        if all(Run(name, one, seed) in results for name in (choice, SHIPPED.name) for one in sets)
    ]
    pairs = np.array(both, dtype=np.float64).reshape(len(both), 2, len(sets), 2)
    percent = 100.0 * (pairs[:, 0] / pairs[:, 1] - 1.0)
    return np.concatenate([percent, percent.mean(axis=1, keepdims=True)], axis=1) if len(both) else percent


def noise_of(changed: Sequence[Floats]) -> Floats:
    """Return the standard deviation [columns, 2] of a change between seeds, pooled over choices with as many seeds.

    The residual of choices × seeds after the mean of each: what a seed does to all choices alike is in the recipe's
    run too. √2, as a change is of two runs. NaN for under two choices or seeds.
    """
    squares, freedom = np.zeros(changed[0].shape[1:] if changed else (0, 2)), 0
    for seeds in {len(found) for found in changed}:
        block = np.array([found for found in changed if len(found) == seeds])  # [choices, seeds, columns, 2]
        rest = block - block.mean(axis=0) - block.mean(axis=1, keepdims=True) + block.mean(axis=(0, 1))
        squares += (rest**2).sum(axis=(0, 1))
        freedom += (len(block) - 1) * (seeds - 1)
    own: Floats = np.sqrt(2.0 * squares / freedom) if freedom else np.full_like(squares, np.nan)
    return own


def beyond_noise(found: Floats, noise: Floats) -> NDArray[np.bool_]:
    """Return whether changes [seeds, 2] all have one sign and their mean is beyond chance, for both measures [2]."""
    agreed = (np.sign(found) == np.sign(found[0])).all(axis=0)
    beyond: NDArray[np.bool_] = agreed & (np.abs(found.mean(axis=0)) > _ERRORS * noise / np.sqrt(len(found)))
    return beyond


def _cell(found: Floats, noise: Floats) -> str:
    spread = found.std(axis=0, ddof=1) if len(found) > 1 else np.full(2, np.nan)
    texts = [
        f"{round(mean, 1) + 0.0:+.1f}" + ("" if np.isnan(apart) else f" ± {apart:.1f}")
        for mean, apart in zip(found.mean(axis=0), spread, strict=True)
    ]
    marked = beyond_noise(found, noise)
    return " / ".join(f"**{text}**" if bold else text for text, bold in zip(texts, marked, strict=True))


def _recipe_row(results: Results, sets: Sequence[str], seeds: Sequence[int]) -> str:
    """Return the recipe's own ratios to seasonal naive, mean over seeds, and the sets' mean."""
    whole = _complete(results, SHIPPED.name, sets, seeds)
    ratios = np.array([_ratios(one) for one in whole], dtype=np.float64).reshape(-1, len(sets), 2)
    means = ratios.mean(axis=0) if len(ratios) else np.full((len(sets), 2), np.nan)
    cells = [f"{mase:.3f} / {wql:.3f}" for mase, wql in (*means, means.mean(axis=0))]
    return _row(f"{SHIPPED.name}, over seasonal naive", cells, whole)


def _complete(results: Results, choice: str, sets: Sequence[str], seeds: Sequence[int]) -> list[Measured]:
    """Return a choice's results of the seeds it was measured with on every set."""
    by_seed = [[results.get(Run(choice, one, seed)) for one in sets] for seed in seeds]
    return [one for row in by_seed if None not in row for one in row if one is not None]


def _row(title: str, cells: Sequence[str], measured: Sequence[Measured]) -> str:
    coverage, train_s = (
        float(np.mean([getattr(one, name) for one in measured])) if measured else float("nan")
        for name in ("coverage_80", "train_s")
    )
    return f"| {title} | {' | '.join(cells)} | {coverage:.3f} | {train_s:.1f} s |"


def _ratios(one: Measured) -> tuple[float, float]:
    return one.rel_mase, one.rel_wql
