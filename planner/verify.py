"""Run every device of a plan under its traffic and put what was predicted beside what was measured.

Pure: servers, load and what they take come from a `Bench`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from planner.domain.ensemble import Serve
from planner.domain.layout import Layout
from planner.domain.plan import Plan, PlannedDevice
from planner.domain.problem import Problem
from planner.domain.serving import LoadMode, LoadResult, LoadSpec, Server
from planner.domain.statistics import samples_needed
from planner.domain.verification import SCHEMA_VERSION, DeviceVerification, Failure, Verification
from planner.domain.workload import PERCENTILES
from planner.errors import POINT_FAILURES, InputError
from planner.plan_files import plan_digest
from planner.verify_judge import Seen, Usage, device_verification, observed
from planner.verify_traffic import DeviceTraffic, EnsembleTraffic, ReplicaTraffic, device_traffic

SAMPLES_TO_SPARE = 1.1
WARM_UP_SECONDS = 2.0
LEAD_IN_SECONDS = 1.0
AWAKE_S = 0.5


class Bench(Protocol):
    """Where devices of the plan are put to work."""

    load_generator: str

    def start(self, device: PlannedDevice) -> AbstractContextManager[Server]:
        """The device's server with all its models loaded; ServerError where it does not start."""
        ...

    def drive(self, server: Server, specs: Sequence[LoadSpec]) -> tuple[list[LoadResult], Usage]:
        """All streams at the same time; ServerError where the server does not last."""
        ...

    def abort(self) -> None:
        """End every server and load at once: `start` and `drive` raise ServerError from now on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifySettings:
    """`rates`: "planned", "full", or a factor of the planned rates. `shapes`: per model and input."""

    rates: str = "planned"
    min_seconds: float = 10.0
    max_seconds: float = 300.0
    seed: int = 0
    shapes: Mapping[str, Mapping[str, Sequence[int]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.factor is not None and not 0 < self.factor < math.inf:
            raise InputError(f"rates must be planned, full or a number > 0, got {self.rates!r}")
        if not 0 < self.min_seconds <= self.max_seconds:
            raise InputError(f"the longest window must be at least {self.min_seconds:g} s, got {self.max_seconds:g}")

    @property
    def factor(self) -> float | None:
        """What the planned rates are multiplied by; None for full capacity."""
        if self.rates in ("planned", "full"):
            return 1.0 if self.rates == "planned" else None
        try:
            return float(self.rates)
        except ValueError:
            raise InputError(f"rates must be planned, full or a number > 0, got {self.rates!r}") from None


class VerifyReporter:
    """Hears of progress. Every method does nothing by default."""

    def device(self, device: str, seconds: float, number: int, total: int) -> None:
        """The `number`th (from 1) of `total` devices begins; it is driven for `seconds`."""

    def verified(self, found: DeviceVerification) -> None:
        """A device is finished."""


def verify(
    problem: Problem,
    plan: Plan,
    bench: Bench,
    settings: VerifySettings,
    *,
    waves: Sequence[Sequence[str]],
    notes: Sequence[str] = (),
    reporter: VerifyReporter | None = None,
) -> Verification:
    """Verify the devices that `waves` names: one wave after another, the devices of a wave at the same time.

    A server that dies is recorded with the tail of its log, and the other devices go on. After an interruption
    what was finished is returned; KeyboardInterrupt where that is nothing.
    """
    run = _Run(problem, plan, bench, settings, reporter or VerifyReporter(), sum(map(len, waves)))
    found: list[DeviceVerification] = []
    interrupted = False
    try:
        for wave in waves:
            found += run.wave(wave, first=len(found) + 1)
    except KeyboardInterrupt:
        if not found:
            raise
        interrupted = True
    return Verification(
        schema_version=SCHEMA_VERSION,
        plan_digest=plan_digest(plan),
        rates=settings.rates,
        load_generator=bench.load_generator,
        notes=(*notes, *members_only(problem)),
        devices=tuple(found),
        interrupted=interrupted,
    )


class _Run:
    def __init__(
        self,
        problem: Problem,
        plan: Plan,
        bench: Bench,
        settings: VerifySettings,
        reporter: VerifyReporter,
        total: int,
    ) -> None:
        layout = Layout(problem, plan.placements())
        self._layout = layout
        self._plan = plan
        self._loaded = {loaded.device.id: loaded for loaded in layout.devices}
        self._planned = {device.device: device for gpu in plan.gpus for device in gpu.devices}
        self._bench = bench
        self._settings = settings
        self._reporter = reporter
        self._total = total

    def wave(self, devices: Sequence[str], first: int) -> list[DeviceVerification]:
        if len(devices) == 1:
            return [self._device(devices[0], first)]
        with ThreadPoolExecutor(len(devices)) as pool:
            try:
                runs = [pool.submit(self._device, device, first + place) for place, device in enumerate(devices)]
                left = set(runs)
                while left:
                    # Awake now and then: a Ctrl-C that reached another thread is raised only where this one runs.
                    done, left = wait(left, AWAKE_S, FIRST_COMPLETED)
                    for run in done:
                        run.result()
            except BaseException:
                # Leaving the pool waits for its threads: an interruption must not wait for a window's end.
                self._bench.abort()
                raise
        return [run.result() for run in runs]

    def _device(self, name: str, number: int) -> DeviceVerification:
        device = self._planned[name]
        traffic = device_traffic(self._layout, self._plan, self._loaded[name], self._settings.factor)
        seconds = window_seconds(traffic, self._settings)
        self._reporter.device(name, seconds, number, self._total)
        try:
            with self._bench.start(device) as server:
                seen, usage = self._drive(server, traffic, seconds)
        except POINT_FAILURES as error:
            failure = Failure(message=error.message, log_tail=error.log_tail or "")
            found = device_verification(device, traffic, seconds, {}, Usage(), failure)
        else:
            found = device_verification(device, traffic, seconds, seen, usage, None)
        self._reporter.verified(found)
        return found

    def _drive(self, server: Server, traffic: DeviceTraffic, seconds: float) -> tuple[Mapping[str, Seen], Usage]:
        """Warm up with full batches on every instance, as the plan's memory assumes, then the real traffic."""
        if not traffic.driven:
            return {}, Usage()
        self._bench.drive(server, [self._warm_up(replica) for replica in traffic.driven])
        specs = [self._open_loop(stream, seconds, number) for number, stream in enumerate(traffic.sent)]
        results, usage = self._bench.drive(server, specs)
        found = zip(traffic.sent, results, strict=True)
        return {stream.id: observed(result, stream) for stream, result in found}, usage

    def _warm_up(self, replica: ReplicaTraffic) -> LoadSpec:
        option = replica.option
        return LoadSpec(
            model=replica.model,
            mode=LoadMode.CLOSED,
            seconds=WARM_UP_SECONDS,
            concurrency=2 * option.instances * max(1, option.max_batch_size // option.request_batch_size),
            request_batch_size=option.request_batch_size,
            shapes=self._settings.shapes.get(replica.model, {}),
        )

    def _open_loop(self, stream: ReplicaTraffic | EnsembleTraffic, seconds: float, number: int) -> LoadSpec:
        name, batch = (
            (stream.name, 1)
            if isinstance(stream, EnsembleTraffic)
            else (stream.model, stream.option.request_batch_size)
        )
        return LoadSpec(
            model=name,
            mode=LoadMode.OPEN,
            seconds=seconds,
            rate_rps=stream.sent_rps,
            request_batch_size=batch,
            warmup_seconds=LEAD_IN_SECONDS,
            seed=self._settings.seed + number,
            shapes=self._settings.shapes.get(name, {}),
        )


def window_seconds(traffic: DeviceTraffic, settings: VerifySettings) -> float:
    """Long enough for every percentile to have an interval, within the settings' limits.

    Where one beyond p99 would need more than these allow, it is not waited for.
    """
    needed = [settings.min_seconds]
    for stream in traffic.sent:
        seconds = SAMPLES_TO_SPARE * samples_needed(stream.percentile) / stream.sent_rps
        if seconds > settings.max_seconds and stream.percentile > PERCENTILES[-1]:
            seconds = SAMPLES_TO_SPARE * samples_needed(PERCENTILES[-1]) / stream.sent_rps
        needed.append(seconds)
    return float(min(settings.max_seconds, math.ceil(max(needed))))


def members_only(problem: Problem) -> Iterator[str]:
    """The ensembles of which no server sees the whole, in sentences."""
    for ensemble in problem.ensembles:
        if ensemble.serve is Serve.CLIENT:
            text = f"ensemble {ensemble.name}: clients call its members, so these were verified, and not the whole"
            if ensemble.bound_us is not None:
                text += f"; it keeps its bound where each keeps the p{ensemble.call_percentile} that the plan gives it"
            yield text
