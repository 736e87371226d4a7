"""The faults: what is done to a sweep, and what must come of it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from project import FAULTY, HERE, PLANNER, STEADY, CannotBeTriedHere, Project, Run

from profiler.cache import cache_directory

EXAMPLE_MODEL = cache_directory() / "example-models" / "file_type"
GENERATORS = ("profiler.load.worker", "perf_analyzer/bin")
OOM_LIMIT_BYTES = 256 * 1024 * 1024
TMPFS = "size=2m"
INTO_A_WINDOW_S = 0.7
LOCKED_FOR_A_WHILE_S = 5.0
Effect = Callable[[Project, ExitStack], None]
Strike = Callable[[Run, ExitStack], None]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`prepare` comes before the sweep, `strike` on its way; what they push on the stack is undone before the rerun.

    `cause` is a pattern for what is recorded with a failed point (`is_recorded`), else for what is printed. `points`
    are those that the faulty model has at least, in spite of all; `goes_on`: the other model is measured.
    """

    name: str
    kind: str
    cause: str
    prepare: Effect | None = None
    strike: Strike | None = None
    exit_code: int = 5
    is_recorded: bool = True
    points: int = 0
    goes_on: bool = True
    arguments: tuple[str, ...] = ()
    command: tuple[str, ...] = PLANNER
    reader_leaves: bool = False


def told(deed: str, *arguments: object, at: str = "request") -> Effect:
    def effect(project: Project, _stack: ExitStack) -> None:
        project.order(deed, *arguments, at=at)

    return effect


def told_after(points: int, deed: str, *arguments: object, at: str = "request") -> Strike:
    def strike(run: Run, _stack: ExitStack) -> None:
        run.wait_for_points(points)
        run.project.order(deed, *arguments, at=at)

    return strike


def in_a_window(run: Run) -> None:
    """Of the second point."""
    run.wait_for_points(1)
    run.descendant(*GENERATORS)
    time.sleep(INTO_A_WINDOW_S)


def signalled(*numbers: int) -> Strike:
    def strike(run: Run, _stack: ExitStack) -> None:
        in_a_window(run)
        for number in numbers:
            os.kill(run.process.pid, number)

    return strike


def server_frozen(run: Run, _stack: ExitStack) -> None:
    in_a_window(run)
    run.descendant("bin/tritonserver").send_signal(signal.SIGSTOP)


def generator_killed(run: Run, _stack: ExitStack) -> None:
    in_a_window(run)
    run.descendant(*GENERATORS).kill()


def port_taken(run: Run, stack: ExitStack) -> None:
    """Between Planner's choice and Triton's bind."""
    server = run.descendant("bin/tritonserver", "--grpc-port=")
    port = next(word for word in server.cmdline() if word.startswith("--grpc-port=")).partition("=")[2]
    thief = stack.enter_context(socket.socket())
    thief.bind(("127.0.0.1", int(port)))
    thief.listen()


def out_of_memory(at: str) -> Strike:
    """The kernel's own out-of-memory kill, in a control group of the model's process."""

    def strike(run: Run, stack: ExitStack) -> None:
        group = _memory_group(stack)
        run.wait_for_points(1 if at == "request" else 0)
        run.project.order("take_memory_of", str(group), at=at)

    return strike


def _memory_group(stack: ExitStack) -> Path:
    for root, limit in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup", root, f"planner-faults-{os.getpid()}")
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            stack.callback(group.rmdir)
            (group / limit).write_text(str(OOM_LIMIT_BYTES))
            return group
    raise CannotBeTriedHere("control groups may not be made here")


def example_model(project: Project, stack: ExitStack) -> None:
    """A real ONNX model in place of the one that obeys; the example's own for the run after the fault."""
    shutil.rmtree(project.faulty)
    shutil.copytree(EXAMPLE_MODEL, project.faulty)
    _edit(project.faulty / "config.pbtxt", f'"{EXAMPLE_MODEL.name}"', f'"{FAULTY}"')


def onnx_cut_off(project: Project, stack: ExitStack) -> None:
    example_model(project, stack)
    weights = project.faulty / "1" / "model.onnx"
    whole = weights.read_bytes()
    stack.callback(weights.write_bytes, whole)
    weights.write_bytes(whole[: len(whole) // 2])


def onnx_wants_another_shape(project: Project, stack: ExitStack) -> None:
    example_model(project, stack)
    _edit_for_a_while(stack, project.faulty / "config.pbtxt", "dims: [ 2048 ]", "dims: [ 100 ]")


def config_edited(old: str, new: str) -> Effect:
    def effect(project: Project, stack: ExitStack) -> None:
        _edit_for_a_while(stack, project.faulty / "config.pbtxt", old, new)

    return effect


def no_model_file(project: Project, stack: ExitStack) -> None:
    (project.faulty / "1" / "model.py").rename(project.faulty / "1" / "model.txt")
    stack.callback((project.faulty / "1" / "model.txt").rename, project.faulty / "1" / "model.py")


def model_removed(run: Run, stack: ExitStack) -> None:
    """While the model that comes before it is measured."""
    run.wait_for_begin()
    shutil.rmtree(run.project.faulty)
    stack.callback(run.project.add_model, FAULTY)


def model_replaced(run: Run, stack: ExitStack) -> None:
    run.wait_for_begin()
    source = run.project.faulty / "1" / "model.py"
    source.write_text(source.read_text() + "# another model\n")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text, f"{path} has no {old!r}"
    path.write_text(text.replace(old, new))


def _edit_for_a_while(stack: ExitStack, path: Path, old: str, new: str) -> None:
    stack.callback(path.write_text, path.read_text())
    _edit(path, old, new)


def small_disk(project: Project, stack: ExitStack, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", TMPFS, "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        raise CannotBeTriedHere("file systems may not be mounted here")
    project.cleanup.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)


def store_on_small_disk(project: Project, stack: ExitStack) -> None:
    folder = project.folder / "small-disk"
    small_disk(project, stack, folder)
    shutil.copy(project.store, folder)
    project.store = folder / project.store.name


def scratch_on_small_disk(project: Project, stack: ExitStack) -> None:
    small_disk(project, stack, project.scratch)


def disk_fills(run: Run, stack: ExitStack, *, of_store: bool) -> None:
    run.wait_for_points(1)
    folder = run.project.store.parent if of_store else run.project.scratch
    filler = folder / "filler"
    stack.callback(filler.unlink)
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


def file_size_limit(run: Run, _stack: ExitStack) -> None:
    run.wait_for_points(1)
    size = run.project.store.stat().st_size
    resource.prlimit(run.process.pid, resource.RLIMIT_FSIZE, (size, size))


def store_locked(run: Run, stack: ExitStack, *, seconds: float | None) -> None:
    run.wait_for_points(1)
    database = stack.enter_context(closing(sqlite3.connect(run.project.store, isolation_level=None, timeout=10)))
    database.execute("BEGIN IMMEDIATE")
    if seconds is not None:
        time.sleep(seconds)
        database.rollback()


def second_run(run: Run, stack: ExitStack) -> None:
    """On the same store, at the same time."""
    other = subprocess.Popen(
        [*PLANNER, "measure", "--store", f"sqlite:///{run.project.store}", "--load-generator", "builtin"],
        cwd=run.project.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def ended_well() -> None:
        assert other.wait(120) == 0, "the second run failed"

    stack.callback(ended_well)


EXITED = r"Triton ended by signal {}[\s\S]*\n.*faulty"
OOM_KILL = r"killed \d+ process(es)? of this machine for lack of memory"
CHANGED = r"changed on disk since the sweep began: 1/model"
STUB_DIED = r"a process of the model ended under load[\s\S]*\n.*faulty"

FAULTS = (
    # server crash
    Fault(kind="crash", name="server killed while it loads", cause=EXITED.format("SIGKILL"),
          prepare=told("kill_server", signal.SIGKILL, at="load")),
    Fault(kind="crash", name="server killed in a window", cause=EXITED.format("SIGKILL"), points=1,
          strike=told_after(1, "kill_server", signal.SIGKILL)),
    Fault(kind="crash", name="server killed between points", cause=EXITED.format("SIGKILL"), points=1,
          strike=told_after(1, "kill_server", signal.SIGKILL, at="once it is there")),
    Fault(kind="crash", name="server crashes (SIGSEGV)", cause=EXITED.format("SIG(SEGV|ABRT)"), points=1,
          strike=told_after(1, "kill_server", signal.SIGSEGV)),
    Fault(kind="crash", name="server's keeper killed", cause=r"Triton ended by signal SIGKILL", points=1,
          strike=told_after(1, "kill_keeper")),
    Fault(kind="crash", name="model crashes in a window", cause=STUB_DIED, points=1, strike=told_after(1, "crash")),
    # hang
    Fault(kind="hang", name="hang at load", cause=r"did not load model 'faulty' within 5 s[\s\S]*\n.*faulty",
          prepare=told("hang", at="load")),
    Fault(kind="hang", name="hang in the first inference", cause=r"no answer within 2 s", prepare=told("hang")),
    Fault(kind="hang", name="hang in a closed loop", cause=r"no answer within 2 s", points=1,
          strike=told_after(1, "hang")),
    Fault(kind="hang", name="hang in an open loop", cause=r"no answer within 2 s", points=2,
          strike=told_after(2, "hang")),
    Fault(kind="hang", name="hang under perf_analyzer", cause=r"no answer within 2 s", points=1,
          strike=told_after(1, "hang"), arguments=("--load-generator", "auto")),
    Fault(kind="hang", name="server frozen in a window", cause=r"no answer within|did not answer", points=1,
          strike=server_frozen),
    # out of memory
    Fault(kind="out of memory", name="kernel's kill at load", cause=OOM_KILL,
          strike=out_of_memory("load")),
    Fault(kind="out of memory", name="kernel's kill in a window", cause=OOM_KILL, points=1,
          strike=out_of_memory("request")),
    Fault(kind="out of memory", name="the same, simulated by SIGKILL", cause=STUB_DIED, points=1,
          strike=told_after(1, "kill_itself")),
    Fault(kind="out of memory", name="address space limit", cause=r"MemoryError|[Uu]nable to allocate", points=1,
          strike=told_after(1, "take_memory")),
    # refused
    Fault(kind="refused", name="weights cut off (ONNX)", cause=r"InvalidProtobuf|[Pp]rotobuf pars",
          prepare=onnx_cut_off),
    Fault(kind="refused", name="exception in initialize", cause="no luck today",
          prepare=told("complain", "no luck today", at="load")),
    Fault(kind="refused", name="missing library", cause="a_library_that_is_missing",
          prepare=told("import_what_is_missing", at="load")),
    Fault(kind="refused", name="model's process ends at load", cause=r"(?i)stub process",
          prepare=told("leave", at="load")),
    Fault(kind="refused", name="no model file", cause=r"model\.py", prepare=no_model_file),
    Fault(kind="refused", name="unknown backend", cause="tensorrtt", prepare=config_edited('"python"', '"tensorrtt"')),
    Fault(kind="refused", name="mistake in config.pbtxt", cause=r"config\.pbtxt.*line 3", exit_code=2, goes_on=False,
          is_recorded=False, prepare=config_edited("TYPE_FP32", "TYPE_FP23")),
    # wrong shapes
    Fault(kind="shapes", name="input unlike the model's (ONNX)", cause=r"(?i)invalid dimensions|got: 100",
          prepare=onnx_wants_another_shape),
    Fault(kind="shapes", name="output of another shape", cause=r"'y'.*\[2, 2\].*\[4\]",
          prepare=told("answer_with", "y", [2, 2], "float32")),
    Fault(kind="shapes", name="output of another type", cause=r"'y'.*INT32.*FP32",
          prepare=told("answer_with", "y", [4], "int32")),
    Fault(kind="shapes", name="output of another name", cause="without any output; config.pbtxt declares y",
          prepare=told("answer_with", "z", [4], "float32")),
    # disk and store
    Fault(kind="disk", name="full disk, store", cause="the disk is full", exit_code=5, goes_on=False, points=1,
          is_recorded=False, prepare=store_on_small_disk, strike=partial(disk_fills, of_store=True)),
    Fault(kind="disk", name="full disk, scratch folder", cause="No space left on device", goes_on=False, points=1,
          is_recorded=False, prepare=scratch_on_small_disk, strike=partial(disk_fills, of_store=False),
          arguments=("--load-generator", "perf_analyzer")),
    Fault(kind="disk", name="limit of file sizes", cause="the disk reports an error|the disk is full", goes_on=False,
          points=1, is_recorded=False, strike=file_size_limit),
    Fault(kind="store", name="locked for good", cause="locked by another run", goes_on=False, points=1,
          is_recorded=False, strike=partial(store_locked, seconds=None)),
    Fault(kind="store", name="locked for a while", cause="points measured", exit_code=0, points=3, is_recorded=False,
          strike=partial(store_locked, seconds=LOCKED_FOR_A_WHILE_S)),
    Fault(kind="store", name="a second run at the same time", cause="points measured", exit_code=0, points=3,
          is_recorded=False, strike=second_run),
    # load generator, statistics, ports
    Fault(kind="load", name="built-in generator killed", cause="load generator ended", points=1,
          strike=generator_killed),
    Fault(kind="load", name="perf_analyzer killed", cause="load by builtin: perf_analyzer ended by signal", points=3,
          exit_code=0, is_recorded=False, strike=generator_killed, arguments=("--load-generator", "auto")),
    Fault(kind="load", name="perf_analyzer killed, no other", cause="perf_analyzer ended by signal", points=1,
          strike=generator_killed, arguments=("--load-generator", "perf_analyzer")),
    Fault(kind="statistics", name="unreadable (simulated)", cause="statistics are unknown", exit_code=0, points=3,
          is_recorded=False, command=(sys.executable, str(HERE / "simulated_statistics_fault.py"))),
    Fault(kind="ports", name="port taken before Triton has it", cause="points measured", exit_code=0, points=3,
          is_recorded=False, strike=port_taken),
    # stopped
    Fault(kind="stopped", name="Ctrl-C", cause="interrupted", exit_code=130, points=1, goes_on=False,
          is_recorded=False, strike=signalled(signal.SIGINT)),
    Fault(kind="stopped", name="Ctrl-C twice", cause="interrupted", exit_code=130, points=1, goes_on=False,
          is_recorded=False, strike=signalled(signal.SIGINT, signal.SIGINT)),
    Fault(kind="stopped", name="SIGTERM", cause="interrupted: terminated", exit_code=130, points=1, goes_on=False,
          is_recorded=False, strike=signalled(signal.SIGTERM)),
    Fault(kind="stopped", name="terminal closed (SIGHUP)", cause="interrupted: terminated", exit_code=130, points=1,
          goes_on=False, is_recorded=False, strike=signalled(signal.SIGHUP)),
    Fault(kind="stopped", name="planner itself killed", cause="", exit_code=-signal.SIGKILL, points=1, goes_on=False,
          is_recorded=False, strike=signalled(signal.SIGKILL)),
    Fault(kind="stopped", name="reader of the progress leaves", cause="points measured", exit_code=0, points=3,
          is_recorded=False, reader_leaves=True),
    # model files
    Fault(kind="files", name="model removed on the way", cause=CHANGED, strike=model_removed,
          arguments=(STEADY, FAULTY)),
    Fault(kind="files", name="model replaced on the way", cause=CHANGED, strike=model_replaced,
          arguments=(STEADY, FAULTY)),
)  # fmt: skip
