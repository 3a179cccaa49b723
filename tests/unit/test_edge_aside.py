"""A command run aside: heard, bounded, ended with all it began, and nothing of it left."""

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.aside import Ended, ask
from tests.children import nothing_left
from tests.waiting import PATIENCE_S


def _ask(program: str, request: bytes = b"", seconds: float = PATIENCE_S, most_bytes: int = 100) -> Ended:
    command = [sys.executable, "-S", "-c", program]
    return ask(command, [request], environment={}, seconds=seconds, most_bytes=most_bytes)


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    with nothing_left():
        yield


def test_what_is_asked_is_answered() -> None:
    echo = "import sys; said = sys.stdin.buffer.read(3_000_000); print(len(said), end='')"
    assert _ask(echo, b"x" * 3_000_000) == Ended(0, b"3000000")


def test_its_exit_code_is_told() -> None:
    assert _ask("raise SystemExit(7)") == Ended(7, b"")


def test_one_that_ends_before_it_has_read_is_no_error() -> None:
    assert _ask("print('enough', end='')", b"x" * 3_000_000) == Ended(0, b"enough")


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_the_signal_it_died_of_is_told(number: int) -> None:
    assert _ask(f"import os; os.kill(os.getpid(), {number})").code == -number


@pytest.mark.parametrize(
    "program",
    [
        "import time; time.sleep(600)",
        "import os, time; os.close(1); time.sleep(600)",
        "while True: pass",
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
    ],
)
def test_one_that_does_not_end_is_ended(program: str) -> None:
    began_s = time.monotonic()
    assert _ask(program, b"x" * 3_000_000, seconds=0.5) == Ended(-signal.SIGKILL, b"", overdue=True)
    assert time.monotonic() - began_s < PATIENCE_S


def test_one_that_says_too_much_is_ended_and_not_listened_to() -> None:
    ended = _ask("import sys\nwhile True: sys.stdout.write('x' * 65536)", most_bytes=1000)
    assert ended == Ended(-signal.SIGKILL, b"x" * 1001)


def test_what_it_began_ends_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    program = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.close(1); time.sleep(600)\n"
        f"open({str(note)!r}, 'w').write(str(os.getpid()))\n"
    )
    assert (
        _ask(program.replace("time.sleep", f"open({str(note) + '2'!r}, 'w').write(str(os.getpid())); time.sleep")).code
        == 0
    )
    other = Path(f"{note}2")
    deadline_s = time.monotonic() + PATIENCE_S
    while other.exists() and (pid := other.read_text()) and _runs(int(pid)):  # it may end before it has written it
        assert time.monotonic() < deadline_s, "the process it began goes on"
        time.sleep(0.01)


def test_a_command_that_is_not_there_is_an_error_of_the_system() -> None:
    with pytest.raises(FileNotFoundError):
        ask(["/nowhere/python"], [], environment={}, seconds=1, most_bytes=1)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
