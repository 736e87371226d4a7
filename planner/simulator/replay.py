"""Every device of a plan, simulated under its traffic: what the plan predicts beside what came of it. Pure."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from planner.domain.layout import Layout, LoadedDevice
from planner.domain.plan import Plan, PlannedDevice
from planner.domain.problem import Option, Problem
from planner.domain.statistics import BATCHES, interval_ranks, rank, samples_needed
from planner.domain.trace import Trace
from planner.domain.units import PPM
from planner.domain.verification import (
    SCHEMA_VERSION,
    DeviceVerification,
    Quantile,
    SimulatedModel,
    Verification,
)
from planner.errors import InputError
from planner.plan_files import plan_digest
from planner.simulator.device import Served, Stream, besides_s, poisson, simulate
from planner.simulator.kernel import Floats
from planner.verify_judge import Latency, Seen, Usage, device_verification, too_few
from planner.verify_traffic import DeviceTraffic, ReplicaTraffic, device_traffic, traffic_at

NAME = "simulator"
# Queues start empty: this share of a window's time runs before it, uncounted.
LEAD_IN = 0.1
# A window is longer than asked for where a slow model needs it, up to as many times the requests.
LONGEST = 10
# A queue that never ends keeps a share of all that came, another one a few requests.
UNANSWERED = 0.02
SHOWN = (50, 95, 99)
_NS = 1e9


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaySettings:
    """`rates` as in `planner.verify.VerifySettings`, or "trace". `factor`: what the planned ones are multiplied by,
    None for whole capacities. `requests`: how many a device gets, unless a `trace` has them."""

    rates: str = "planned"
    factor: float | None = 1.0
    requests: int = 200_000
    seed: int = 0
    trace: Trace | None = None


def replay(
    problem: Problem,
    plan: Plan,
    settings: ReplaySettings,
    *,
    devices: Sequence[str] = (),
    simulated: Callable[[DeviceVerification], None] = lambda _: None,
) -> Verification:
    """Simulate the devices named, or all; the same seed gives the same figures, whatever else is simulated.

    InputError where a model's profile does not tell how long a batch takes. After an interruption what was finished is
    returned; KeyboardInterrupt where that is nothing.
    """
    run = _Run(problem, plan, settings)
    found: list[DeviceVerification] = []
    interrupted = False
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for one in pool.map(run.device, run.chosen(devices)):
                simulated(one)
                found.append(one)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            if not found:
                raise
            interrupted = True
    return Verification(
        schema_version=SCHEMA_VERSION,
        plan_digest=plan_digest(plan),
        rates=settings.rates,
        load_generator=NAME,
        notes=tuple(_notes(problem, settings)),
        devices=tuple(found),
        interrupted=interrupted,
        simulated=True,
    )


def _notes(problem: Problem, settings: ReplaySettings) -> Iterator[str]:
    yield (
        "simulated from what was measured of models alone, by processor sharing, which is what the predictions assume "
        "too: no measurement of models together"
    )
    for ensemble in problem.ensembles:
        yield f"ensemble {ensemble.name}: its members were simulated, each with arrivals of its own, and not the whole"
    if settings.trace is not None:
        yield f"the requests are those of {settings.trace.name}, {settings.trace.seconds:g} s"


class _Run:
    def __init__(self, problem: Problem, plan: Plan, settings: ReplaySettings) -> None:
        self._problem = problem
        self._plan = plan
        self._settings = settings
        self._planned = {device.device: device for gpu in plan.gpus for device in gpu.devices}
        self._layout = Layout(problem, plan.placements())
        self._places = [(place, one) for place, one in enumerate(self._layout.devices) if one.has_server]
        self._traced = {} if settings.trace is None else _by_replica(plan, settings.trace, settings.seed)

    def chosen(self, names: Sequence[str]) -> list[tuple[int, LoadedDevice]]:
        return [(place, one) for place, one in self._places if not names or one.device.id in names]

    def device(self, numbered: tuple[int, LoadedDevice]) -> DeviceVerification:
        place, loaded = numbered
        planned: PlannedDevice = self._planned[loaded.device.id]
        trace = self._settings.trace
        if trace is None:
            traffic = device_traffic(self._layout, self._plan, loaded, self._settings.factor)
            seconds = window_seconds(traffic, self._settings.requests)
            start_s = LEAD_IN * seconds
            arrivals = self._poisson(traffic, start_s + seconds, place)
        else:
            rates = [len(self._traced[p.replica]) / trace.seconds for p in loaded.replicas]
            traffic = traffic_at(self._problem, loaded, "trace", rates)
            start_s, seconds = 0.0, float(np.nextafter(trace.seconds, np.inf))
            arrivals = {replica.id: self._traced[replica.id] for replica in traffic.driven}
        if not traffic.driven:
            return device_verification(planned, traffic, 0.0, {}, Usage(), None)
        streams = [stream_of(replica.option, arrivals[replica.id]) for replica in traffic.driven]
        served, busy = simulate(streams, _weights(loaded, traffic.driven), start_s, start_s + seconds)
        seen = {}
        for number, (replica, one) in enumerate(zip(traffic.driven, served, strict=True)):
            rng = np.random.default_rng([self._settings.seed, place, number, 1])
            latency_s = one.latency_s + besides_s(_besides(replica.option), len(one.latency_s), rng)
            seen[replica.id] = _seen(replica, one, latency_s, seconds)
        usage = Usage(
            busy=busy,
            busy_by_model={r.model: one.work_s / seconds for r, one in zip(traffic.driven, served, strict=True)},
        )
        return device_verification(planned, traffic, seconds, seen, usage, None)

    def _poisson(self, traffic: DeviceTraffic, seconds: float, place: int) -> Mapping[str, Floats]:
        return {
            replica.id: poisson(replica.rate_rps, seconds, np.random.default_rng([self._settings.seed, place, number]))
            for number, replica in enumerate(traffic.driven)
        }


def window_seconds(traffic: DeviceTraffic, requests: int) -> float:
    """As long as that many requests take, and a model's percentile, within limits."""
    total_rps = sum(replica.rate_rps for replica in traffic.driven)
    if not total_rps:
        return 0.0
    asked_s = requests / total_rps
    needed_s = max(1.1 * samples_needed(replica.percentile) / replica.rate_rps for replica in traffic.driven)
    return min(max(asked_s, needed_s), LONGEST * asked_s)


def _by_replica(plan: Plan, trace: Trace, seed: int) -> dict[str, Floats]:
    """The requests of a model go to its replicas at random, by their weights."""
    found: dict[str, Floats] = {}
    for number, (model, times) in enumerate(sorted(trace.times_s.items())):
        replicas = [replica for replica in plan.replicas if replica.model == model]
        times_s = np.asarray(times, np.float64)
        weights = np.array([replica.weight for replica in replicas])
        chosen = np.random.default_rng([seed, number]).choice(len(replicas), len(times_s), p=weights / weights.sum())
        found |= {replica.id: times_s[chosen == k] for k, replica in enumerate(replicas)}
    return found


def stream_of(option: Option, arrivals_s: Floats) -> Stream:
    """The requests of a replica, and how its configuration serves them."""
    time = option.batch_time
    if time is None:
        raise InputError(
            f"{option.model}: the profile behind this plan does not tell how long a batch of "
            f"{option.instances} x {option.max_batch_size} takes, so it cannot be simulated",
            hint="its rows need busy and executed_batch_mean at loads whose batches differ; solve again with them",
        )
    batches = option.queue_delay_us is not None and option.max_batch_size > 1
    return Stream(
        arrivals_s=arrivals_s,
        instances=option.instances,
        most_requests=max(1, option.max_batch_size // option.request_batch_size) if batches else 1,
        delay_s=(option.queue_delay_us or 0) / 1e6 if batches else 0.0,
        fixed_s=time.fixed_ns / _NS,
        each_s=option.request_batch_size * time.each_ns / _NS,
    )


def _weights(loaded: LoadedDevice, driven: Sequence[ReplicaTraffic]) -> list[list[float]]:
    kappa = loaded.kind.kappa_ppm
    classes = [replica.option.interference_class for replica in driven]
    return [[kappa[own][other] / PPM for other in classes] for own in classes]


def _besides(option: Option) -> list[tuple[int, float]]:
    known = () if option.batch_time is None else option.batch_time.besides_ns
    return [(percentile, value_ns / _NS) for percentile, value_ns in known]


def _seen(replica: ReplicaTraffic, served: Served, latency_s: Floats, seconds: float) -> Seen:
    count = len(latency_s)
    ordered = np.sort(latency_s)
    bound_ms = replica.bound_ms
    doubt = too_few(replica.percentile, count, seconds)
    own = None if doubt else _quantile(latency_s, ordered, replica.percentile)
    late = f"{served.waiting:,} of {count:,} requests were not answered at the end: the queue grows"
    return Seen(
        completed=count,
        failed=0,
        latency=Latency() if own is None else Latency(own.value_ms, own.low_ms, own.high_ms),
        within=float(np.mean(ordered * 1e3 <= bound_ms)) if bound_ms is not None and count else None,
        doubt=doubt,
        failures=late if served.waiting > UNANSWERED * count else None,
        simulated=SimulatedModel(
            latencies=tuple(
                _quantile(latency_s, ordered, percent) for percent in SHOWN if count >= samples_needed(percent)
            ),
            throughput_rps=served.requests / seconds,
            executed_batch_mean=_executed(replica.option, served),
        ),
    )


def _executed(option: Option, served: Served) -> float | None:
    return option.request_batch_size * served.requests / served.batches if served.batches else None


def _quantile(latency_s: Floats, ordered: Floats, percent: int | float) -> Quantile:
    """A percentile of enough latencies, with the interval that `planner.domain.statistics` gives it."""
    count = len(ordered)
    value = ordered[rank(count, percent) - 1]
    size = count // BATCHES
    beyond = (latency_s[: size * BATCHES].reshape(BATCHES, size) > value).sum(axis=1)
    low, high = interval_ranks(count, percent, [float(some) for some in beyond])
    return Quantile(
        percent,
        float(value) * 1e3,
        float(ordered[low - 1]) * 1e3 if low >= 1 else None,
        float(ordered[high - 1]) * 1e3 if high <= count else None,
    )
