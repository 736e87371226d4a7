"""Why there is no plan, and what binds one, in amounts.

Not from a solver's conflict set: each rule is relaxed alone and the problem solved again, so that every
sentence says what would be enough. The solver is passed in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace

from planner.domain.ensemble import Ensemble
from planner.domain.ensemble_rules import call_latencies
from planner.domain.gpu_groups import gpu_groups
from planner.domain.layout import Layout
from planner.domain.objectives import integer_value
from planner.domain.plan import Binding, ObjectiveValue, Plan, Status
from planner.domain.problem import Device, DeviceKind, Model, Objective, Problem
from planner.domain.rules import Rule
from planner.domain.topology import Node
from planner.domain.units import PPM, counted, format_bytes
from planner.explain_sites import SITE_RELAXATIONS
from planner.relaxing import NO_HELP, NOT_KNOWN, Solve, least, verdict

MOST_EXTRA_DEVICES = 1000
EXTRA = "+extra"
MODELS_NAMED = 5


def explain_infeasible(problem: Problem, solve: Solve) -> list[str]:
    """What each rule, relaxed alone, would have to give for a plan to exist; last, those that would not help."""
    any_plan = replace(problem, objectives=(Objective.UNSERVED,))
    relaxations = (
        _fleet,
        _demand,
        _gpu_memory,
        _gpu_utilization,
        _latency,
        _one_replica,
        _replicas,
        _mig_layout,
        _ensemble_latency,
        _moves,
        *SITE_RELAXATIONS,
    )
    found = [(rule, text) for relax in relaxations for rule, text in relax(any_plan, solve)]
    helpful = [f"{rule}: {text}" for rule, text in found if text not in (NO_HELP, NOT_KNOWN)]
    return [*helpful, *_alone(found, NO_HELP, helpful), *_alone(found, NOT_KNOWN, helpful)]


def _alone(found: Sequence[tuple[Rule, str]], verdict: str, helpful: Sequence[str]) -> Iterator[str]:
    rules = dict.fromkeys(rule.value for rule, text in found if text == verdict)
    known = {line.split(":")[0] for line in helpful}
    names = ", ".join(name for name in rules if name not in known)
    if names:
        yield f"{verdict}: {names}"


def explain_plan(problem: Problem, plan: Plan) -> list[str]:
    """How good the plan is, and the rules with hardly any slack left, one sentence each; the tightest first."""
    rules = list(dict.fromkeys(binding.rule for binding in plan.binding))
    ordered = sorted(plan.binding, key=lambda b: (rules.index(b.rule), -_used_share(b)))
    lines = [*map(_sentence, ordered), *_unserved_sentences(plan), *_fleet_sentences(problem, plan)]
    none = "no rule binds on a device: each has slack in memory, busy time and latency"
    return [*map(_quality, plan.objectives), *(lines or [none])]


def _quality(objective: ObjectiveValue) -> str:
    if objective.bound is None:
        return f"{objective.name}: {objective.value:g}, without a proven bound"
    if objective.value == objective.bound:
        return f"{objective.name}: {objective.value:g}, proven to be the best possible ({objective.method})"
    best = f"{objective.bound:g} ({objective.method})"
    return f"{objective.name}: {objective.value:g}, no plan does better than {best}"


def _used_share(binding: Binding) -> float:
    return binding.actual / binding.limit if binding.limit else 1.0


def _sentence(binding: Binding) -> str:
    if binding.unit == "bytes":
        actual, limit = format_bytes(int(binding.actual)), format_bytes(int(binding.limit))
    else:
        actual, limit = f"{binding.actual:.3g}", f"{binding.limit:.3g} {binding.unit}"
    when = "" if binding.period is None else f" in period {binding.period}"
    return f"{binding.rule}: {binding.subject}: {actual} of {limit} ({_used_share(binding):.0%}){when}"


def _unserved_sentences(plan: Plan) -> Iterator[str]:
    for entry in plan.unserved:
        yield f"{Rule.DEMAND}: {entry.model}: {entry.rate_rps:g} req/s unserved, {entry.reason}"


def _fleet_sentences(problem: Problem, plan: Plan) -> Iterator[str]:
    """Types of which no GPU is left."""
    used = {gpu.gpu for gpu in plan.gpus}
    stock: dict[str, list[bool]] = {}
    for device in problem.devices:
        if not device.cordoned:
            stock.setdefault(problem.kind_by_name[device.kind].type, []).append(device.gpu in used)
    for name, taken in stock.items():
        if all(taken):
            yield f"{Rule.FLEET}: every {name} is used"


def _fleet(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    """More GPUs of one kind, as few as possible: the further ones are the only ones that cost anything.

    Each stands on a node and in a rack and zone of its own, or with as many as a replica takes. With a budget their
    prices count, and nothing is said.
    """
    if any(limit.cost_microusd_per_hour is not None for limit in problem.limits):
        return
    for name, template in _templates(problem):
        kinds = {device.kind for device in template}
        together = max([option.gpus for option in problem.options if option.kind in kinds], default=1)
        count = min(MOST_EXTRA_DEVICES, _replicas_at_most(problem, kinds) * together)
        if not count:
            continue
        relaxed = _with_extra_gpus(problem, kinds, template, count, together)
        answer = solve(relaxed)
        text = verdict(answer, "", f"not even {count} more {name} would be enough")
        if answer.placements is not None:
            more = integer_value(Layout(relaxed, answer.placements), Objective.COST)
            fewest = ", fewer would not" if answer.status is Status.OPTIMAL else ""
            sited = bool(problem.survives) or any(model.spread for model in problem.models)
            apart = " on nodes and in racks of their own" if sited else ""
            text = f"{more} more {name}{apart} would be enough{fewest}"
        yield Rule.FLEET, text


def _templates(problem: Problem) -> Iterator[tuple[str, Sequence[Device]]]:
    """What could be bought more of: a device of each kind, and GPUs that are split, or may be, as a whole."""
    sliced: dict[str, Sequence[Device]] = {}
    for group in gpu_groups(problem):
        if any(problem.kind_by_name[kind].mig for kind in group.kinds):
            devices = [device for device in problem.devices if device.gpu == group.gpus[0]]
            types = problem.kind_by_name[group.kinds[0]].type
            profiles = [problem.kind_by_name[kind].profile.rpartition("/")[2] for kind in group.kinds]
            split = f"{types} split into {' + '.join(profiles)}" if len(group.layouts) == 1 else f"{types}"
            sliced[split] = devices
    within = {device.kind for devices in sliced.values() for device in devices}
    for kind in problem.kinds:
        if kind.name not in within:
            yield kind.profile, [Device(id="", gpu="", kind=kind.name)]
    yield from sliced.items()


def _replicas_at_most(problem: Problem, kinds: Collection[str]) -> int:
    """With each replica on a GPU of its own, nothing is gained by more GPUs than this."""
    needed = 0
    for model in problem.models:
        capacities = [o.capacity_mrps for o in problem.options if o.model == model.name and o.kind in kinds]
        if capacities:
            left = [problem.survival_mrps(s, model) for s in problem.survives if model.name in s.models]
            needed += max(1, model.replicas_min, -(-model.peak_mrps // min(capacities)))
            needed += sum(spread.at_least for spread in model.spread)
            needed += sum(2 * -(-amount // min(capacities)) for amount in left)
    return needed


def _with_extra_gpus(
    problem: Problem, kinds: Collection[str], template: Sequence[Device], count: int, together: int
) -> Problem:
    """`count` GPUs more with the devices of the template, on kinds of their own that alone have a price; so many
    `together` on a node."""
    extra = [replace(k, name=k.name + EXTRA, cost_microusd_per_hour=1) for k in problem.kinds if k.name in kinds]
    free = [replace(k, cost_microusd_per_hour=0) for k in problem.kinds]
    options = (replace(o, id=o.id + EXTRA, kind=o.kind + EXTRA) for o in problem.options if o.kind in kinds)
    nodes = [f"{EXTRA}{i}" for i in range(-(-count // together))]
    gpus = [f"{node}/{i}" for node in nodes for i in range(together)][:count]
    devices = (
        Device(id=f"{gpu}/{place}", gpu=gpu, kind=device.kind + EXTRA, start=device.start)
        for gpu in gpus
        for place, device in enumerate(template)
    )
    return replace(
        problem,
        kinds=(*free, *extra),
        devices=(*problem.devices, *devices),
        options=(*problem.options, *options),
        objectives=(Objective.COST,),
        nodes=(
            *problem.nodes,
            *(Node(name=node, rack=node, zone=node) for node in nodes),
        ),
    )


def _mig_layout(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    """All placements of a GPU's slices at once."""
    if all(len(group.layouts) == 1 for group in gpu_groups(problem)):
        return
    kinds = tuple(replace(kind, mig=None) for kind in problem.kinds)
    found = "if all slices of a GPU could be used at once there would be a plan: no legal layout has enough of them"
    yield Rule.MIG_LAYOUT, verdict(solve(replace(problem, kinds=kinds)), found)


def _demand(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    relaxed = replace(problem, allow_unserved=True)
    answer = solve(relaxed)
    if answer.placements is None:
        yield Rule.DEMAND, NOT_KNOWN
        return
    layout = Layout(relaxed, answer.placements)
    split = "best split" if answer.status is Status.OPTIMAL else "best split found"
    served = list(_served(problem.models, layout))
    for text in served[:MODELS_NAMED]:
        yield Rule.DEMAND, f"{split}: {text}"
    if len(served) > MODELS_NAMED:
        yield Rule.DEMAND, f"{split}: {len(served) - MODELS_NAMED} more models get less than they need"


def _served(models: Sequence[Model], layout: Layout) -> Iterator[str]:
    """Of the models that do not get all: a share that they reach together, not each alone."""
    for model in models:
        missing, peak = layout.missing_mrps(model.name), model.peak_mrps
        if missing:
            yield f"{(peak - missing) / 1000:g} of {peak / 1000:g} req/s of {model.name} ({1 - missing / peak:.0%})"
        elif model.replicas_min and not layout.by_model[model.name]:
            yield f"no replica of {model.name}"


def _gpu_memory(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    """Kind by kind, the least memory more at which a plan was found."""
    for kind in problem.kinds:
        own = [option.memory_bytes for option in problem.options if option.kind == kind.name]
        if not own:
            continue
        needs = kind.server_base_bytes + sum(kind.backend_overhead_bytes.values())
        most = needs + max(own) * max(1, len(problem.models)) * (problem.max_per_device or len(problem.models))

        def with_memory(extra: int, kind: DeviceKind = kind) -> Problem:
            return _with_kind(problem, replace(kind, memory_bytes=kind.memory_bytes + extra))

        amount, answer = least(solve, with_memory, most)
        found = "" if amount is None else f"each {kind.profile} is short by {format_bytes(_rounded_up(amount))}"
        yield Rule.GPU_MEMORY, verdict(answer, found)


def _rounded_up(amount: int) -> int:
    """To the digits that `format_bytes` shows, so that the amount shown is enough."""
    unit = 2**30 if amount >= 2**30 else 2**20 if amount >= 2**20 else 10
    return -(-amount * 10 // unit) * unit // 10


def _gpu_utilization(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    lowest = min((kind.utilization_ppm for kind in problem.kinds), default=PPM)
    if lowest == PPM:
        return

    def with_threshold(extra: int) -> Problem:
        kinds = tuple(
            replace(k, utilization_ppm=min(k.alone_ppm, max(k.utilization_ppm, lowest + extra))) for k in problem.kinds
        )
        return replace(problem, kinds=kinds)

    amount, answer = least(solve, with_threshold, PPM - lowest)
    found = "" if amount is None else f"a threshold of {-(-(lowest + amount) // 1000) / 1000:g} would be enough"
    yield Rule.GPU_UTILIZATION, verdict(answer, found)


def _latency(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    bound = [o for o in problem.options if o.tolerance_ppm < PPM or o.max_others is not None]
    if not bound:
        return
    options = tuple(
        replace(
            o,
            tolerance_ppm=PPM,
            max_others=None if o.gpus == 1 else 0,
            curve=(),
            promises=tuple(replace(p, curve=()) for p in o.promises),
        )
        for o in problem.options
    )
    models = tuple(replace(m, latency_bound_us=None) for m in problem.models)
    answer = solve(replace(problem, options=options, models=models))
    found = "without latency bounds there would be a plan: looser ones, or calibration, may give one"
    yield Rule.LATENCY, verdict(answer, found)


def _one_replica(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    if problem.max_per_device is None:
        return
    answer = solve(replace(problem, max_per_device=None))
    found = "several replicas of a model on one device would be enough"
    yield Rule.ONE_REPLICA, verdict(answer, found)


def _replicas(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    if not any(m.replicas_min > 1 or m.replicas_max is not None for m in problem.models):
        return
    models = tuple(replace(m, replicas_min=min(1, m.replicas_min), replicas_max=None) for m in problem.models)
    answer = solve(replace(problem, models=models))
    found = "without the minimum and maximum numbers of replicas there would be a plan"
    yield Rule.REPLICAS, verdict(answer, found)


def _ensemble_latency(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    """Ensemble by ensemble, a bound with which there would be a plan."""
    for ensemble in problem.ensembles:
        if ensemble.bound_us is None:
            continue
        # Far beyond whatever is promised, so that its percentile is still asked for.
        loose = replace(ensemble, bound_us=max(1, _all_calls(problem, ensemble)))
        relaxed = replace(problem, ensembles=tuple(loose if e is ensemble else e for e in problem.ensembles))
        answer = solve(relaxed)
        found = ""
        if answer.placements is not None:
            layout = Layout(relaxed, answer.placements)
            total, path = loose.slowest_path(call_latencies(layout, loose))
            found = f"{ensemble.name}: a p{ensemble.percentile} of {total / 1000:.4g} ms over {' -> '.join(path)} "
            found += f"would be enough, not {ensemble.bound_us / 1000:.4g} ms"
        yield Rule.ENSEMBLE_LATENCY, verdict(answer, found)


def _all_calls(problem: Problem, ensemble: Ensemble) -> int:
    longest = dict.fromkeys(ensemble.models, 0)
    for option in problem.options:
        if option.model in longest:
            promised = option.promised_us(ensemble.call_percentile) or 0
            longest[option.model] = max(longest[option.model], promised)
    return sum(member.depth * longest[member.model] for member in ensemble.members)


def _moves(problem: Problem, solve: Solve) -> Iterator[tuple[Rule, str]]:
    if problem.max_moves is None:
        return
    relaxed = replace(problem, max_moves=None, objectives=(Objective.MOVES,))
    answer = solve(relaxed)
    found = ""
    if answer.placements is not None:
        fewer = ", fewer would not" if answer.status is Status.OPTIMAL else ""
        found = f"{counted(Layout(relaxed, answer.placements).moves, 'move')} would be enough{fewer}"
    yield Rule.MOVES, verdict(answer, found)


def _with_kind(problem: Problem, changed: DeviceKind) -> Problem:
    return replace(problem, kinds=tuple(changed if k.name == changed.name else k for k in problem.kinds))
