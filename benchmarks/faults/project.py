"""A project with one model that can be told to fail and one that is well, and a `planner measure` that runs in it."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
FAULTY, STEADY = "faulty", "steady"
PLANNER = (sys.executable, "-m", "planner.cli")
ROWS_PER_MODEL = 3
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.02
WAIT_S = 60.0
RUN_S = 150.0
LAST_PROCESS_S = 15.0
SHARED_MEMORY = Path("/dev/shm")
SHM_OPTION = "shm-region-prefix-name="

CONFIG = """\
name: "{name}"
backend: "python"
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
MEASURE = """\
schema_version: 1
search: grid
stability: {max_windows: 1}
instances: [1]
closed_loop: {concurrency: [1, 2]}
open_loop: {of: capacity, levels: [0.5]}
window: {min_seconds: 0.4, max_seconds: 0.4}
deadlines: {start: 15s, load: 5s, answer: 2s}
"""


class FaultMissed(Exception):
    """The run was not where it should have been."""


class CannotBeTriedHere(Exception):
    """This machine does not allow what the fault needs; the text says what."""


@dataclass(frozen=True)
class Row:
    model: str
    measured_at: str
    failure: str | None


@dataclass
class Outcome:
    """What was seen of one run from outside; `left`: processes and shared memory that outlived it."""

    exit_code: int
    said: str
    rows: Mapping[str, Row]
    left: list[str]
    seconds: float

    @property
    def finished(self) -> dict[str, Row]:
        return {key: row for key, row in self.rows.items() if row.failure is None}

    @property
    def causes(self) -> list[str]:
        return [row.failure for row in self.rows.values() if row.failure is not None]


@dataclass
class Project:
    folder: Path
    store: Path = field(init=False)
    order_file: Path = field(init=False)
    scratch: Path = field(init=False)
    cleanup: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.store = self.folder / "profiles.db"
        self.order_file = self.folder / "order.json"
        self.scratch = self.folder / "scratch"
        self.scratch.mkdir(parents=True)
        (self.folder / "measure.yaml").write_text(MEASURE)

    @property
    def faulty(self) -> Path:
        return self.folder / "models" / FAULTY

    def add_model(self, name: str) -> None:
        folder = self.folder / "models" / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "1").mkdir(parents=True)
        shutil.copy(HERE / "faulty_model.py", folder / "1" / "model.py")
        (folder / "config.pbtxt").write_text(CONFIG.format(name=name))

    def order(self, deed: str, *arguments: object, at: str = "request", once: bool = True) -> None:
        """Tell the faulty model what to do; the file appears whole."""
        order = {"deed": deed, "arguments": arguments, "at": at, "once": once}
        draft = self.order_file.with_suffix(".draft")
        draft.write_text(json.dumps(order))
        draft.replace(self.order_file)

    def rows(self) -> dict[str, Row]:
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{self.store}?mode=ro", uri=True)) as db:
            found = db.execute("select key, model, measured_at, failure from measurement").fetchall()
            return {key: Row(*values) for key, *values in found}
        return {}

    def finished_points(self, model: str = FAULTY) -> int:
        return sum(row.model == model and row.failure is None for row in self.rows().values())

    def run(
        self,
        *arguments: str,
        command: Sequence[str] = PLANNER,
        strike: Callable[[Run], None] | None = None,
        reader_leaves: bool = False,
    ) -> Outcome:
        """`planner measure` with the built-in generator unless told otherwise; `strike` is called on its way."""
        if "--load-generator" not in arguments:
            arguments = (*arguments, "--load-generator", "builtin")
        printed = self.folder / "printed.txt"
        begin = time.monotonic()
        with printed.open("wb") as output:
            process = subprocess.Popen(
                [*command, "measure", "--store", f"sqlite:///{self.store}", *arguments],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE if reader_leaves else output,
                env={**os.environ, "TMPDIR": str(self.scratch), "PLANNER_FAULT_ORDER": str(self.order_file)},
                start_new_session=True,
            )
        if process.stderr is not None:
            process.stderr.close()
        with _family_of(process) as family:
            try:
                if strike is not None:
                    strike(Run(self, process, printed))
                exit_code = process.wait(RUN_S)
            except subprocess.TimeoutExpired as error:
                raise FaultMissed(f"the run did not end within {RUN_S:.0f} s") from error
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                left = family.left()
        return Outcome(exit_code, printed.read_text(errors="replace"), self.rows(), left, time.monotonic() - begin)


@dataclass(frozen=True)
class Run:
    """A `planner measure` on its way, as a fault sees it."""

    project: Project
    process: subprocess.Popen[bytes]
    printed: Path

    def wait(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + WAIT_S
        while not (found := condition()):
            if time.monotonic() > deadline or self.process.poll() is not None:
                raise FaultMissed("the run ended, or hung, before the fault could be injected")
            time.sleep(POLL_S)
        return found

    def wait_for_begin(self) -> None:
        """Of the sweep, before its first server is up."""
        self.wait(lambda: "[1/" in self.printed.read_text(errors="replace"))

    def wait_for_points(self, count: int) -> None:
        self.wait(lambda: self.project.finished_points() >= count)

    def descendant(self, *words: str) -> psutil.Process:
        """The first that comes up whose command line has one of the words."""
        return self.wait(lambda: next(self.descendants(*words), None))

    def descendants(self, *words: str) -> Iterator[psutil.Process]:
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                line = " ".join(one.cmdline())
                if any(word in line for word in words):
                    yield one


class _Family:
    """Every process that descends from a run comes to us when its own parent ends: none can hide."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._us = psutil.Process()
        self._prefixes: set[str] = set()

    def look(self) -> None:
        for one in self._us.children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                for word in one.cmdline():
                    if SHM_OPTION in word:
                        self._prefixes.add(word.partition(SHM_OPTION)[2])

    def left(self) -> list[str]:
        deadline = time.monotonic() + LAST_PROCESS_S
        while self._living() and time.monotonic() < deadline:
            time.sleep(POLL_S)
        names = []
        for one in self._living():
            with suppress(psutil.NoSuchProcess):
                names.append(f"{one.pid} {one.name()}")
                one.kill()
        regions = [path.name for prefix in self._prefixes for path in SHARED_MEMORY.glob(f"{prefix}*")]
        self._collect()
        return names + regions

    def _living(self) -> list[psutil.Process]:
        self._collect()
        return [one for one in self._us.children(recursive=True) if one.is_running()]

    def _collect(self) -> None:
        """Ended ones that became ours."""
        for one in self._us.children():
            if one.pid != self._process.pid:
                with suppress(ChildProcessError):
                    os.waitpid(one.pid, os.WNOHANG)


@contextmanager
def _family_of(process: subprocess.Popen[bytes]) -> Iterator[_Family]:
    import threading

    ended = threading.Event()
    family = _Family(process)

    def watch() -> None:
        while not ended.wait(0.2):
            family.look()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield family
    finally:
        ended.set()
        watcher.join()


def become_subreaper() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
