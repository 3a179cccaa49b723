"""One seed, from an empty folder to its verdict."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from tests.simulation.checks import Violation
from tests.simulation.world import World

MEMORY: Final = Path("/dev/shm")  # where there is one, a sync to disk costs nothing


def failure_of(seed: int, say: Callable[[str], None] | None = None, *, without: Collection[str] = ()) -> str | None:
    """What does not hold under this seed and how to see it again, or None. Another error passes through, named."""
    folder = Path(tempfile.mkdtemp(prefix="metercast-simulation-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        World(seed, folder, say, without=without).run()
    except Violation as violation:
        return f"seed {seed}: {violation}; replay with: python -m tests.simulation --replay {seed}"
    except Exception as error:
        error.add_note(f"replay with: python -m tests.simulation --replay {seed}")
        raise
    finally:
        shutil.rmtree(folder)
    return None
