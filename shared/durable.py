"""What must outlive a power cut: the one place that has a file or a folder written to the disk itself.

A file that was created, renamed or removed is on the disk only once its folder is.
"""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Return once the disk has what a file or folder holds. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
