"""NVML behind a deadline: every call runs in a thread of its own, and nobody waits longer for it than he says.

A driver in trouble can hold a call for minutes, or for ever. Such a call keeps its thread; the next task gets
a new one, and the function that hangs is not called again before it has returned.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

import pynvml

from planner.errors import DeviceError, SetupError

DEADLINE_S = 2.0
_MOST_HANGING = 3
_GONE = (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)

T = TypeVar("T")
Question = tuple[Callable[..., Any], *tuple[Any, ...]]
"""A function of pynvml and its arguments."""


class NvmlSilent(Exception):
    """NVML has not answered in time."""


class Unknown(Exception):
    """What NVML cannot tell; the text says why."""


class _Worker:
    """A thread for one task after another. `calling` is the NVML function that it is in."""

    def __init__(self) -> None:
        self.tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self.calling: str | None = None
        self.given_up = False
        threading.Thread(target=self._run, name="nvml", daemon=True).start()

    def _run(self) -> None:
        _thread.worker = self
        while (entry := self.tasks.get()) is not None:
            future, task = entry
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(task())
                except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the task
                    future.set_exception(error)


_thread = threading.local()


class Nvml:
    """The NVML of this process. Tasks for `run` make their calls through `ask`.

    `deadline_s` is how long a task may take where `run` is not told otherwise.
    """

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._worker: _Worker | None = None
        self._hanging: set[str] = set()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Load and initialise the library; SetupError where there is no driver or it does not answer."""
        try:
            self.run(lambda: self.ask((pynvml.nvmlInit,)))
        except (Unknown, NvmlSilent) as error:
            hint = "GPUs are measured where NVIDIA's driver is; `planner doctor` says what is found"
            raise SetupError(f"NVML cannot be used: {error}", hint=hint) from error

    def run(self, task: Callable[[], T], deadline_s: float | None = None) -> T:
        """The task's result. NvmlSilent where it is not there in time; a later end of the task is nobody's."""
        seconds = self._deadline_s if deadline_s is None else deadline_s
        with self._lock:
            if len(self._hanging) >= _MOST_HANGING:
                raise NvmlSilent(self._silence())
            worker = self._worker = self._worker or _Worker()
        future: Future[T] = Future()
        worker.tasks.put((future, task))
        try:
            return future.result(seconds)
        except TimeoutError:
            if future.done():
                raise
            future.cancel()
            raise NvmlSilent(self._give_up(worker, seconds)) from None

    def ask(self, *questions: Question, nothing: Collection[int] = ()) -> Any:
        """The answer to the first of the questions that the library can answer. Only for tasks.

        `nothing` are the codes by which it says that there is nothing: the answer is an empty list then.

        Unknown names every function and what it said; DeviceError where the GPU is gone.
        """
        refusals = []
        for function, *arguments in questions:
            name = function.__name__
            if name in self._hanging:
                refusals.append(f"{name}: has not answered since an earlier call")
                continue
            try:
                return self._call(name, function, arguments)
            except pynvml.NVMLError as error:
                if error.value in _GONE:
                    raise DeviceError(f"{name}: {error}", hint="look into the kernel's log for Xid errors") from error
                if error.value in nothing:
                    return []
                refusals.append(f"{name}: {error}")
            except pynvml.NVMLLibraryMismatchError:
                refusals.append(f"{name}: Function Not Found")
            except NvmlSilent:
                raise
            except Exception as error:  # noqa: BLE001 - no figure is worth a sweep, whatever pynvml stumbles over
                refusals.append(f"{name}: {error!r}")
        raise Unknown("; ".join(refusals))

    def _call(self, name: str, function: Callable[..., Any], arguments: list[Any]) -> Any:
        worker: _Worker = _thread.worker
        with self._lock:
            if worker.given_up:
                raise NvmlSilent("nobody waits for this task any more")
            worker.calling = name
        try:
            return function(*arguments)
        finally:
            with self._lock:
                worker.calling = None
                self._hanging.discard(name)

    def _give_up(self, worker: _Worker, seconds: float) -> str:
        with self._lock:
            worker.given_up = True
            worker.tasks.put(None)
            if self._worker is worker:
                self._worker = None
            if worker.calling is None:
                return f"NVML did not answer within {seconds:g} s"
            self._hanging.add(worker.calling)
            return f"{worker.calling}: no answer within {seconds:g} s"

    def _silence(self) -> str:
        return f"NVML does not answer: {', '.join(sorted(self._hanging))}"
