"""The load generator's own process: `python -m profiler.load.worker`, a job on stdin, its result on stdout.

One event loop drives all streams. Requests go out as bytes that were serialised before, answers come back
unparsed: what is timed is the server, as far as Python lets it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from planner.domain.statistics import percentile
from planner.errors import PlannerError, TritonRefused, TritonUnreachable
from profiler.load.arrivals import allowed_lag_s, arrival_generator, poisson_arrivals
from profiler.load.requests import is_stateful, prepare_requests, sequence_suffixes

MAX_OUTSTANDING = 4096
CLIENT_BOUND_CPU = 0.9

_OUTSTANDING_BYTES = 256 * 1024**2
_UNAVAILABLE_IN_A_ROW = 20
_CONFIG_DEADLINE_S = 10.0
_INFER = "/inference.GRPCInferenceService/ModelInfer"
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Stream:
    """One stream's requests and what came of them. `start` and `deadline_s` are the same for all streams."""

    spec: dict[str, Any]
    call: Any
    payloads: Iterator[bytes]
    deadline_s: float
    max_outstanding: int
    start: float = 0.0
    offered: int = 0
    failed: int = 0
    outstanding: int = 0
    unavailable_in_a_row: int = 0
    first_error: str | None = None
    sent_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)

    async def send(self, intended: float) -> bool:
        """One request, timed from `intended` (monotonic clock); True where it was answered."""
        counted = intended >= self.start
        self.offered += counted
        self.outstanding += 1
        try:
            await self.call(next(self.payloads), timeout=self.deadline_s)
        except grpc.RpcError as error:
            self._failed(error, counted)
            return False
        else:
            self.unavailable_in_a_row = 0
            if counted:
                self.latency_s.append(time.monotonic() - intended)
                self.sent_s.append(intended - self.start)
            return True
        finally:
            self.outstanding -= 1

    def _failed(self, error: Any, counted: bool) -> None:
        code = error.code()
        if code == grpc.StatusCode.DEADLINE_EXCEEDED:
            text = f"no answer within {self.deadline_s:g} s"
        else:
            text = f"{code.name}: {error.details()}"
        self.first_error = self.first_error or text
        self.failed += counted
        self.unavailable_in_a_row += code == grpc.StatusCode.UNAVAILABLE

    def raise_if_gone(self) -> None:
        if self.unavailable_in_a_row >= _UNAVAILABLE_IN_A_ROW:
            raise TritonUnreachable(
                f"Triton stopped answering while {self.spec['model']!r} was under load: {self.first_error}"
            )

    async def run(self) -> None:
        if self.spec["mode"] == "open":
            await self._open_loop()
        else:
            await asyncio.gather(*(self._closed_loop() for _ in range(self.spec["concurrency"])))

    async def _closed_loop(self) -> None:
        end = self.start + self.spec["seconds"]
        while (now := time.monotonic()) < end:
            if not await self.send(now):
                self.raise_if_gone()
                await asyncio.sleep(0.01)  # a server that refuses at once must not be hammered

    async def _open_loop(self) -> None:
        rng = arrival_generator(self.spec["seed"], self.spec["model"], self.spec["stream"])
        tasks: set[asyncio.Task[bool]] = set()
        for arrival_s in poisson_arrivals(
            self.spec["rate_rps"], -self.spec["warmup_seconds"], self.spec["seconds"], rng
        ):
            intended = self.start + arrival_s
            await asyncio.sleep(max(0.0, intended - time.monotonic()))
            self.raise_if_gone()
            if arrival_s >= 0:
                self.lag_s.append(time.monotonic() - intended)
            if self.outstanding >= self.max_outstanding:
                self._not_sent(arrival_s >= 0)
                continue
            task = asyncio.create_task(self.send(intended))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        self.raise_if_gone()

    def _not_sent(self, counted: bool) -> None:
        self.offered += counted
        self.failed += counted
        self.first_error = self.first_error or f"not sent: {self.outstanding} requests were unanswered"

    def result(self, client_busy: float) -> dict[str, Any]:
        lag_s = percentile(self.lag_s, 90) if self.lag_s else 0.0
        return {
            "model": self.spec["model"],
            "seconds": self.spec["seconds"],
            "sent_s": [round(value, 6) for value in self.sent_s],
            "latency_s": [round(value, 6) for value in self.latency_s],
            "offered": self.offered,
            "failed": self.failed,
            "first_error": self.first_error,
            "client_busy": round(client_busy, 4),
            "client_bound": client_busy > CLIENT_BOUND_CPU or lag_s > allowed_lag_s(self.latency_s),
        }


async def drive(job: dict[str, Any]) -> dict[str, Any]:
    """Prepare all streams, start them together, and return their results once all requests ended."""
    channels: list[Any] = []
    try:
        streams = [await _open_stream(job, spec, channels) for spec in job["streams"]]
        gc.collect()
        gc.freeze()
        start = time.monotonic() + max(spec["warmup_seconds"] for spec in job["streams"])
        for stream in streams:
            stream.start = start
        end = start + max(spec["seconds"] for spec in job["streams"])
        async with asyncio.TaskGroup() as group:
            busy = group.create_task(_own_cpu_share(start, end))
            for stream in streams:
                group.create_task(stream.run())
    except* PlannerError as failures:
        raise _first(failures) from None
    finally:
        for channel in channels:
            await channel.close(None)
    return {"streams": [stream.result(busy.result()) for stream in streams], "window": [start, end]}


def _first(group: BaseExceptionGroup[PlannerError]) -> PlannerError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


async def _open_stream(job: dict[str, Any], spec: dict[str, Any], channels: list[Any]) -> Stream:
    from numpy.random import default_rng

    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        *([("grpc.enable_http_proxy", 0)] if job["local"] else []),
    ]
    channel = grpc.aio.insecure_channel(job["address"], options=options)
    channels.append(channel)
    config = await _model_config(channel, spec["model"], job["address"])
    rng = default_rng([spec["seed"], spec["stream"]])
    requests = prepare_requests(config, batch_size=spec["request_batch_size"], shapes=spec["shapes"], rng=rng)
    payloads: Iterator[bytes] = itertools.cycle(requests)
    if is_stateful(config):
        payloads = (a + b for a, b in zip(itertools.cycle(requests), sequence_suffixes(rng), strict=False))
    return Stream(
        spec=spec,
        call=channel.unary_unary(_INFER, request_serializer=None, response_deserializer=None),
        payloads=payloads,
        deadline_s=job["deadline_s"],
        max_outstanding=max(64, min(MAX_OUTSTANDING, _OUTSTANDING_BYTES // len(requests[0]))),
    )


async def _model_config(channel: Any, model: str, address: str) -> Any:
    from tritonclient.grpc.service_pb2 import ModelConfigRequest
    from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

    stub = GRPCInferenceServiceStub(channel)
    try:
        answer = await stub.ModelConfig(ModelConfigRequest(name=model), timeout=_CONFIG_DEADLINE_S)
    except grpc.RpcError as error:
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise TritonUnreachable(f"{address} did not answer: {error.details()}") from None
        raise TritonRefused(f"no configuration of {model!r} from Triton: {error.details()}") from None
    return answer.config


async def _own_cpu_share(start: float, end: float) -> float:
    await asyncio.sleep(start - time.monotonic())
    cpu_s, wall = time.process_time(), time.monotonic()
    await asyncio.sleep(end - time.monotonic())
    return (time.process_time() - cpu_s) / (time.monotonic() - wall)


def _end_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call above
        sys.exit(1)


def main() -> None:
    job = json.load(sys.stdin)
    _end_with_parent(job["parent"])
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])
    # select() waits to the microsecond, epoll only to the millisecond: arrivals would leave late
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            answer = runner.run(drive(job))
    except PlannerError as error:
        answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
