"""Random problems for hypothesis, small enough for brute force, in which every rule may bind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from hypothesis import strategies as st

from planner.domain.ensemble import Ensemble, Member, Promise, Serve
from planner.domain.latency import CurvePoint
from planner.domain.problem import Device, DeviceKind, LatencyBasis, Model, Objective, Option, Problem, Running
from planner.domain.rules import Rule
from planner.domain.topology import Domain, FleetLimit, Node, Pin, Spread, Survival
from planner.domain.units import PPM
from tests.brute_force import pairs_of_devices
from tests.problems import kind, model, option, problem


@st.composite
def tiny_problems(draw: st.DrawFn, objectives: Sequence[Objective] | None = None, *, whole: bool = False) -> Problem:
    """Every rule may bind: several kinds, options, backends, periods, interference classes, latency curves.

    `whole`: no GPU is split, and there are two of a kind at least.
    """
    periods = draw(st.integers(1, 2))
    classes = draw(st.integers(1, 2))
    kinds = [_tiny_kind(draw, name, classes) for name in ("big", "small")[: draw(st.integers(1, 2))]]
    allow_unserved = draw(st.booleans())
    models = [_tiny_model(draw, name, periods) for name in ("a", "b", "c")[: draw(st.integers(1, 3))]]
    options = [
        _tiny_option(draw, m, k.name, f"{m.name}@{k.name}:{i}", periods, classes)
        for m in models
        for k in kinds
        for i in range(draw(st.integers(0 if len(kinds) > 1 else 1, 2)))
    ]
    fleet = _tiny_fleet(draw, kinds, whole=whole)
    ensembles = _tiny_ensembles(draw, models, periods)
    if ensembles:
        options = [_with_promises(draw, o) for o in options]
    current, max_moves = _tiny_current(draw, options, fleet) if options and draw(st.booleans()) else ((), None)
    if draw(st.integers(0, 3)) == 0:  # rates are uncertain
        options = [replace(o, swing_ppm=tuple(draw(st.integers(0, busy)) for busy in o.busy_ppm)) for o in options]
    return problem(
        models,
        options,
        kinds=kinds,
        fleet=fleet,
        current=current,
        ensembles=ensembles,
        max_moves=max_moves,
        objectives=objectives or _tiny_objectives(draw, allow_unserved),
        periods=("day", "night")[:periods],
        allow_unserved=allow_unserved,
        max_per_device=draw(st.sampled_from([1, 1, 2, None])),
    )


@st.composite
def sited(
    draw: st.DrawFn, problems: st.SearchStrategy[Problem], *, places: Sequence[str] = ("n1", "n2", "n3")
) -> Problem:
    """The same on up to three nodes, with a random subset of the rules between devices."""
    plain = draw(problems)
    node_of = {gpu: draw(st.sampled_from(places)) for gpu in sorted({d.gpu for d in plain.devices})}
    gpu_of = {gpu: f"{node}/{gpu.replace('/', '-')}" for gpu, node in node_of.items()}
    id_of = {d.id: f"{gpu_of[d.gpu]}{d.id.removeprefix(d.gpu)}" for d in plain.devices}
    fleet = tuple(replace(d, id=id_of[d.id], gpu=gpu_of[d.gpu]) for d in plain.devices)
    rules = {rule for rule in _SITED if draw(st.sampled_from([True, False, False]))}
    names = [m.name for m in plain.models]
    models = [_tiny_sited_model(draw, m, rules) for m in plain.models]
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    some_pairs = (
        st.lists(st.sampled_from(pairs), min_size=1, max_size=2, unique=True).map(tuple) if pairs else st.just(())
    )
    pins = st.builds(Pin, model=st.sampled_from(names), gpu=st.sampled_from(sorted({d.gpu for d in fleet})))
    survived = st.builds(
        Survival,
        domain=st.sampled_from([Domain.GPU, Domain.NODE, Domain.RACK, Domain.ZONE]),
        share_ppm=st.sampled_from([300_000, PPM]),
        models=st.lists(st.sampled_from(names), min_size=1, unique=True).map(tuple),
    )
    power = {name: draw(st.sampled_from([200, 300])) for name in sorted({k.type for k in plain.kinds})}
    return replace(
        plain,
        models=tuple(models),
        kinds=tuple(replace(k, power_milliwatts=power[k.type],
                            cost_microusd_per_hour=k.cost_microusd_per_hour or 0) for k in plain.kinds),
        devices=fleet,
        current=tuple(replace(r, device=id_of.get(r.device, r.device)) for r in plain.current),
        nodes=tuple(_tiny_node(draw, *names, rules) for names in _NODES),
        conflict=draw(some_pairs) if Rule.CONFLICT in rules else (),
        together=draw(some_pairs) if Rule.TOGETHER in rules else (),
        pinned=tuple(draw(st.lists(pins, min_size=1, max_size=2, unique=True))) if Rule.PINNED in rules else (),
        survives=(draw(survived),) if Rule.SURVIVES in rules else (),
        limits=(_tiny_limit(draw),) if Rule.FLEET in rules else (),
    )  # fmt: skip


@st.composite
def tiny_spanning_problems(draw: st.DrawFn, objectives: Sequence[Objective] | None = None) -> Problem:
    """The same with options that take two whole GPUs of a node; some of them run now."""
    undivided = tiny_problems(objectives, whole=True)
    plain = draw(undivided | sited(undivided, places=("n1", "n1", "n1", "n2")))
    two = draw(st.sets(st.sampled_from([m.name for m in plain.models]), min_size=1)) - set(plain.served_by_triton)
    spanning = {o.id for o in plain.options if o.model in two and draw(st.sampled_from([True, True, False]))}
    options = [replace(o, gpus=2, max_others=0) if o.id in spanning else o for o in plain.options]
    pairs = list(pairs_of_devices(plain))
    current = [
        replace(r, device=first, more_devices=(second,))
        for r in plain.current
        if r.model in two and pairs and draw(st.booleans())
        for first, second in [draw(st.sampled_from(pairs))]
    ]
    moved = {r.replica for r in current}
    return replace(
        plain, options=tuple(options), current=(*(r for r in plain.current if r.replica not in moved), *current)
    )


_NODES = (("n1", "r1", "z1"), ("n2", "r1", "z2"), ("n3", "r2", "z2"))
_SITED = (Rule.CONFLICT, Rule.TOGETHER, Rule.PINNED, Rule.SPREAD, Rule.SURVIVES, Rule.HOST_MEMORY, Rule.HOST_CPU,
          Rule.FLEET)  # fmt: skip


def _tiny_sited_model(draw: st.DrawFn, m: Model, rules: set[Rule]) -> Model:
    over = st.sampled_from([Domain.NODE, Domain.RACK, Domain.ZONE])
    spread = st.builds(
        Spread, over=over, at_least=st.sampled_from([1, 2, 2]), at_most_each=st.none() | st.integers(1, 2)
    ) if Rule.SPREAD in rules else None  # fmt: skip
    return replace(
        m,
        spread=() if spread is None else tuple(draw(st.lists(spread, max_size=2))),
        host_memory_bytes=draw(st.integers(0, 3)),
        host_cpu_millis=draw(st.integers(0, 3)),
    )


def _tiny_node(draw: st.DrawFn, name: str, rack: str, zone: str, rules: set[Rule]) -> Node:
    return Node(
        name=name,
        rack=rack,
        zone=zone,
        host_memory_bytes=draw(st.integers(1, 5)) if Rule.HOST_MEMORY in rules else None,
        host_cpu_millis=draw(st.integers(1, 5)) if Rule.HOST_CPU in rules else None,
    )


def _tiny_limit(draw: st.DrawFn) -> FleetLimit:
    power = draw(st.none() | st.integers(150, 700))
    return FleetLimit(
        scope=draw(st.sampled_from([Domain.NODE, Domain.RACK, Domain.FLEET])),
        power_milliwatts=power,
        cost_microusd_per_hour=draw(st.sampled_from([1_000_000, 2_500_000, 4_000_000])) if power is None else None,
    )


def _tiny_objectives(draw: st.DrawFn, allow_unserved: bool) -> tuple[Objective, ...]:
    rest = draw(st.permutations([o for o in Objective if o is not Objective.UNSERVED]))
    chosen = rest[: draw(st.integers(1, 3))]
    return tuple([Objective.UNSERVED, *chosen] if allow_unserved and draw(st.booleans()) else chosen)


def _tiny_ensembles(draw: st.DrawFn, models: Sequence[Model], periods: int) -> tuple[Ensemble, ...]:
    """A chain of all models, or a fork."""
    if draw(st.integers(0, 2)):
        return ()
    members = []
    for m in models:
        calls = draw(st.integers(1, 2))
        members.append(Member(model=m.name, calls=calls, depth=draw(st.integers(1, calls))))
    names = [m.name for m in models]
    chain = tuple(pairwise(names))
    fork = tuple((names[0], name) for name in names[1:])
    ensemble = Ensemble(
        name="e",
        demand_mrps=tuple(draw(st.integers(0, 900)) for _ in range(periods)),
        percentile=95,
        bound_us=draw(st.none() | st.integers(300, 4000)),
        call_percentile=99,
        serve=draw(st.sampled_from(Serve)),
        members=tuple(members),
        edges=draw(st.sampled_from([chain, fork])),
    )
    return (ensemble,)


def _with_promises(draw: st.DrawFn, o: Option) -> Option:
    """Promised with or without a curve to prove it; sometimes nothing is."""
    latency = draw(st.none() | st.integers(200, 900))
    if latency is None:
        return o
    curve = draw(st.sampled_from([(), (CurvePoint(o.capacity_mrps, 300), CurvePoint(2 * o.capacity_mrps, 400))]))
    return replace(o, promises=(Promise(percentile=99, latency_us=latency, curve=curve),))


def _tiny_current(
    draw: st.DrawFn, options: Sequence[Option], fleet: Sequence[Device]
) -> tuple[tuple[Running, ...], int | None]:
    """What runs now, on devices of this fleet and on one that is gone; and how much of it may change."""
    names = [*(device.id for device in fleet), "gone/0"]
    chosen = draw(st.lists(st.tuples(st.sampled_from(options), st.sampled_from(names)), max_size=4))
    current = tuple(
        Running(
            replica=f"{o.model}-{i}", model=o.model, device=device, instances=o.instances,
            max_batch_size=o.max_batch_size, queue_delay_us=o.queue_delay_us,
        )
        for i, (o, device) in enumerate(chosen)
    )  # fmt: skip
    return current, draw(st.none() | st.integers(0, 3))


def _tiny_kind(draw: st.DrawFn, name: str, classes: int) -> DeviceKind:
    kappa = st.sampled_from([0, 500_000, PPM, 1_500_000])
    return kind(
        name,
        memory_bytes=draw(st.integers(8, 14)),
        server_base_bytes=draw(st.integers(0, 2)),
        utilization_ppm=draw(st.sampled_from([500_000, 800_000, PPM])),
        backend_overhead_bytes={"onnxruntime": draw(st.integers(0, 2)), "python": draw(st.integers(0, 2))},
        power_milliwatts=draw(st.sampled_from([None, 72_000, 300_000])),
        cost_microusd_per_hour=draw(st.sampled_from([None, 1_000_000, 1_500_000, 3_000_000])),
        interference_classes=("x", "y")[:classes],
        kappa_ppm=tuple(tuple(draw(kappa) for _ in range(classes)) for _ in range(classes)),
        calibrated=draw(st.booleans()),
    )


def _tiny_fleet(draw: st.DrawFn, kinds: Sequence[DeviceKind], *, whole: bool) -> list[Device]:
    fleet = []
    for k in kinds:
        slices = 1 if whole else draw(st.sampled_from([1, 1, 2]))  # GPUs of two devices each: MIG slices
        for i in range(draw(st.integers(2, 3) if whole else st.integers(1, 2))):
            cordoned = draw(st.sampled_from([False, False, False, True]))
            fleet += [
                Device(id=f"{k.name}/{i}/{j}", gpu=f"{k.name}/{i}", kind=k.name, cordoned=cordoned)
                for j in range(slices)
            ]
    return fleet[:3]


def _tiny_model(draw: st.DrawFn, name: str, periods: int) -> Model:
    demand = draw(st.none() | st.tuples(*[st.integers(0, 1800)] * periods))
    least = draw(st.sampled_from([0, 0, 1, 2]))
    return model(
        name,
        demand,
        replicas_min=least,
        replicas_max=draw(st.none() | st.integers(max(1, least), 3)),
        latency_bound_us=draw(st.none() | st.just(1000)),
        priority=draw(st.integers(1, 3)),
        allowed_gpu=draw(st.sampled_from([(), (), (), ("big",), ("big", "small")])),
    )


def _tiny_option(draw: st.DrawFn, m: Model, kind_name: str, name: str, periods: int, classes: int) -> Option:
    capacity = draw(st.integers(500, 2000))
    curve = (CurvePoint(capacity, draw(st.integers(200, 700))), CurvePoint(capacity * 2, draw(st.integers(400, 1100))))
    return option(
        m.name,
        kind_name,
        id=name,
        backend=draw(st.sampled_from(["onnxruntime", "python"])),
        memory_bytes=draw(st.sampled_from([3, 3, 4, 5, 7, 9])),
        capacity_mrps=capacity,
        instances=draw(st.integers(1, 2)),
        busy_ppm=tuple(draw(st.sampled_from([1, 1, 2, 3, 5, 9])) * 100_000 for _ in range(periods)),
        tolerance_ppm=draw(st.sampled_from([0, 200_000, 400_000, 700_000, PPM, PPM])),
        max_others=draw(st.sampled_from([None, None, 0, 1, 2])),
        interference_class=draw(st.integers(0, classes - 1)),
        curve=curve if m.latency_bound_us is not None else (),
        latency_basis=LatencyBasis.OPEN if m.latency_bound_us is not None else LatencyBasis.NONE,
    )
