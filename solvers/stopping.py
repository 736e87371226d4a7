"""Ctrl-C during a search: work runs beside the main thread and ends where it asks whether it should.

Python raises KeyboardInterrupt wherever its main thread happens to be, also inside a call from compiled code,
which cannot bear it. So that only a waiting thread hears the signal, and the search looks at its own safe places.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")
# A signal that the system gave to another thread is dealt with only when the waiting one wakes up.
WAKE_EVERY_S = 0.1
_here = threading.local()


def stop_if_asked() -> None:
    """KeyboardInterrupt, once, where the user asked the work of this thread to end."""
    asked: threading.Event | None = getattr(_here, "asked", None)
    if asked is not None and asked.is_set():
        asked.clear()  # what is done now to keep the best plan is not stopped again
        raise KeyboardInterrupt


def stoppable(work: Callable[[], Result]) -> Result:
    """What `work` returns or raises. Ctrl-C makes its next `stop_if_asked` raise; a second one leaves it behind."""
    asked, done = threading.Event(), Future[Result]()

    def run() -> None:
        _here.asked = asked
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 (it is raised again where the work was asked for)
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        _until(done)
    except KeyboardInterrupt:
        asked.set()
        _until(done)
    return done.result()


def _until(done: Future[Result]) -> None:
    while not done.done():
        wait([done], timeout=WAKE_EVERY_S)
