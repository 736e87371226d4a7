"""Keeps one tritonserver and leaves nothing behind. Runs as a script in a process of its own.

It is the server's parent, so it can do what the process that asked for the server cannot: outlive it. It
stops the server when it is told to (a line, or the end, on standard input), and when its own parent is
gone for whatever reason, SIGKILL included. As "child subreaper" it inherits every process that the
server's models started, in whatever group, and waits for the last of them.

Why not PR_SET_PDEATHSIG on the server alone: the signal comes when the *thread* that started the child
ends, reaches neither the stubs of the Python backend nor their shared memory, and setting it from
`preexec_fn` forks a process full of gRPC threads. Here it is the second net, for the death of the keeper.

Standard input: one line of JSON (see `Order`), then silence until STOP, or KILL where no model
is left to end. Standard output: the server's pid on a line.
The exit code is the server's, 128 + n where signal n ended it.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

SHARED_MEMORY = Path("/dev/shm")
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PARENT_CHECK_S = 0.5
POLL_S = 0.02
EXIT_CANNOT_START = 127
STOP = b"stop\n"
KILL = b"kill\n"


class Order(TypedDict):
    command: list[str]
    environment: dict[str, str]
    cores: list[int] | None
    working_directory: str | None
    log_path: str
    shm_prefix: str
    grace_s: float


def main() -> int:
    # Our parent may have ended already: compare with what it wrote, not with what getppid() says now.
    parent, order = _read_order()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake = _wake_on_signals()
    server = _start(order, libc)
    sys.stdout.write(f"{server}\n")
    sys.stdout.flush()
    status = _watch(server, parent, wake)
    if status is None:
        status = _stop(server, 0.0 if _read_word() == KILL else order["grace_s"])
    _kill_descendants(server)
    for region in SHARED_MEMORY.glob(f"{order['shm_prefix']}*"):
        region.unlink(missing_ok=True)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _read_order() -> tuple[int, Order]:
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 65536)
        if not piece:
            sys.exit(EXIT_CANNOT_START)
        line += piece
    message = json.loads(line)
    return int(message["parent"]), message["order"]


def _wake_on_signals() -> int:
    """A descriptor that becomes readable on SIGCHLD and on a request to stop."""
    readable, writable = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for stop in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(stop, lambda *_: None)
    return readable


def _start(order: Order, libc: ctypes.CDLL) -> int:
    log = os.open(order["log_path"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    keeper = os.getpid()
    pid = os.fork()
    if pid:
        os.close(log)
        return pid
    try:
        os.setsid()
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != keeper:
            os._exit(EXIT_CANNOT_START)
        if order["cores"] is not None:
            os.sched_setaffinity(0, order["cores"])
        if order["working_directory"] is not None:
            os.chdir(order["working_directory"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.execve(order["command"][0], order["command"], order["environment"])
    except OSError as error:
        os.write(log, f"cannot start {order['command'][0]}: {error}\n".encode())
    finally:
        os._exit(EXIT_CANNOT_START)


def _watch(server: int, parent: int, wake: int) -> int | None:
    """The server's wait status when it ended by itself, None when it is to be stopped."""
    poll = select.poll()
    poll.register(0, select.POLLIN | select.POLLHUP)
    poll.register(wake, select.POLLIN)
    while os.getppid() == parent:
        ready = {descriptor for descriptor, _ in poll.poll(PARENT_CHECK_S * 1000)}
        if 0 in ready:
            return None
        if wake in ready:
            signals = os.read(wake, 512)
            if (status := _reap(server)) is not None:
                return status
            if any(number != signal.SIGCHLD for number in signals):
                return None
    return None


def _reap(server: int) -> int | None:
    """Collect ended children; the server's wait status where it is among them."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == server:
                return ended[1]
    return None


def _read_word() -> bytes:
    """What our parent said, if it said anything."""
    said = select.poll()
    said.register(0, select.POLLIN)
    return os.read(0, len(KILL)) if said.poll(0) else b""


def _stop(server: int, grace_s: float) -> int:
    """SIGTERM to the server alone (it ends its stubs itself), SIGKILL to its group when the grace is over."""
    os.kill(server, signal.SIGTERM)
    give_up = time.monotonic() + grace_s
    while time.monotonic() < give_up:
        if (status := _reap(server)) is not None:
            return status
        time.sleep(POLL_S)
    os.killpg(server, signal.SIGKILL)
    while (status := _reap(server)) is None:
        time.sleep(POLL_S)
    return status


def _kill_descendants(server: int) -> None:
    """Kill what is left of the server's group and whatever it started outside of it; wait for the last."""
    with suppress(ProcessLookupError):
        os.killpg(server, signal.SIGKILL)
    while True:
        for child in _children():
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(POLL_S)
        except ChildProcessError:
            return


def _children() -> list[int]:
    me = os.getpid()
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The name in parentheses may hold spaces and parentheses: fields begin behind the last one.
                after_name = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(after_name[1]) == me:
                    children.append(int(entry.name))
    return children


if __name__ == "__main__":
    sys.exit(main())
