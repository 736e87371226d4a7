"""What one would write without Planner: GPUs per model, first fit decreasing, and the textbook integer program.

Plain on purpose, and independent of `solvers`: they share only the rules of `planner.domain`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ortools.linear_solver import pywraplp

from planner.domain.layout import Layout
from planner.domain.plan import Placement
from planner.domain.problem import Device, Model, Objective, Option, Problem
from planner.domain.rules import gpu_memory, gpu_utilization, latency, one_replica
from planner.domain.units import PPM

DEVICE_RULES = (gpu_memory, gpu_utilization, latency, one_replica)


def model_by_model(problem: Problem) -> list[Placement] | None:
    """GPUs of its own for every model, in the option and of the type that cost least."""
    free = {kind.name: [d for d in problem.devices if d.kind == kind.name] for kind in problem.kinds}
    placed: list[Placement] = []
    for model in problem.models:
        best = min(_options(problem, model), key=lambda o: (_replicas(model, o) * _price(problem, o), o.id))
        for _ in range(_replicas(model, best)):
            if not free[best.kind]:
                return None
            placed.append(_placement(placed, best, free[best.kind].pop(0)))
    return placed


def first_fit_decreasing(problem: Problem) -> list[Placement] | None:
    """The best of three orders: by memory, by busy time, by the larger of both."""
    plans = [_first_fit(problem, size) for size in (_memory, _busy, _size)]
    return min((p for p in plans if p is not None), key=lambda p: cost_of(problem, p), default=None)


def _first_fit(problem: Problem, size: Callable[[Problem, Option], float]) -> list[Placement] | None:
    """Per model its option of least size in all; replicas by size, each onto the first GPU that bears it."""
    wanted: list[Option] = []
    for model in problem.models:
        best = min(_options(problem, model), key=lambda o: (_replicas(model, o) * size(problem, o), o.id))
        wanted += [best] * _replicas(model, best)
    placed: list[Placement] = []
    contents: dict[str, list[Placement]] = {device.id: [] for device in problem.devices}
    for option in sorted(wanted, key=lambda o: -size(problem, o)):
        for device in problem.devices:
            new = _placement(placed, option, device)
            if device.kind == option.kind and _fits(problem, [*contents[device.id], new]):
                contents[device.id].append(new)
                placed.append(new)
                break
        else:
            return None
    return placed


def textbook_program(problem: Problem, seconds: float) -> tuple[list[Placement] | None, float | None]:
    """A binary variable per option and GPU, one per GPU in use, big-M for the rule `latency`; solved by SCIP."""
    program = pywraplp.Solver.CreateSolver("SCIP")
    problem = _as_small_as_known(problem)
    program.SetTimeLimit(int(seconds * 1000))
    used = {device.id: program.BoolVar("") for device in problem.devices}
    put = {(o.id, d.id): program.BoolVar("") for d in problem.devices for o in problem.options if o.kind == d.kind}
    for device in problem.devices:
        _device_rules(program, problem, device, used[device.id], put)
    for model in problem.models:
        served = sum(o.capacity_mrps / model.peak_mrps * put[o.id, d.id]
                     for d in problem.devices for o in _options(problem, model) if o.kind == d.kind)  # fmt: skip
        program.Add(served >= 1)
    for one, other in zip(problem.devices, problem.devices[1:], strict=False):
        if one.kind == other.kind:  # like GPUs are used in their order
            program.Add(used[one.id] >= used[other.id])
    program.Minimize(sum(_device_price(problem, d) * used[d.id] for d in problem.devices))
    status = program.Solve()
    if status not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        return None, None
    placed: list[Placement] = []
    for (option, device), variable in put.items():
        if variable.solution_value() > 0.5:
            chosen = problem.option_by_id[option]
            placed.append(_placement(placed, chosen, problem.device_by_id[device]))
    return placed, _rounded_up(problem, program.Objective().BestBound())


def _as_small_as_known(problem: Problem) -> Problem:
    """Without the GPUs that a plan at hand shows to be too many: no best plan costs more than that one."""
    known = first_fit_decreasing(problem)
    if known is None:
        return problem
    kept: list[Device] = []
    for kind in problem.kinds:
        row = [device for device in problem.devices if device.kind == kind.name]
        kept += row[: int(cost_of(problem, known) / _device_price(problem, row[0]) + 1e-9)]
    return replace(problem, devices=tuple(kept))


def _device_rules(
    program: pywraplp.Solver,
    problem: Problem,
    device: Device,
    used: pywraplp.Variable,
    put: dict[tuple[str, str], pywraplp.Variable],
) -> None:
    """All options have the one backend of the instances, and one period."""
    kind = problem.kind_by_name[device.kind]
    here = [(o, put[o.id, device.id]) for o in problem.options if o.kind == kind.name]
    free = kind.memory_bytes - kind.server_base_bytes - sum(kind.backend_overhead_bytes.values())
    program.Add(sum(o.memory_bytes / free * x for o, x in here) <= used)
    shared = program.BoolVar("")
    program.Add(sum(x for _, x in here) <= 1 + (len(problem.models) - 1) * shared)
    busy = sum(o.busy_ppm[0] / PPM * x for o, x in here)
    program.Add(busy <= 1 - (1 - kind.utilization_ppm / PPM) * shared)
    instances = sum(o.instances * x for o, x in here)
    for model in problem.models:
        program.Add(sum(x for o, x in here if o.model == model.name) <= used)
    for o, x in here:
        borne = (o.tolerance_ppm + o.busy_ppm[0]) / PPM
        if borne < 1:
            program.Add(busy <= 1 - (1 - borne) * x)
        most = 2 * len(problem.models)
        if o.max_others is not None and o.max_others + o.instances < most:
            program.Add(instances <= most - (most - o.max_others - o.instances) * x)


def _rounded_up(problem: Problem, bound: float) -> float:
    """GPUs are whole; a cost stays as it is."""
    return float(-(-(bound - 1e-6) // 1)) if problem.objectives[0] is Objective.GPUS else bound


def _options(problem: Problem, model: Model) -> Iterator[Option]:
    return (option for option in problem.options if option.model == model.name)


def _replicas(model: Model, option: Option) -> int:
    return -(-model.peak_mrps // option.capacity_mrps)


def _device_price(problem: Problem, device: Device) -> float:
    if problem.objectives[0] is Objective.GPUS:
        return 1.0
    return (problem.kind_by_name[device.kind].cost_microusd_per_hour or 0) / 1_000_000


def _price(problem: Problem, option: Option) -> float:
    return _device_price(problem, next(d for d in problem.devices if d.kind == option.kind))


def cost_of(problem: Problem, placements: Sequence[Placement]) -> float:
    """The first objective, GPUs or their price."""
    used = {placement.device for placement in placements}
    return sum(_device_price(problem, problem.device_by_id[device]) for device in used)


def _memory(problem: Problem, option: Option) -> float:
    """The share of a GPU's memory, in prices of that GPU."""
    return option.memory_bytes / problem.kind_by_name[option.kind].memory_bytes * _price(problem, option)


def _busy(problem: Problem, option: Option) -> float:
    return option.busy_ppm[0] / problem.kind_by_name[option.kind].utilization_ppm * _price(problem, option)


def _size(problem: Problem, option: Option) -> float:
    return max(_memory(problem, option), _busy(problem, option))


def _fits(problem: Problem, placements: Sequence[Placement]) -> bool:
    layout = Layout(problem, placements)
    return not any(True for rule in DEVICE_RULES for _ in rule(layout))


def _placement(placed: Sequence[Placement], option: Option, device: Device) -> Placement:
    return Placement(replica=f"r{len(placed)}", option=option.id, device=device.id)
