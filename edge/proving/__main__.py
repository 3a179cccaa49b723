"""`python -m edge.proving`: try one model out, answer with one line, end."""

from __future__ import annotations

import os
import sys

from edge.proving import confinement, dialogue
from edge.proving.dialogue import Proof, Task
from shared.errors import ModelRefused
from shared.refusals import Cause


def main() -> int:
    """Read a task from stdin and answer on stdout; 0 when there is an answer, whatever it says."""
    out = confinement.only_answer_on(sys.stdout.buffer)
    task = dialogue.read_task(sys.stdin.buffer)
    confinement.give_up_what_is_not_needed(task.parent)
    out.write(dialogue.encode_answer(answer_to(task)))
    out.flush()
    return 0


def answer_to(task: Task) -> Proof | ModelRefused:
    """What trying it out showed; never an error but EOFError, when the edge is gone."""
    try:
        return _tried_out(task)
    except ModelRefused as refused:
        return refused
    except TimeoutError as error:
        return ModelRefused(Cause.TOO_SLOW, f"for {task.budget.rows} rows {error}")
    except MemoryError:
        return ModelRefused(
            Cause.TOO_MUCH_MEMORY, f"it asked for more than the {task.budget.memory_bytes / 2**20:.0f} MiB allowed"
        )
    except EOFError:
        raise
    except Exception as error:  # noqa: BLE001 — the edge is told of whatever it was
        return ModelRefused(Cause.CRASHED, f"it could not be tried out: {type(error).__name__}: {str(error)[:200]}")


def _tried_out(task: Task) -> Proof:
    """Confined between the last import and the first byte of the artifact."""
    from edge.proving.protobuf import onnx_messages
    from edge.proving.trial import try_out

    onnx_messages()
    memory = confinement.Memory.begin()
    memory.limit(task.budget.memory_bytes)
    confinement.limit_time(task.budget.seconds)
    confinement.open_nothing_more(memory)
    return try_out(dialogue.read_artifact(sys.stdin.buffer, task), task.claim, task.budget, memory)


if __name__ == "__main__":
    code = main()
    os._exit(code)  # what native libraries do when they are torn down is nobody's concern any more
