"""The built-in load generator: the parent's side of `profiler.load.worker`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import planner.errors
from planner.domain.serving import LoadResult, LoadSpec, Server
from planner.errors import LoadError, PlannerError, ServerError, TritonExited, TritonUnreachable
from profiler.environment import package_version
from profiler.load.child import check_spec, end_group

_POLL_S = 0.2
_START_AND_STOP_S = 30.0


class BuiltinLoadGenerator:
    """Drives all streams of a run from one process of its own, pinned to `cores` where given.

    A request without an answer after `deadline_s` counts as failed.
    """

    name = "builtin"

    def __init__(self, cores: Sequence[int] | None = None, *, deadline_s: float = 10.0) -> None:
        self.cores = tuple(cores) if cores else None
        self.deadline_s = deadline_s

    def run(self, server: Server, specs: Sequence[LoadSpec]) -> list[LoadResult]:
        """See LoadGenerator; also InputError where a model's inputs cannot be made up."""
        limit_s = _longest_s(specs) + self.deadline_s + _START_AND_STOP_S
        answer = self._answer(server, json.dumps(self._job(server, specs)), limit_s)
        if "error" in answer:
            raise _as_error(answer, server)
        start, end = answer["window"]
        results = [_result(stream, (start, end)) for stream in answer["streams"]]
        if not any(result.latency_s for result in results) and any(result.failed for result in results):
            first = next(result for result in results if result.failed)
            raise ServerError(
                f"none of {first.failed} requests to {first.model!r} succeeded: {first.first_error}",
                log_tail=server.log_tail(),
            )
        return results

    def _job(self, server: Server, specs: Sequence[LoadSpec]) -> dict[str, Any]:
        return {
            "address": server.endpoint.address,
            "access": _plain(asdict(server.endpoint.access)),
            "local": server.pid is not None,
            "parent": os.getpid(),
            "cores": self.cores,
            "deadline_s": self.deadline_s,
            "streams": [_stream(spec) for spec in specs],
        }

    def _answer(self, server: Server, job: str, limit_s: float) -> dict[str, Any]:
        worker = subprocess.Popen(
            [sys.executable, "-m", "profiler.load.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            output, errors = _wait(worker, server, job, limit_s)
        finally:
            end_group(worker)
        if worker.returncode != 0 or not output:
            tail = "\n".join(errors.splitlines()[-20:])
            raise LoadError(f"the load generator ended with code {worker.returncode}", log_tail=tail)
        answer: dict[str, Any] = json.loads(output)
        return answer


def _wait(worker: subprocess.Popen[str], server: Server, job: str, limit_s: float) -> tuple[str, str]:
    """The worker's output, unless the server ends or time runs out first."""
    end = time.monotonic() + limit_s
    sent: str | None = job
    while True:
        try:
            return worker.communicate(sent, timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            sent = None
        server.raise_if_ended()
        if time.monotonic() > end:
            raise TritonUnreachable(f"the load did not end within {limit_s:.0f} s", log_tail=server.log_tail())


def _as_error(answer: dict[str, Any], server: Server) -> PlannerError:
    kind: type[PlannerError] = getattr(planner.errors, answer["error"])
    if not issubclass(kind, ServerError):
        return kind(answer["message"], hint=answer["hint"])
    try:
        server.raise_if_ended()
    except TritonExited as exited:
        return exited
    return kind(answer["message"], hint=answer["hint"], log_tail=server.log_tail())


def _longest_s(specs: Sequence[LoadSpec]) -> float:
    return max(spec.warmup_seconds for spec in specs) + max(spec.seconds for spec in specs)


def _stream(spec: LoadSpec) -> dict[str, Any]:
    check_spec(spec)
    # asdict would not know how to copy a mapping that is no dict
    plain = asdict(replace(spec, shapes={name: list(shape) for name, shape in spec.shapes.items()}))
    return _plain(plain)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _result(stream: dict[str, Any], window: tuple[float, float]) -> LoadResult:
    series = {name: tuple(stream[name]) for name in ("sent_s", "latency_s")}
    return LoadResult(**{**stream, **series}, window=window, load_generator_version=_version())


def _version() -> str:
    """Planner's own: its commit, where it has one, is in a measurement's environment."""
    return package_version("planner") or ""
