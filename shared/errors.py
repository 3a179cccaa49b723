"""Every error metercast raises on purpose, and the exit codes its commands end with.

    MetercastError                 one sentence that names the key, topic or file
    ├── ParamsError                a parameter is unknown or has a wrong value
    ├── ReadingRefused             a payload or reading cannot be taken; becomes a dead letter
    ├── MessageRefused             a control message (acked, desired, uplink …) cannot be read
    ├── ModelRefused               a manifest or artifact failed a check; the running model stays
    ├── RecordError                the record cannot be read or written
    ├── StateError                 the edge's own state cannot be read or written
    │   └── StateDamaged           it is damaged: the next start quarantines it and saves what is left
    ├── DataFileError              a file given on the command line cannot be used
    ├── BrokerUnreachable          no connection to the MQTT broker
    └── SiteTaken                  another edge serves this site

Errors of other libraries become one of these at the edge of the module that owns the library.
"""

from __future__ import annotations

from enum import IntEnum

from shared.refusals import Cause


class MetercastError(Exception):
    """Root of all our errors; its text is one sentence fit for a person."""


class ParamsError(MetercastError):
    """A parameter is unknown or its value does not fit."""


class ReadingRefused(MetercastError):
    """A payload or one reading of it cannot be taken; the text is the dead letter's reason."""


class MessageRefused(MetercastError):
    """A control message cannot be read or has an unknown schema."""


class ModelRefused(MetercastError):
    """A manifest or artifact failed a check: `cause` is reported to central with the text beside it."""

    def __init__(self, cause: Cause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


class RecordError(MetercastError):
    """The record cannot be read or written."""


class StateError(MetercastError):
    """The edge's state database cannot be read or written."""


class StateDamaged(StateError):
    """The edge's state database is damaged; a new start quarantines it and saves what is left."""


class DataFileError(MetercastError):
    """A file given on the command line cannot be used."""


class BrokerUnreachable(MetercastError):
    """The MQTT broker does not answer or refuses us."""


class SiteTaken(MetercastError):
    """Another edge serves this site; the one that came second stops."""


class ExitCode(IntEnum):
    """What a command's exit code means."""

    OK = 0
    FAILED = 1  # an error of ours, told in one line
    USAGE = 2  # wrong arguments (argparse) or parameters
    BROKER_UNREACHABLE = 3  # the broker could not be reached
    REJECTED = 4  # a model was trained but did not meet the production criteria
    SITE_TAKEN = 5  # another edge serves this site
    INTERRUPTED = 130  # Ctrl-C before the work was done


def exit_code_of(error: MetercastError) -> ExitCode:
    """The exit code a command ends with when `error` stops it."""
    match error:
        case ParamsError():
            return ExitCode.USAGE
        case BrokerUnreachable():
            return ExitCode.BROKER_UNREACHABLE
        case SiteTaken():
            return ExitCode.SITE_TAKEN
        case _:
            return ExitCode.FAILED
