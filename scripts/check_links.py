"""Check that every relative link in the Markdown files leads to a file or folder of this tree.

Usage: python scripts/check_links.py. Prints one line per broken link; exit code 1 when there is any.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OUTSIDE = ("http://", "https://", "mailto:", "#")
GENERATED = {".venv", ".venv-bench", "demo-out", "bench-out"}


def broken_links(page: Path) -> list[str]:
    """Return one sentence per link of the page that leads nowhere."""
    targets = [target for target in LINK.findall(page.read_text("utf-8")) if not target.startswith(OUTSIDE)]
    missing = [target for target in targets if not (page.parent / target.split("#")[0]).exists()]
    return [f"{page.relative_to(ROOT)}: {target}: no such file" for target in missing]


def main() -> int:
    """Check every page of the tree and return the exit code."""
    pages = [page for page in ROOT.rglob("*.md") if not GENERATED & set(page.relative_to(ROOT).parts)]
    broken = [line for page in sorted(pages) for line in broken_links(page)]
    sys.stdout.writelines(f"{line}\n" for line in broken)
    return int(bool(broken))


if __name__ == "__main__":
    sys.exit(main())
