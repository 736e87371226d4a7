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
import secrets
import selectors
import signal
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from planner.domain.serving import Access, LoadMode, LoadSpec, Sequences, Transport
from planner.domain.statistics import percentile
from planner.errors import PlannerError, TritonUnreachable
from profiler.load.arrivals import allowed_lag_s, arrival_generator, poisson_arrivals
from profiler.load.requests import (
    has_text_ids,
    inferences,
    is_stateful,
    requests_of,
    sequence_ids,
    sequence_length,
    sequence_slots,
)
from profiler.load.sources import InTurn, LiveSequence, Source
from profiler.load.transport import RequestFailed, Wire, open_wire

MAX_OUTSTANDING = 4096
CLIENT_BOUND_CPU = 0.9

_OUTSTANDING_BYTES = 256 * 1024**2
_UNAVAILABLE_IN_A_ROW = 20
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Stream:
    """One stream's requests and what came of them. `start` and `deadline_s` are the same for all streams."""

    spec: LoadSpec
    number: int
    wire: Wire
    sources: list[Source]
    deadline_s: float
    max_outstanding: int
    start: float = 0.0
    offered: int = 0
    failed: int = 0
    outstanding: int = 0
    unavailable_in_a_row: int = 0
    first_error: str | None = None
    first_refusal: str | None = None
    sent_s: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    lag_s: list[float] = field(default_factory=list)

    async def send(self, intended: float, source: Source) -> bool:
        """One request, timed from `intended` (monotonic clock); True where it was answered."""
        counted = intended >= self.start
        self.offered += counted
        self.outstanding += 1
        try:
            if source.turn is None:
                await self.wire.send(self.spec.model, source.next(), self.deadline_s)
            else:
                async with source.turn:
                    await self._send_in_turn(source)
        except RequestFailed as error:
            self.first_error = self.first_error or str(error)
            if not error.is_late:
                self.first_refusal = self.first_refusal or str(error)
            self.failed += counted
            self.unavailable_in_a_row += error.is_unreachable
            return False
        else:
            self.unavailable_in_a_row = 0
            if counted:
                self.latency_s.append(time.monotonic() - intended)
                self.sent_s.append(intended - self.start)
            return True
        finally:
            self.outstanding -= 1

    async def _send_in_turn(self, source: Source) -> None:
        try:
            await self.wire.send(self.spec.model, source.next(), self.deadline_s)
        except RequestFailed:
            source.failed()
            raise

    def raise_if_gone(self) -> None:
        if self.unavailable_in_a_row >= _UNAVAILABLE_IN_A_ROW:
            raise TritonUnreachable(
                f"Triton stopped answering while {self.spec.model!r} was under load: {self.first_error}"
            )

    async def run(self) -> None:
        if self.spec.mode is LoadMode.OPEN:
            await self._open_loop()
        else:
            sources = itertools.islice(itertools.cycle(self.sources), self.spec.concurrency)
            await asyncio.gather(*(self._closed_loop(source) for source in sources))

    async def _end(self, source: Source) -> None:
        """At once when a source has no more to send: others may wait for the slot of its sequence."""
        if source.turn is None:
            return
        async with source.turn:
            if (request := source.last()) is not None:
                with suppress(RequestFailed):
                    await self.wire.send(self.spec.model, request, self.deadline_s)

    async def _closed_loop(self, source: Source) -> None:
        end = self.start + self.spec.seconds
        while (now := time.monotonic()) < end:
            if not await self.send(now, source):
                self.raise_if_gone()
                await asyncio.sleep(0.01)  # a server that refuses at once must not be hammered
        await self._end(source)

    async def _open_loop(self) -> None:
        spec = self.spec
        assert spec.rate_rps is not None
        rng = arrival_generator(spec.seed, spec.model, self.number)
        tasks: set[asyncio.Task[bool]] = set()
        arrivals_s = poisson_arrivals(spec.rate_rps, -spec.warmup_seconds, spec.seconds, rng)
        for arrival_s, source in zip(arrivals_s, itertools.cycle(self.sources), strict=False):
            intended = self.start + arrival_s
            await asyncio.sleep(max(0.0, intended - time.monotonic()))
            self.raise_if_gone()
            if arrival_s >= 0:
                self.lag_s.append(time.monotonic() - intended)
            if self.outstanding >= self.max_outstanding:
                self._not_sent(arrival_s >= 0)
                continue
            task = asyncio.create_task(self.send(intended, source))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks, *(self._end(source) for source in self.sources))
        self.raise_if_gone()

    def _not_sent(self, counted: bool) -> None:
        self.offered += counted
        self.failed += counted
        self.first_error = self.first_error or f"not sent: {self.outstanding} requests were unanswered"

    def result(self, client_busy: float) -> dict[str, Any]:
        lag_s = percentile(self.lag_s, 90) if self.lag_s else 0.0
        return {
            "model": self.spec.model,
            "seconds": self.spec.seconds,
            "sent_s": [round(value, 6) for value in self.sent_s],
            "latency_s": [round(value, 6) for value in self.latency_s],
            "offered": self.offered,
            "failed": self.failed,
            "first_error": self.first_error,
            "first_refusal": self.first_refusal,
            "client_busy": round(client_busy, 4),
            "client_bound": client_busy > CLIENT_BOUND_CPU or lag_s > allowed_lag_s(self.latency_s),
        }


async def drive(job: dict[str, Any]) -> dict[str, Any]:
    """Prepare all streams, start them together, and return their results once all requests ended."""
    specs = [_spec(values) for values in job["streams"]]
    access = _access(job["access"])
    wires = [open_wire(job["address"], access, local=job["local"]) for _ in specs]
    try:
        streams = [
            await _stream(wire, number, spec, job["deadline_s"])
            for number, (wire, spec) in enumerate(zip(wires, specs, strict=True))
        ]
        gc.collect()
        gc.freeze()
        start = time.monotonic() + max(spec.warmup_seconds for spec in specs)
        for stream in streams:
            stream.start = start
        end = start + max(spec.seconds for spec in specs)
        async with asyncio.TaskGroup() as group:
            busy = group.create_task(_own_cpu_share(start, end))
            for stream in streams:
                group.create_task(stream.run())
    except* PlannerError as failures:
        raise _first(failures) from None
    finally:
        for wire in wires:
            await wire.close()
    return {"streams": [stream.result(busy.result()) for stream in streams], "window": [start, end]}


def _first(group: BaseExceptionGroup[PlannerError]) -> PlannerError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _spec(values: dict[str, Any]) -> LoadSpec:
    file = values.pop("input_file")
    return LoadSpec(
        mode=LoadMode(values.pop("mode")),
        sequences=Sequences(**values.pop("sequences")),
        input_file=None if file is None else Path(file),
        **values,
    )


def _access(values: dict[str, Any]) -> Access:
    files = {name: None if values[name] is None else Path(values[name]) for name in ("ca", "certificate", "key")}
    return Access(**{**values, **files, "transport": Transport(values["transport"])})


async def _stream(wire: Wire, number: int, spec: LoadSpec, deadline_s: float) -> Stream:
    from numpy.random import default_rng

    config = await wire.model_config(spec.model)
    rng = default_rng([spec.seed, number])
    streams = inferences(config, spec, rng)
    requests = [[wire.request(spec.model, one) for one in stream] for stream in requests_of(config, spec, streams)]
    sources: list[Source] = [InTurn(requests[0])]
    if is_stateful(config):
        lengths = [sequence_length(spec, stream) for stream in streams]
        ids = sequence_ids(1 + secrets.randbits(40), text=has_text_ids(config))
        in_turn = itertools.cycle(zip(requests, lengths, strict=True))
        live = spec.concurrency or spec.sequences.live or sequence_slots(config)
        sources = [LiveSequence(wire, ids, in_turn) for _ in range(live)]
    largest_bytes = max(wire.size(request) for stream in requests for request in stream)
    return Stream(
        spec=spec,
        number=number,
        wire=wire,
        sources=sources,
        deadline_s=deadline_s,
        max_outstanding=max(64, min(MAX_OUTSTANDING, _OUTSTANDING_BYTES // largest_bytes)),
    )


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
