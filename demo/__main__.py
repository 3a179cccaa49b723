"""`python -m demo`: replay real households through a real broker, edge and central, and show the loop close."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from demo.picture import draw
from demo.processes import DemoFailed
from demo.progress import Progress
from demo.run import play
from demo.scenario import Scenario, quick
from demo.stage import Options, Stage, staged
from demo.summary import summarize, write_summary
from demo.telling import broken, tell
from shared.errors import ExitCode, MetercastError, exit_code_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; returns an exit code of `shared.errors.ExitCode`."""
    arguments = _parser().parse_args(argv)
    options = Options(quick() if arguments.quick else Scenario(), arguments.out, arguments.day_s)
    progress = Progress()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(options, progress, keep=arguments.keep)
    except KeyboardInterrupt:
        progress.text("stopped")
        return ExitCode.INTERRUPTED
    except DemoFailed as failure:
        progress.text(f"demo: {failure}")
        if failure.log_tail:
            progress.text(failure.log_tail)
        return ExitCode.FAILED
    except MetercastError as error:
        progress.text(f"demo: {error}")
        return exit_code_of(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo-out"), help="folder for the summary, picture and logs")
    parser.add_argument("--quick", action="store_true", help="half the households and five weeks of history")
    parser.add_argument("--day-s", type=float, default=1.2, help="seconds a live day takes (default 1.2)")
    kept = os.environ.get("KEEP", "") not in ("", "0")
    parser.add_argument("--keep", action="store_true", default=kept, help="stay up at the end, until Ctrl-C")
    return parser


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(options: Options, progress: Progress, *, keep: bool) -> ExitCode:
    with staged(options, progress) as stage:
        outcome = play(stage)
        progress.now("drawing the picture")
        picture, summary_file = stage.out / "loop.png", stage.out / "summary.json"
        summary = summarize(outcome)
        draw(outcome, picture)
        summary["seconds"] = round(progress.seconds, 1)
        write_summary(summary, summary_file)
        tell(summary, progress)
        progress.text(f"\nthe figures: {summary_file}\nthe picture: {picture}")
        fault = broken(summary)
        if fault:
            progress.text(f"demo: broken: {fault}")
        if keep:
            _stay_up(stage)
    return ExitCode.FAILED if fault else ExitCode.OK


def _stay_up(stage: Stage) -> None:
    """Leave broker, edge and central running for a look around, until Ctrl-C."""
    stage.progress.text(
        f"\nstill running; Ctrl-C ends it\n"
        f"  mosquitto_sub -h 127.0.0.1 -p {stage.port} -t 'metercast/{stage.scenario.site}/#' -v\n"
        f"  http://127.0.0.1:{stage.metrics_port}/metrics"
    )
    while True:
        stage.require_up()
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())
