"""What the person in front of the demo sees: steps that stay, and one line that moves while something takes long."""

import shutil
import sys
import time
from typing import Final, TextIO

PLAIN_EVERY_S: Final = 10.0  # without a terminal, a line of progress now and then


class Progress:
    """Prints steps with the seconds since the start, and a moving line below them when `out` is a terminal.

    Invariants: without a terminal no control character is written, and the moving line becomes one plain line every
    ten seconds.
    """

    def __init__(self, out: TextIO = sys.stdout) -> None:
        self._out = out
        self._live = out.isatty()
        self._begun = time.monotonic()
        self._last_plain = self._begun
        self._shown = ""

    @property
    def seconds(self) -> float:
        """Seconds since the demo began."""
        return time.monotonic() - self._begun

    def step(self, text: str) -> None:
        """Print something that happened and stays on the screen."""
        self._clear()
        print(f"{self.seconds:6.1f} s  {text}", file=self._out, flush=True)

    def now(self, text: str) -> None:
        """Show where a long step stands."""
        if not self._live:
            if time.monotonic() - self._last_plain >= PLAIN_EVERY_S:
                self._last_plain = time.monotonic()
                print(f"{self.seconds:6.1f} s    {text}", file=self._out, flush=True)
            return
        width = shutil.get_terminal_size().columns - 1
        line = f"{self.seconds:6.1f} s  · {text}"[:width]
        if line != self._shown:
            self._out.write(f"\r\x1b[2K{line}")
            self._out.flush()
            self._shown = line

    def text(self, text: str = "") -> None:
        """Print plain text, without a time."""
        self._clear()
        print(text, file=self._out, flush=True)

    def _clear(self) -> None:
        if self._shown:
            self._out.write("\r\x1b[2K")
            self._shown = ""
