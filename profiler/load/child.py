"""What the load generators' own processes have in common."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from typing import Any

from planner.domain.serving import LoadMode, LoadSpec
from planner.errors import InputError


def check_spec(spec: LoadSpec) -> None:
    """InputError for a load that no generator can put on a server."""
    where = f"load on {spec.model!r}"
    if spec.mode is LoadMode.OPEN and (spec.rate_rps is None or spec.rate_rps <= 0):
        raise InputError(f"{where}: an open loop needs rate_rps > 0, got {spec.rate_rps}")
    if spec.mode is LoadMode.CLOSED and (spec.concurrency is None or spec.concurrency < 1):
        raise InputError(f"{where}: a closed loop needs concurrency >= 1, got {spec.concurrency}")
    if spec.seconds <= 0:
        raise InputError(f"{where}: seconds must be positive, got {spec.seconds}")


def end_group(process: subprocess.Popen[Any]) -> None:
    """Kill a process that leads a group of its own, with all of the group, and close its pipes."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None and not pipe.closed:
            pipe.close()
