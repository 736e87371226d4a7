"""The latency rule of a plan beside a simulation of its devices, on random devices.

    python benchmarks/simulator/rule.py [--devices 200] [--requests 400000] [--seed 0]

Every model is "measured" alone by the simulator, so that what differs is the rule alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from planner.domain.derive import Origin, derive_plan
from planner.domain.latency import CurvePoint
from planner.domain.layout import Layout
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import (
    SCHEMA_VERSION,
    BatchTime,
    Device,
    DeviceKind,
    LatencyBasis,
    Model,
    Objective,
    Option,
    Problem,
    Settings,
)
from planner.domain.units import PPM, busy_ppm, capacity_mrps, latency_us
from planner.domain.verification import ModelVerification
from planner.simulator.device import poisson, simulate
from planner.simulator.replay import ReplaySettings, replay, stream_of
from planner.verify_traffic import device_traffic

KIND = DeviceKind(
    name="gpu", type="gpu", profile="gpu", memory_bytes=1, server_base_bytes=0, utilization_ppm=PPM, alone_ppm=PPM
)
PERCENTILES = (95, 99)
# Rates of the curve, in planned ones; as far as the model alone is no busier than this.
STEPS = (1.0, 1.1, 1.25, 1.4, 1.6, 1.8, 2.0, 2.3, 2.6, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0)
BUSIEST = 0.95
ALONE_REQUESTS = 100_000


def drawn(name: str, busy: float, rng: np.random.Generator) -> Option:
    """A model as busy as that in batches of one, measured alone."""
    one_ms = float(np.exp(rng.uniform(np.log(0.5), np.log(50.0))))
    fixed = float(rng.uniform(0.0, 0.9))
    largest = int(rng.choice([1, 4, 8, 16]))
    rate_rps = busy / one_ms * 1e3
    return Option(
        id=name,
        model=name,
        kind=KIND.name,
        instances=int(rng.choice([1, 1, 2])),
        max_batch_size=largest,
        queue_delay_us=None if largest == 1 else int(rng.choice([0, 0, 2000])),
        backend="",
        memory_bytes=0,
        capacity_mrps=capacity_mrps(rate_rps),
        busy_ppm=(0,),
        tolerance_ppm=PPM,
        max_others=None,
        curve=(),
        latency_basis=LatencyBasis.OPEN,
        batch_time=BatchTime(round(fixed * one_ms * 1e6), round((1 - fixed) * one_ms * 1e6)),
    )


def measured(option: Option, percentile: int, rng: np.random.Generator) -> Option:
    """The option with its busy time at the planned rate, and its curve up to the last stable point."""
    points: list[CurvePoint] = []
    at_planned = None
    for step in STEPS:
        rate_rps = step * option.capacity_mrps / 1e3
        seconds = ALONE_REQUESTS / rate_rps
        [served], busy = simulate([stream_of(option, poisson(rate_rps, seconds, rng))], [[1.0]], 0.1 * seconds, seconds)
        if busy > BUSIEST:
            break
        at_planned = at_planned or busy
        points.append(
            CurvePoint(capacity_mrps(rate_rps), latency_us(np.percentile(served.latency_s, percentile) * 1e3))
        )
    return replace(option, busy_ppm=(busy_ppm(at_planned or 1.0),), curve=tuple(points))


def random_devices(count: int, seed: int) -> tuple[Problem, list[Placement]]:
    """On each device two to five models, together 20 to 80 % busy."""
    options, models, placements, devices = [], [], [], []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        together = int(rng.integers(2, 6))
        shares = rng.dirichlet(np.ones(together)) * rng.uniform(0.2, 0.8)
        devices.append(Device(id=f"node/{number}", gpu=f"node/{number}", kind=KIND.name))
        for place, share in enumerate(shares):
            name, percentile = f"{number}.{place}", int(rng.choice(PERCENTILES))
            option = measured(drawn(name, float(share), rng), percentile, rng)
            rate = (option.capacity_mrps,)
            options.append(option)
            models.append(
                Model(name=name, rate_mrps=rate, demand_mrps=rate, percentile=percentile, latency_bound_us=None)
            )
            placements.append(Placement(replica=name, option=name, device=devices[-1].id))
    problem = Problem(
        schema_version=SCHEMA_VERSION,
        periods=("all",),
        models=tuple(models),
        kinds=(KIND,),
        devices=tuple(devices),
        options=tuple(options),
        objectives=(Objective.GPUS,),
    )
    return problem, placements


Promise = Callable[[ModelVerification], float | None]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=200)
    parser.add_argument("--requests", type=int, default=400_000, help="on each device")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    begin = time.monotonic()
    problem, placements = random_devices(chosen.devices, chosen.seed)
    origin = Origin(status=Status.FEASIBLE, solver="random", seed=chosen.seed, runtime_s=0.0, bounds=[(None, "none")])
    plan = derive_plan(problem, placements, origin)
    measured_s = time.monotonic() - begin
    found = replay(problem, plan, ReplaySettings(requests=chosen.requests, seed=chosen.seed))
    models = list(found.models())
    print(f"{len(found.devices)} devices, {len(models)} replicas; measured alone in {measured_s:.0f} s,", end=" ")
    print(f"simulated together in {time.monotonic() - begin - measured_s:.0f} s")
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    fast = fast_promises(problem, plan)
    rules: Mapping[str, Promise] = {
        "worse of both limits (default)": lambda model: model.predicted_ms,
        "fast limit (--optimistic-latency)": lambda model: fast[model.replica],
        "expected (fast limit between points)": lambda model: model.expected_ms,
    }
    for name, promise in rules.items():
        print(_row(name, models, promise))
    for name, promise in rules.items():
        _worst(name, problem, models, promise)
    return 0


def fast_promises(problem: Problem, plan: Plan) -> Mapping[str, float | None]:
    """By replica, what a plan promises under --optimistic-latency."""
    trusting = replace(problem, settings=Settings(optimistic_latency=True))
    layout = Layout(trusting, plan.placements())
    traffic = [device_traffic(layout, plan, device, 1.0) for device in layout.devices]
    return {replica.id: replica.promised_ms for one in traffic for replica in one.replicas}


COLUMNS = ("rule", "promises", "none", "error 10 %", "median", "90 %", "too much", "beyond 10 %", "worst")
WORST_SHOWN = 5


def _row(name: str, models: Sequence[ModelVerification], promise: Promise) -> str:
    known = [model for model in models if model.measured_ms is not None]
    promised = [(promise(model), model) for model in known]
    pairs = [(value, model.measured_ms or 0.0, model) for value, model in promised if value is not None]
    errors = np.array([value / measured - 1 for value, measured, _ in pairs])
    low, middle, high = np.percentile(errors, [10, 50, 90])
    broken = sum(model.measured_low_ms is not None and model.measured_low_ms > value for value, _, model in pairs)
    worst = max(measured / value for value, measured, _ in pairs)
    beyond = int(np.sum(errors < 1 / 1.1 - 1))
    cells = (name, len(pairs), len(known) - len(pairs), f"{low:+.0%}", f"{middle:+.0%}", f"{high:+.0%}",
             broken, beyond, f"{worst:.2f} x")  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _worst(name: str, problem: Problem, models: Sequence[ModelVerification], promise: Promise) -> None:
    broken = [
        (model.measured_ms / value, value, model)
        for model in models
        if model.measured_ms is not None
        and (value := promise(model)) is not None
        and (model.measured_low_ms or 0.0) > value
    ]
    print(f"\n{name}: promised too much to {len(broken)}" + ("; the worst, batches of one:" if broken else ""))
    for _, value, model in sorted(broken, key=lambda one: -one[0])[:WORST_SHOWN]:
        own = problem.option_by_id[model.model]
        others = [o for o in problem.options if o.model.split(".")[0] == own.model.split(".")[0] and o is not own]
        beside = ", ".join(map(_described, others))
        print(
            f"  p{model.percentile} {value:.3g} ms promised, {model.measured_ms:.3g} simulated: {_described(own)}",
            end=" ",
        )
        print(f"beside {beside}")


def _described(option: Option) -> str:
    time = option.batch_time
    assert time is not None
    one_ms, busy = (time.fixed_ns + time.each_ns) / 1e6, option.busy_ppm[0] / PPM
    return f"{one_ms:.3g} ms at {busy:.0%} ({option.instances} x {option.max_batch_size})"


if __name__ == "__main__":
    raise SystemExit(main())
