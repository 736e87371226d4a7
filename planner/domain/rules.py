"""The specification: each rule of the planning problem as a function that yields its violations.

A rule bears the same name here, in the solvers, in explanations, in tests and in the docs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from planner.domain import availability, node_totals
from planner.domain.ensemble_rules import ensemble_latency, ensemble_servers, promises_kept
from planner.domain.layout import Layout, LoadedDevice, Placed
from planner.domain.mig import may_join
from planner.domain.units import PPM, counted, format_bytes
from planner.domain.violation import Rule, Violation

__all__ = ["RULES", "Rule", "Violation"]


def gpu_memory(layout: Layout) -> Iterator[Violation]:
    for loaded in layout.devices:
        used, capacity = loaded.memory_bytes_used, loaded.kind.memory_bytes
        if used > capacity:
            over = used - capacity
            amount = f"{over:,} bytes" + (f" ({format_bytes(over)})" if over >= 2**20 else "")
            yield Violation(
                Rule.GPU_MEMORY,
                loaded.device.id,
                f"{used:,} bytes used of {capacity:,} usable, {amount} too many",
            )


def gpu_utilization(layout: Layout) -> Iterator[Violation]:
    for loaded in layout.devices:
        for index, period in enumerate(layout.problem.periods):
            busy = loaded.busy_ppm(index)
            if busy > loaded.busy_limit_ppm:
                text = f"busy {busy / PPM:.6f} in period {period!r}, limit {loaded.busy_limit_ppm / PPM:.6f}"
                yield Violation(Rule.GPU_UTILIZATION, loaded.device.id, text)


def latency(layout: Layout) -> Iterator[Violation]:
    for loaded in layout.devices:
        for placed in loaded.replicas:
            yield from _latency_of(layout, loaded, placed)
            if placed.option.promises and not loaded.kind.calibrated:
                yield from promises_kept(layout, loaded, placed)


def _latency_of(layout: Layout, loaded: LoadedDevice, placed: Placed) -> Iterator[Violation]:
    option, subject = placed.option, f"{placed.replica} on {loaded.device.id}"
    others = loaded.others_instances(placed)
    if option.max_others is not None and others > option.max_others:
        yield Violation(
            Rule.LATENCY,
            subject,
            f"{others} instances of other models beside it, at most {option.max_others} are borne",
        )
    bound = layout.problem.model_by_name[option.model].latency_bound_us
    for index, period in enumerate(layout.problem.periods):
        weighed = loaded.others_busy_ppm2(placed, index)
        if weighed > option.tolerance_ppm * PPM:
            borne = option.tolerance_ppm / PPM
            text = f"the others are busy {weighed / PPM**2:.6f} in period {period!r}, {borne:.6f} is borne"
            yield Violation(Rule.LATENCY, subject, text)
        if bound is None or loaded.kind.calibrated:
            continue
        promised = loaded.latency_us(placed, index)
        if promised is None or promised > bound:
            what = "not known (past the last stable point)" if promised is None else f"{promised / 1000:.3f} ms"
            yield Violation(
                Rule.LATENCY,
                subject,
                f"predicted latency {what} in period {period!r}, bound {bound / 1000:.3f} ms",
            )


def one_replica(layout: Layout) -> Iterator[Violation]:
    most = layout.problem.max_per_device
    if most is None:
        return
    for loaded in layout.devices:
        names = [p.option.model for p in loaded.replicas]
        for name in dict.fromkeys(names):
            if names.count(name) > most:
                yield Violation(
                    Rule.ONE_REPLICA,
                    loaded.device.id,
                    f"{names.count(name)} replicas of {name!r}, at most {most}",
                )


def demand(layout: Layout) -> Iterator[Violation]:
    if layout.problem.allow_unserved:
        return
    for model in layout.problem.models:
        missing = layout.missing_mrps(model.name)
        if missing:
            served, asked = layout.capacity_mrps(model.name) / 1000, model.peak_mrps / 1000
            text = f"capacity {served:.3f} req/s, demand {asked:.3f}: short by {missing / 1000:.3f}"
            yield Violation(Rule.DEMAND, model.name, text)


def replicas(layout: Layout) -> Iterator[Violation]:
    for model in layout.problem.models:
        count = len(layout.by_model[model.name])
        if layout.problem.allow_unserved and count == 0:
            continue
        if count < model.replicas_min:
            yield Violation(Rule.REPLICAS, model.name, f"{count} replicas, at least {model.replicas_min} are asked for")
        if model.replicas_max is not None and count > model.replicas_max:
            yield Violation(Rule.REPLICAS, model.name, f"{count} replicas, at most {model.replicas_max} are allowed")


def allowed_gpu(layout: Layout) -> Iterator[Violation]:
    for placed in layout.placed:
        allowed = layout.problem.model_by_name[placed.option.model].allowed_gpu
        type_name = layout.problem.kind_by_name[placed.device.kind].type
        if allowed and type_name not in allowed:
            yield Violation(
                Rule.ALLOWED_GPU,
                placed.replica,
                f"stands on {placed.device.id}, a {type_name}; allowed are {', '.join(allowed)}",
            )


def mig_layout(layout: Layout) -> Iterator[Violation]:
    for gpu, used in layout.by_gpu.items():
        for place, loaded in enumerate(used):
            mig, start = loaded.kind.mig, loaded.device.start
            if mig is not None and start not in mig.starts:
                starts = ", ".join(map(str, mig.starts))
                text = f"a {loaded.kind.profile} cannot start at {start}; it can at {starts}"
                yield Violation(Rule.MIG_LAYOUT, loaded.device.id, text)
            before = used[:place]
            if not may_join(layout.problem.part(loaded.device), [layout.problem.part(o.device) for o in before]):
                names = ", ".join(other.device.id.removeprefix(f"{gpu}/") for other in before)
                text = f"is no slice of a layout that has {names} as well"
                yield Violation(Rule.MIG_LAYOUT, loaded.device.id, text)


def fleet(layout: Layout) -> Iterator[Violation]:
    for placed in layout.placed:
        if placed.option.kind != placed.device.kind:
            text = f"its option is for {placed.option.kind}, but {placed.device.id} is a {placed.device.kind}"
            yield Violation(Rule.FLEET, placed.replica, text)
        yield from _gpus_of(placed)
    for loaded in layout.devices:
        if loaded.device.cordoned:
            yield Violation(Rule.FLEET, loaded.device.id, "is cordoned and must stay empty")
    yield from node_totals.limits(layout)


def _gpus_of(placed: Placed) -> Iterator[Violation]:
    """A replica takes as many GPUs as its option says, alike and on one node. That it shares them with nobody is a
    matter of `latency`."""
    names, asked = [device.id for device in placed.devices], placed.option.gpus
    if len(names) != asked or len(set(names)) != asked:
        yield Violation(
            Rule.FLEET, placed.replica, f"takes {counted(asked, 'device')}, but stands on {', '.join(names)}"
        )
    others = placed.devices[1:]
    if any(other.node != placed.device.node or other.kind != placed.device.kind for other in others):
        text = f"its GPUs must be of one kind and one node, and are {', '.join(names)}"
        yield Violation(Rule.FLEET, placed.replica, text)


def moves(layout: Layout) -> Iterator[Violation]:
    """At most so many replicas differ from the current plan."""
    most = layout.problem.max_moves
    if most is not None and layout.moves > most:
        text = f"{layout.moves} replicas differ from the current plan, at most {most} may"
        yield Violation(Rule.MOVES, "plan", text)


RULES: tuple[Callable[[Layout], Iterator[Violation]], ...] = (
    gpu_memory, gpu_utilization, latency, one_replica, demand, replicas, allowed_gpu, mig_layout,
    availability.spread, availability.survives, availability.conflict, availability.together, availability.pinned,
    node_totals.host_memory, node_totals.host_cpu, ensemble_latency, ensemble_servers, fleet, moves,
)  # fmt: skip
