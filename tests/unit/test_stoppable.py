"""Ctrl-C reaches a search at its own safe places only."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from solvers.stopping import stop_if_asked, stoppable


def _interrupt_soon() -> None:
    threading.Timer(0.2, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)).start()


def test_what_the_work_returns_comes_back() -> None:
    assert stoppable(lambda: 3) == 3


def test_what_the_work_raises_comes_back() -> None:
    def work() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        stoppable(work)


def test_the_work_hears_it_at_a_safe_place_and_may_keep_what_it_has() -> None:
    def work() -> str:
        try:
            while True:
                time.sleep(0.01)
                stop_if_asked()
        except KeyboardInterrupt:
            stop_if_asked()  # asked once, told once
            return "the best so far"

    _interrupt_soon()
    assert stoppable(work) == "the best so far"


def test_it_never_strikes_inside_a_call() -> None:
    reached = []

    def work() -> None:
        ends = time.monotonic() + 0.6
        while time.monotonic() < ends:
            pass
        reached.append("the end of the call")
        stop_if_asked()

    _interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        stoppable(work)
    assert reached == ["the end of the call"]


def test_a_second_one_leaves_work_behind_that_does_not_listen() -> None:
    release = threading.Event()
    _interrupt_soon()
    threading.Timer(0.6, lambda: signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        stoppable(release.wait)
    release.set()
