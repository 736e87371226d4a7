"""Every error that Planner raises on purpose, and the exit code that it becomes.

    PlannerError                  1  internal error (never raised itself)
    ├── InputError                2  a file, a field, an option or a value is wrong
    ├── NotFoundError             2  a file, model, profile or type that was named does not exist
    ├── SetupError                2  something this machine needs is missing; the hint says how to get it
    ├── NoPlanError               3  the problem is infeasible, or no plan was found in time
    ├── CheckFailed               4  a check or a verification failed
    ├── Incomplete                5  some points failed or the budget ended; what is finished is stored
    ├── DeviceError               5  the measured device is lost, or not ours alone where it has to be
    ├── LoadError                 5  a load generator failed, or cannot do this; Triton did nothing wrong
    ├── ModelError                5  a model's files are not what they were when the sweep began
    └── ServerError               5  Triton did not do what was asked
        ├── TritonUnreachable        no answer within the deadline
        ├── TritonExited             the process ended; the error carries the tail of its log
        └── TritonRefused            it answered, with an error

`planner.cli` is the only place where one of them becomes text.
"""

from __future__ import annotations


class PlannerError(Exception):
    """Base of all: a message in one sentence, a hint that says what to do, and the exit code."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, log_tail: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log_tail = log_tail

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), self.message, self.hint, self.log_tail))


def _rebuild(kind: type[PlannerError], message: str, hint: str | None, log_tail: str | None) -> PlannerError:
    return kind(message, hint=hint, log_tail=log_tail)


class InputError(PlannerError):
    exit_code = 2


class NotFoundError(PlannerError):
    exit_code = 2


class SetupError(PlannerError):
    exit_code = 2


class NoPlanError(PlannerError):
    """`status` is infeasible or not-found; `reasons` say in amounts and names what is missing."""

    exit_code = 3

    def __init__(self, message: str, *, status: str, reasons: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.reasons = reasons

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild_no_plan, (self.message, self.status, self.reasons))


def _rebuild_no_plan(message: str, status: str, reasons: tuple[str, ...]) -> NoPlanError:
    return NoPlanError(message, status=status, reasons=reasons)


class CheckFailed(PlannerError):
    exit_code = 4


class Incomplete(PlannerError):
    exit_code = 5


class DeviceError(PlannerError):
    exit_code = 5


class LoadError(PlannerError):
    exit_code = 5


class ModelError(PlannerError):
    exit_code = 5


class ServerError(PlannerError):
    exit_code = 5


class TritonUnreachable(ServerError):
    pass


class TritonExited(ServerError):
    pass


class TritonRefused(ServerError):
    pass


POINT_FAILURES = (ServerError, DeviceError, LoadError, ModelError)
"""What costs a sweep one point or one configuration, and never the rest."""
