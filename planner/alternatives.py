"""What else could have been: other places for a model, one more GPU, one objective less. Each in amounts.

Places are judged by the check, with everything else where it is; the rest by solving again, and what was not found in
time is never called impossible. The solver is passed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from planner.domain.check import check_placements
from planner.domain.layout import Layout
from planner.domain.mig import Part, may_join
from planner.domain.objectives import MAXIMISED, integer_value, natural
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import Device, LatencyBasis, Objective, Problem
from planner.domain.units import PPM, counted
from planner.domain.violation import Rule
from planner.relaxing import Answer, Solve

# So many places, and so many replicas of a model, are looked at: the first of those that are alike.
PLACES_TRIED = 60
REPLICAS_SHOWN = 3


def binding_by_gpu(problem: Problem, plan: Plan) -> Iterator[str]:
    """Per rule on how many of the GPUs in use it has hardly any slack left."""
    gpus: dict[str, set[str]] = {}
    known = {device.device: gpu.gpu for gpu in plan.gpus for device in gpu.devices} | {g.gpu: g.gpu for g in plan.gpus}
    for binding in plan.binding:
        gpu = known.get(binding.subject.rpartition(" on ")[2])
        if gpu is not None:
            gpus.setdefault(binding.rule, set()).add(gpu)
    used = plan.summary.gpus_used
    for rule, found in gpus.items():
        yield f"{rule} binds on {len(found):,} of {counted(used, 'GPU')} in use"
    free = used - len(set().union(*gpus.values()))
    if gpus and free:
        yield f"no rule binds on {counted(free, 'GPU')} in use"


def one_more_gpu(problem: Problem, plan: Plan, solve: Solve) -> Iterator[str]:
    """Per type what a GPU more of it would change in the objectives."""
    used = {gpu.gpu for gpu in plan.gpus}
    for name, gpus in _gpus_by_type(problem).items():
        empty = [gpu for gpu in gpus if gpu not in used]
        if empty:
            yield f"one more {name}: nothing, {len(empty):,} of {len(gpus):,} stand empty"
            continue
        more = replace(problem, devices=(*problem.devices, *_copy_of(problem, gpus[0])))
        yield f"one more {name}: {_change(problem, plan, more, solve(more))}"


def dearest_objective(problem: Problem, plan: Plan, solve: Solve) -> Iterator[str]:
    """The latency objective that costs most: the plan without it is the best of all plans without one."""
    now = _key(problem, Layout(problem, plan.placements()))
    best: tuple[tuple[int, ...], str, str] | None = None
    unknown = 0
    asked = list(_without_one(problem))
    for objective, without in asked:
        answer = solve(without)
        if answer.placements is None:
            unknown += 1
            continue
        key = _key(without, Layout(without, answer.placements))
        if key < now and (best is None or key < best[0]):
            best = key, objective, _change(problem, plan, without, answer)
    if best is not None:
        yield f"the most expensive latency objective is {best[1]}; without it: {best[2]}"
    elif asked:
        yield "no single latency objective costs anything, as far as was found"
    if unknown:
        yield f"not known in time for {counted(unknown, 'latency objective')}"


def why_here(problem: Problem, plan: Plan, model: str, solve: Solve) -> Iterator[str]:
    """Where a model stands, what the next best place of each replica would cost, and what it would be elsewhere."""
    own = [placement for placement in plan.placements() if problem.option_by_id[placement.option].model == model]
    if not own:
        yield f"{model} has no replica in this plan"
        return
    shown: set[object] = set()
    for placement in own:
        device = problem.device_by_id[placement.device]
        alike = (device.kind, _content(plan, device))
        if alike not in shown and len(shown) < REPLICAS_SHOWN:
            shown.add(alike)
            yield from _places_of(problem, plan, placement)
    types = dict.fromkeys(problem.kind_by_name[problem.device_by_id[p.device].kind].type for p in own)
    for name in types:
        yield f"no replica of {model} on {name} at all: {_not_on(problem, plan, model, name, solve)}"


def _not_on(problem: Problem, plan: Plan, model: str, type_name: str, solve: Solve) -> str:
    kinds = {kind.name for kind in problem.kinds if kind.type == type_name}
    options = tuple(o for o in problem.options if o.model != model or o.kind not in kinds)
    if not any(option.model == model for option in options):
        return "there is no configuration of it for any other type"
    elsewhere = replace(problem, options=options)
    return _change(problem, plan, elsewhere, solve(elsewhere))


@dataclass(frozen=True, slots=True)
class _Place:
    """A device that could carry the replica instead: `key` the objectives then, or the rules that it would break."""

    device: Device
    beside: str
    key: tuple[int, ...] | None
    change: str
    broken: tuple[str, ...]


def _places_of(problem: Problem, plan: Plan, placement: Placement) -> Iterator[str]:
    home = problem.device_by_id[placement.device]
    tried = [_tried(problem, plan, placement, device) for device in _others(problem, plan, placement)]
    yield f"{placement.replica} is on {home.id}, a {_profile(problem, home)}, {_beside(problem, plan, home, placement)}"
    fitting = [(place.key, place) for place in tried if place.key is not None]
    if fitting:
        _, best = min(fitting, key=lambda found: found[0])
        yield f"  next best place: {best.device.id}, a {_profile(problem, best.device)}, {best.beside}: {best.change}"
    rules = Counter(rule for place in tried for rule in place.broken[:1])
    if rules:
        broken = ", ".join(f"{rule} ({count:,})" for rule, count in rules.most_common())
        yield f"  {'not on others' if fitting else 'nowhere else'}, with the rest as it is: {broken}"
    elif not fitting:
        yield "  there is no other device that has a configuration for it"


def _others(problem: Problem, plan: Plan, placement: Placement) -> list[Device]:
    """Other devices, one of each that are alike: also in whether they go with the slices in use on their GPU."""
    used: dict[str, dict[str, Part]] = {}
    for other in plan.placements():
        if other.replica != placement.replica:
            for device in (problem.device_by_id[name] for name in other.devices):
                used.setdefault(device.gpu, {})[device.id] = problem.part(device)
    found: dict[object, Device] = {}
    for device in problem.devices:
        if not device.cordoned and device.id not in placement.devices:
            there = used.get(device.gpu, {})
            joins = device.id in there or may_join(problem.part(device), list(there.values()))
            found.setdefault((device.kind, _content(plan, device), bool(there), joins), device)
    return list(found.values())[:PLACES_TRIED]


def _tried(problem: Problem, plan: Plan, placement: Placement, device: Device) -> _Place:
    """With the option that suits the place best."""
    model = problem.option_by_id[placement.option].model
    beside = _beside(problem, plan, device, placement)
    rest = [other for other in plan.placements() if other.replica != placement.replica]
    best = _Place(device, beside, None, "", ())
    for option in problem.options:
        if option.model != model or option.kind != device.kind:
            continue
        more = _free_beside(problem, rest, device)[: option.gpus - 1]
        moved = (*rest, Placement(replica=placement.replica, option=option.id, device=device.id, more_devices=more))
        violations = check_placements(problem, moved)
        if not violations:
            layout = Layout(problem, moved)
            key = _key(problem, layout)
            if best.key is None or key < best.key:
                best = _Place(device, beside, key, _difference(problem, plan, problem, layout), ())
        elif best.key is None and (not best.broken or len(violations) < len(best.broken)):
            rules = [violation.rule for violation in violations if violation.rule is not Rule.MOVES]
            best = replace(best, broken=tuple(rules or [Rule.MOVES]))
    return best


def _free_beside(problem: Problem, rest: Sequence[Placement], device: Device) -> tuple[str, ...]:
    """Devices of the same kind and node that carry nothing: of a replica over several GPUs, the others."""
    used = {name for other in rest for name in other.devices}
    alike = (d for d in problem.devices if d.node == device.node and d.kind == device.kind and not d.cordoned)
    return tuple(d.id for d in alike if d.id != device.id and d.id not in used)


def _content(plan: Plan, device: Device) -> tuple[str, ...]:
    return tuple(sorted(p.option for p in plan.placements() if device.id in p.devices))


def _beside(problem: Problem, plan: Plan, device: Device, placement: Placement) -> str:
    names = [
        problem.option_by_id[other.option].model
        for other in plan.placements()
        if device.id in other.devices and other.replica != placement.replica
    ]
    return f"beside {', '.join(sorted(set(names)))}" if names else "alone"


def _profile(problem: Problem, device: Device) -> str:
    return problem.kind_by_name[device.kind].profile


def _type(problem: Problem, device: Device) -> str:
    return problem.kind_by_name[device.kind].type


def _gpus_by_type(problem: Problem) -> dict[str, list[str]]:
    found: dict[str, dict[str, None]] = {}
    for device in problem.devices:
        if not device.cordoned:
            found.setdefault(_type(problem, device), {})[device.gpu] = None
    return {name: list(gpus) for name, gpus in found.items()}


def _copy_of(problem: Problem, gpu: str) -> Iterator[Device]:
    """A GPU like this one, on the same node."""
    name = gpu.rpartition("/")[0] + "/one-more"
    for device in problem.devices:
        if device.gpu == gpu:
            yield replace(device, id=name + device.id.removeprefix(gpu), gpu=name)


def _without_one(problem: Problem) -> Iterator[tuple[str, Problem]]:
    """Every latency objective of a model or an ensemble, and the problem without it."""
    for model in problem.models:
        if model.latency_bound_us is not None:
            text = f"{model.name}'s p{model.percentile} of {model.latency_bound_us / 1000:g} ms"
            yield text, _without_bound(problem, model.name)
    for ensemble in problem.ensembles:
        if ensemble.bound_us is not None:
            free = tuple(replace(e, bound_us=None) if e is ensemble else e for e in problem.ensembles)
            text = f"{ensemble.name}'s p{ensemble.percentile} of {ensemble.bound_us / 1000:g} ms"
            yield text, replace(problem, ensembles=free)


def _without_bound(problem: Problem, model: str) -> Problem:
    options = tuple(
        replace(o, tolerance_ppm=PPM, max_others=None, curve=(), latency_basis=LatencyBasis.NONE)
        if o.model == model and not o.exclusive and not o.promises and o.gpus == 1
        else o
        for o in problem.options
    )
    models = tuple(replace(m, latency_bound_us=None) if m.name == model else m for m in problem.models)
    return replace(problem, options=options, models=models)


def _key(problem: Problem, layout: Layout) -> tuple[int, ...]:
    return tuple(integer_value(layout, o) * (-1 if o in MAXIMISED else 1) for o in problem.objectives)


def _change(problem: Problem, plan: Plan, other: Problem, answer: Answer) -> str:
    if answer.placements is None:
        return "no plan" if answer.status is Status.INFEASIBLE else "not known in time"
    layout = Layout(other, answer.placements)
    if answer.status is not Status.OPTIMAL and _key(other, layout) >= _key(problem, Layout(problem, plan.placements())):
        return "nothing better was found in time"
    return _difference(problem, plan, other, layout)


def _difference(problem: Problem, plan: Plan, other: Problem, layout: Layout) -> str:
    """The objectives that change, the first ones first."""
    before = Layout(problem, plan.placements())
    pairs = [(o, integer_value(before, o), integer_value(layout, o)) for o in other.objectives]
    changed = [f"{o} {natural(o, was):,.6g} -> {natural(o, now):,.6g}" for o, was, now in pairs if was != now]
    return ", ".join(changed) or f"no change of {_names(other.objectives)}"


def _names(objectives: Sequence[Objective]) -> str:
    return ", ".join(objectives)
