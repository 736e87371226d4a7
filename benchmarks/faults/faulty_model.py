"""A model for Triton's Python backend that answers its input, until it finds an order to do harm.

The order is $PLANNER_FAULT_ORDER, a JSON file: `deed` names a function of this file, `at` says when ("load", "request",
or "once it is there"), `once` removes the order before it is carried out. So the model's files, and with them the
points of a sweep, stay the same with the fault and without.
"""

import ctypes
import json
import os
import resource
import signal
import threading
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

ORDER = Path(os.environ["PLANNER_FAULT_ORDER"])
SECONDS_PER_REQUEST = 0.004
LOOK_S = 0.02
MIB = 1024 * 1024


class TritonPythonModel:
    def initialize(self, _args: dict) -> None:
        obey("load")
        threading.Thread(target=obey_at_once, daemon=True).start()

    def execute(self, requests: list) -> list:
        answers = []
        for request in requests:
            time.sleep(SECONDS_PER_REQUEST)
            values = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
            name, values = obey("request", values) or ("y", values)
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor(name, values)]))
        return answers


def obey_at_once() -> None:
    while True:
        obey("once it is there")
        time.sleep(LOOK_S)


def obey(moment: str, *values: np.ndarray) -> object:
    try:
        order = json.loads(ORDER.read_text())
    except FileNotFoundError:
        return None
    if order["at"] != moment:
        return None
    if order["once"]:
        ORDER.unlink()
    return globals()[order["deed"]](*order.get("arguments", ()), *values)


def kill_server(number: int, *_: object) -> None:
    os.kill(os.getppid(), number)
    hang()


def kill_keeper(*_: object) -> None:
    """The process that started the server."""
    os.kill(int(Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    hang()


def kill_itself(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave(*_: object) -> None:
    os._exit(3)


def crash(*_: object) -> None:
    ctypes.string_at(0)


def hang(*_: object) -> None:
    time.sleep(10**6)


def complain(text: str, *_: object) -> None:
    raise ValueError(text)


def import_what_is_missing(*_: object) -> None:
    import a_library_that_is_missing  # noqa: F401


def take_memory(*_: object) -> None:
    """Until Python is refused more."""
    grown = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + 64 * MIB
    resource.setrlimit(resource.RLIMIT_AS, (grown, resource.getrlimit(resource.RLIMIT_AS)[1]))
    _take_memory()


def take_memory_of(cgroup: str, *_: object) -> None:
    """Until the kernel kills this process."""
    Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    _take_memory()


def _take_memory() -> None:
    taken = []
    while True:
        taken.append(np.ones(MIB, np.uint8))


def answer_with(name: str, shape: list, type_name: str, *_: object) -> tuple:
    return name, np.zeros(shape, type_name)
