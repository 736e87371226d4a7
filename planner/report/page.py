"""A plan as one page: the answer, how sure it is, and what it is made of. One HTML file that needs no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from planner.basis import basis_notes
from planner.domain.objectives import MAXIMISED
from planner.domain.period_loads import period_loads
from planner.domain.plan import ObjectiveValue, Plan, PlannedDevice, PlannedEnsemble, PlannedGpu, Replica, Status
from planner.domain.problem import LatencyBasis, Objective, Option, Problem
from planner.domain.profile import Source
from planner.domain.units import counted, format_bytes
from planner.domain.verification import Verdict, Verification
from planner.explain import explain_plan
from planner.report.fleet_map import STYLE, inline_svg
from planner.report.fleet_rows import unknown_name
from planner.report.markup import (
    Column,
    Group,
    Html,
    bullets,
    document,
    element,
    html,
    joined,
    number,
    scrolled,
    section,
    table,
)
from planner.report.markup import share as percent
from planner.report.palette import model_classes
from planner.report.verified import verified
from planner.verify_table import summary

VIOLATIONS_SHOWN = 50
BINDING_SHOWN = 20
NOTES_SHOWN = 30
SERVERS_NAMED = 8

OBJECTIVES = {
    Objective.UNSERVED: "unserved demand, by priority",
    Objective.GPUS: "GPUs used",
    Objective.COST: "USD per hour",
    Objective.POWER: "watts of the GPUs used",
    Objective.MOVES: "replicas that differ from the current plan",
    Objective.BALANCE: "busy share of the busiest device",
    Objective.MODELS: "models served",
    Objective.THROUGHPUT: "growth of all rates that fits",
}


def page(problem: Problem, plan: Plan, verification: Verification | None, violations: Sequence[str]) -> str:
    """`violations`: what `check` found wrong with the plan, one sentence each."""
    title = f"Plan: {counted(len(problem.models), 'model')} on {_hardware(plan)}"
    parts = [
        _head(title, problem, plan, violations),
        *_alarm(violations),
        element("p", joined([_tested(verification), " ", _basis(plan)])),
        _map(problem, plan),
        _how_sure(problem, plan),
        _objectives(plan),
        *_periods(problem, plan),
        *_unserved(plan),
        _binding(problem, plan),
        *([] if verification is None else [verified(verification)]),
        *_ensembles(plan),
        _replicas(problem, plan),
        _foot(problem, plan),
    ]
    return document(title, STYLE, joined(parts))


def _head(title: str, problem: Problem, plan: Plan, violations: Sequence[str]) -> Html:
    good = plan.status is Status.OPTIMAL and not plan.unserved
    css = "bad" if violations else "good" if good else "warn"
    badge = element("span", "breaks rules" if violations else plan.status.value, f"badge {css}")
    answer = joined([badge, " ", _answer(problem, plan)])
    proof = [] if violations else [element("p", _proof(plan))]
    return joined([element("h1", title), element("p", answer, "answer"), *proof])


def _answer(problem: Problem, plan: Plan) -> str:
    all_gpus = len({device.gpu for device in problem.devices})
    total, left = plan.summary, {entry.model for entry in plan.unserved}
    word = "devices" if _only_cpu(problem) else "GPUs"
    models = len(problem.models)
    served = f"all {counted(models, 'model')}" if not left else f"{models - len(left)} of {models} models in full"
    cost = total.cost_usd_per_hour
    price = "" if cost is None else f", for {cost:,.2f} USD per hour"
    replicas = counted(total.replicas, "replica")
    text = f"{total.gpus_used:,} of {all_gpus:,} {word} serve {served} with {replicas}{price}."
    if left:
        missing = sum(entry.rate_rps for entry in plan.unserved)
        text += f" Not served: {number(missing)} requests per second of {counted(len(left), 'model')}."
    return text


def _proof(plan: Plan) -> str:
    if plan.status is Status.OPTIMAL:
        names = ", then in ".join(OBJECTIVES[objective.name] for objective in plan.objectives)
        return f"Proven: no plan does better in {names}." if names else ""
    for objective, gap in zip(plan.objectives, plan.gap, strict=True):
        if gap != 0:
            name = OBJECTIVES[objective.name]
            proven = "no bound was proved" if gap is None else f"proven: {_bound(objective)}, a gap of {gap:.1%}"
            return f"A better plan may exist. {name[0].upper()}{name[1:]}: {_value(objective.value)}; {proven}."
    return "Every objective stands at its proven bound."


def _alarm(violations: Sequence[str]) -> Iterator[Html]:
    if violations:
        broken = counted(len(violations), "rule or figure", "rules or figures")
        title = element("h2", f"Do not deploy: this plan breaks {broken}")
        found = bullets(violations, VIOLATIONS_SHOWN, "that planner check lists")
        yield element("div", joined([title, found]), "alarm")


def _how_sure(problem: Problem, plan: Plan) -> Html:
    options = [problem.option_by_id[r.option] for r in plan.replicas if r.option in problem.option_by_id]
    calibrated = "calibrated: what models do to each other on these devices was measured"
    notes = [*basis_notes(problem, options), *_counted(options)]
    notes += [calibrated] * (plan.calibrated and bool(options))
    references = sorted({option.source for option in options if ":" in option.source})
    notes += [f"source of profiles, {reference}" for reference in references]
    lines = [note[0].upper() + note[1:] for note in notes] or ["Nothing is placed, so there is nothing to doubt"]
    return section("How sure this is", bullets(lines, NOTES_SHOWN, "notes that planner explain lists"))


def _tested(verification: Verification | None) -> Html:
    if verification is None:
        command, advice = element("code", "planner verify"), " puts predicted beside measured on a real Triton."
        return joined([element("strong", "Not verified:", "warn"), " ", command, advice])
    if verification.simulated:
        verdict = element("strong", "Simulated, not verified on a server.", "warn")
    elif verification.count(Verdict.MISSED) or not verification.complete:
        verdict = element("strong", "Verification failed.", "bad")
    elif verification.count(Verdict.UNCLEAR):
        verdict = element("strong", "Verified in part.", "warn")
    else:
        verdict = element("strong", "Verified on a real Triton.", "good")
    return joined([verdict, f" {summary(verification)}."])


def _basis(plan: Plan) -> str:
    if not plan.replicas:
        return ""
    weak = sum(replica.source != Source.MEASURED for replica in plan.replicas)
    rests = f"Replicas on estimated, fitted, published or imported profiles: {weak:,} of {len(plan.replicas):,}."
    calibrated = "Calibrated." if plan.calibrated else "Uncalibrated."
    return f"{calibrated} {rests if weak else 'Every replica rests on measured profiles.'}"


def _counted(options: Sequence[Option]) -> Iterator[str]:
    """What `basis_notes` leaves out because it needs no warning."""
    basis = Counter(option.latency_basis for option in options)
    measured = sum(option.source == Source.MEASURED for option in options)
    counts = {
        "on measured profiles": measured,
        "with latency from open-loop points": basis[LatencyBasis.OPEN],
        "without a latency objective": basis[LatencyBasis.NONE],
    }
    for what, count in counts.items():
        if count:
            yield f"replicas {what}: {count:,} of {len(options):,}"


def _unserved(plan: Plan) -> Iterator[Html]:
    if plan.unserved:
        columns = [Column("model", number=False), Column("missing, req/s"), Column("why", number=False)]
        rows = [(entry.model, number(entry.rate_rps), entry.reason) for entry in plan.unserved]
        yield section("Not served", table("Unserved demand", columns, [Group("", rows)], "models in plan.json"))


def _map(problem: Problem, plan: Plan) -> Html:
    unknown = unknown_name(problem, plan)
    if unknown is not None:
        return section("Fleet", element("p", f"The map cannot be drawn: {unknown}."))
    if not plan.replicas:
        return section("Fleet", element("p", "Nothing is placed."))
    return section("Fleet", scrolled("Map of the fleet", Html(inline_svg(problem, plan))))


def _objectives(plan: Plan) -> Html:
    columns = [
        Column("objective, the first comes first", number=False),
        Column("value"),
        Column("proven bound"),
        Column("gap"),
        Column("proved by", number=False),
    ]
    rows = [
        (
            OBJECTIVES[objective.name],
            _value(objective.value),
            "none" if objective.bound is None else _bound(objective),
            "-" if gap is None else f"{gap:.1%}",
            objective.method,
        )
        for objective, gap in zip(plan.objectives, plan.gap, strict=True)
    ]
    return section("Objectives", table("Objectives", columns, [Group("", rows)]))


def _periods(problem: Problem, plan: Plan) -> Iterator[Html]:
    """Not for a file that names what its problem does not have: `check` says that."""
    placed = plan.placements()
    known = all(p.option in problem.option_by_id and p.device in problem.device_by_id for p in placed)
    if len(problem.periods) < 2 or not known or any(len(r.periods) != len(problem.periods) for r in plan.replicas):
        return
    columns = [
        Column("period", number=False),
        Column("planned, req/s"),
        Column("busiest device", number=False),
        Column("busy"),
        Column("rules that bind there"),
    ]
    rows = [
        (load.period, number(load.rate_rps), load.device or "-", percent(load.busy), f"{load.binding:,}")
        for load in period_loads(problem, plan)
    ]
    text = "One placement keeps every rule in each period; peaks at different hours may share a device."
    yield section("Periods", element("p", text, "small"), table("Periods", columns, [Group("", rows)]))


def _binding(problem: Problem, plan: Plan) -> Html:
    return section("What binds", bullets(explain_plan(problem, plan), BINDING_SHOWN, "that planner explain lists"))


def _ensembles(plan: Plan) -> Iterator[Html]:
    columns = [
        Column("member", number=False),
        Column("calls"),
        Column("a call within, ms"),
        Column("at percentile"),
    ]
    groups = [
        Group(
            joined([ensemble.name, element("small", _of_ensemble(ensemble))]),
            [
                (
                    m.model,
                    f"{m.calls:,}",
                    f"{number(m.latency_ms)}{' ms' * (m.latency_ms is not None)}",
                    f"p{m.percentile}",
                )
                for m in ensemble.members
            ],
        )
        for ensemble in plan.ensembles
    ]
    if groups:
        text = "Every call of a request keeps its part of the bound, so the whole does. The planner chose the parts."
        yield section("Ensembles", element("p", text, "small"), table("Ensembles", columns, groups))


def _of_ensemble(ensemble: PlannedEnsemble) -> str:
    parts = []
    if ensemble.latency_ms is not None and ensemble.bound_ms is not None:
        promised = f"p{ensemble.percentile} {number(ensemble.latency_ms)} of {number(ensemble.bound_ms)} ms"
        parts.append(f"{promised} over {' → '.join(ensemble.path)}")
    if ensemble.servers:
        names = [f"{server.device} {server.weight:.0%}" for server in ensemble.servers[:SERVERS_NAMED]]
        parts.append(f"served by {', '.join(names)}{' …' * (len(ensemble.servers) > SERVERS_NAMED)}")
    return " · ".join(parts)


def _replicas(problem: Problem, plan: Plan) -> Html:
    columns = [
        Column("replica", number=False),
        Column("instances x batch"),
        Column("dynamic batching", number=False),
        Column("capacity, req/s"),
        Column("planned, req/s"),
        Column("predicted"),
        Column("bound"),
        Column("memory"),
        Column("busy"),
    ]
    replicas = {replica.id: replica for replica in plan.replicas}
    classes = model_classes(plan)
    groups = [
        Group(
            _device_heading(gpu, device),
            [_row(problem, replicas[i], classes) for i in device.replicas if i in replicas],
        )
        for gpu in plan.gpus
        for device in gpu.devices
    ]
    where = "Latency and busy time are promised at full capacity"
    periods = "; all figures are of the busiest period" if len(problem.periods) > 1 else ""
    return section(
        "Replicas",
        element("p", f"{where}{periods}. Planned is the traffic expected.", "small"),
        table("Replicas by device", columns, groups, "replicas in plan.json"),
    )


def _device_heading(gpu: PlannedGpu, device: PlannedDevice) -> Html:
    used, capacity = format_bytes(device.memory_bytes_used), format_bytes(device.memory_bytes_capacity)
    kind = device.profile if device.profile == gpu.type else f"{gpu.type}, {device.profile}"
    return joined([device.device, element("small", f"{kind} · memory {used} of {capacity} · busy {device.busy:.0%}")])


def _row(problem: Problem, replica: Replica, classes: Mapping[str, str]) -> tuple[str, ...]:
    model = problem.model_by_name.get(replica.model)
    bound_ms = None if model is None or model.latency_bound_us is None else model.latency_bound_us / 1000
    latencies = [(p.latency_ms, p.percentile) for p in replica.periods if p.latency_ms is not None]
    worst = max(latencies, default=None)
    predicted = html("-" if worst is None else f"p{worst[1]} {number(worst[0])} ms")
    if worst is not None and bound_ms is not None and worst[0] > bound_ms:
        predicted = element("strong", predicted, "bad")
    delay = replica.queue_delay_us
    return (
        _name(replica, classes),
        f"{replica.instances} x {replica.max_batch_size}",
        "off" if delay is None else "on" if delay == 0 else f"on, {delay:,} µs",
        number(replica.capacity_rps),
        number(max((p.rate_rps for p in replica.periods), default=None)),
        predicted,
        "-" if bound_ms is None else f"{number(bound_ms)} ms",
        format_bytes(replica.memory_bytes),
        percent(max((p.busy for p in replica.periods), default=None)),
    )


def _name(replica: Replica, classes: Mapping[str, str]) -> Html:
    swatch = Html(f'<span class="swatch {classes[replica.model]}"></span>')
    model = [] if replica.id.startswith(replica.model) else [" ", element("small", replica.model)]
    over = [" ", element("small", f"over {len(replica.devices)} GPUs")] if len(replica.devices) > 1 else []
    return joined([swatch, replica.id, *model, *over])


def _foot(problem: Problem, plan: Plan) -> Html:
    settings = problem.settings
    figures = (
        f"Headroom {settings.headroom:g}, utilization {settings.utilization:g}, reserve {settings.reserve:g}, "
        f"MIG margin {settings.mig_margin:g}. Solver {plan.solver}, seed {plan.seed}, {plan.runtime_s:.2f} s."
    )
    return element("footer", joined([element("div", figures), element("div", f"Problem {plan.problem_digest}")]))


def _hardware(plan: Plan) -> str:
    types = Counter(gpu.type for gpu in plan.gpus)
    return ", ".join(f"{count:,} {name}" for name, count in types.most_common()) or "no device"


def _only_cpu(problem: Problem) -> bool:
    return all(kind.cores is not None for kind in problem.kinds)


def _value(value: float) -> str:
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _bound(objective: ObjectiveValue) -> str:
    side = "at most" if objective.name in MAXIMISED else "at least"
    return f"{side} {_value(objective.bound or 0)}"
