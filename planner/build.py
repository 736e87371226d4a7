"""Profiles + workload + fleet -> the planning problem, with what a reader should know about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from statistics import NormalDist

from planner.basis import digest_notes, requests_notes
from planner.domain.ensemble import Ensemble, Member, Serve
from planner.domain.fleet import Fleet, Gpu, GpuType, SliceType
from planner.domain.problem import (
    SCHEMA_VERSION,
    Device,
    DeviceKind,
    Model,
    Objective,
    Option,
    Problem,
    Running,
    Settings,
    most_on_node,
)
from planner.domain.profile import BACKEND_ROW_PREFIX, SERVER_ROW, ProfileRow, Source
from planner.domain.topology import FleetLimit, Node, Survival
from planner.domain.units import (
    PPM,
    bound_us,
    capacity_mrps,
    demand_mrps,
    exact,
    format_bytes,
    limit_ppm,
    millis,
    share_ppm,
)
from planner.domain.workload import ALL_DAY, EnsembleDemand, ModelDemand, Workload
from planner.errors import InputError, NotFoundError
from planner.options import Wishes, model_options
from planner.scenarios import asked_of_models, with_observed_periods

DEFAULT_SERVICE_LEVEL = 0.99
_RATELESS = frozenset({Objective.MODELS, Objective.THROUGHPUT})


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildSettings:
    """The user's choices. `objectives` empty: the default order. `server_base_bytes` replaces a missing row. `mig`:
    GPUs without a layout may be split.

    `service_level`: how often uncertain demand is planned to be served; None: DEFAULT_SERVICE_LEVEL where it matters.
    `current`: the replicas of the plan that runs now; `max_moves` of the new one may differ from it.
    """

    settings: Settings
    objectives: tuple[Objective, ...] = ()
    allow_unserved: bool = False
    server_base_bytes: int | None = None
    current: tuple[Running, ...] = ()
    max_moves: int | None = None
    mig: bool = False
    service_level: float | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """`notes` are for the reader; `without_option` says in sentences why a model has no configuration to plan with."""

    problem: Problem
    notes: tuple[str, ...]
    without_option: tuple[str, ...]


def build(
    workload: Workload,
    fleet: Fleet,
    rows: Sequence[ProfileRow],
    choice: BuildSettings,
    *,
    workload_name: str = "workload",
) -> Built:
    """`workload_name` is how errors call the workload: the path of its file."""
    level = choice.service_level or DEFAULT_SERVICE_LEVEL
    given, observed = workload, workload.observed
    if workload.is_uncertain:
        choice = replace(choice, settings=replace(choice.settings, service_level=level))
    elif choice.service_level is not None:
        raise InputError(
            f"{workload_name}: --service-level needs uncertain demand, and every rate here is certain",
            hint="give a model uncertain_rate: {mean_rps: 9, spread_rps: 2}, or the workload observed_rates: FILE",
        )
    if observed is not None:
        workload = with_observed_periods(workload, observed, level)
    _require_gpus(workload, fleet, workload_name)
    usable = [gpu for gpu in fleet.gpus if not gpu.cordoned]
    if not usable:
        raise InputError("fleet: every GPU is cordoned, there is none to plan on")
    _require_profiles(workload, fleet, rows, choice, workload_name)
    objectives = _objectives(workload, fleet, choice)
    kinds, devices = _devices(fleet, rows, choice)
    periods = workload.periods
    models = tuple(_model(demand, workload, level) for demand in workload.models)
    ensembles = tuple(_ensemble(demand, workload) for demand in workload.ensembles)
    options: list[Option] = []
    notes: list[str] = []
    without: list[str] = []
    for model in models:
        running = frozenset(r.configuration for r in choice.current if r.model == model.name)
        asked = [e for e in ensembles if e.bound_us is not None and model.name in e.models]
        served = tuple(e.name for e in ensembles if e.serve is Serve.TRITON and model.name in e.models)
        wishes = Wishes(running, tuple(asked), served, most_on_node(devices))
        found, reasons = _options_on(kinds, model, rows, choice.settings, wishes)
        options.extend(found)
        if not found:
            without.extend(reasons)
        else:
            notes.extend(_not_profiled(model.name, reasons))
    _require_server_base(kinds, options, rows, choice)
    problem = Problem(
        schema_version=SCHEMA_VERSION,
        periods=periods,
        models=models,
        kinds=kinds,
        devices=devices,
        options=tuple(options),
        objectives=objectives,
        allow_unserved=choice.allow_unserved or Objective.MODELS in objectives,
        settings=choice.settings,
        current=choice.current,
        max_moves=choice.max_moves,
        ensembles=ensembles,
        observed=None if observed is None else asked_of_models(given, observed),
        nodes=_nodes(fleet),
        conflict=workload.conflict,
        together=workload.together,
        pinned=workload.pinned,
        survives=tuple(
            Survival(domain=s.domain, share_ppm=share_ppm(s.share), models=s.models) for s in workload.survives
        ),
        limits=_limits(fleet),
    )
    doubts = (*digest_notes(rows, workload), *requests_notes(rows, workload))
    return Built(problem, (*notes, *doubts), tuple(without))


_NOT_PROFILED = "no profile"


def _not_profiled(model: str, reasons: Iterable[str]) -> Iterator[str]:
    """The kinds on which a model has no profile, in one sentence."""
    head, tail = f"{model} on ", f": {_NOT_PROFILED}"
    kinds = [reason.removeprefix(head).removesuffix(tail) for reason in reasons if reason.endswith(tail)]
    if kinds:
        yield f"{head}{', '.join(kinds)}{tail}"


NAMES_SHOWN = 8


def _way_to_profiles(model: str, type_name: str, fleet: Fleet) -> str:
    if fleet.types[type_name].cores is None:
        return f"planner profiles import FILE brings in profiles of {type_name}"
    return f"planner measure {model} --device {type_name}, or planner profiles import FILE"


def _require_profiles(
    workload: Workload, fleet: Fleet, rows: Sequence[ProfileRow], choice: BuildSettings, where: str
) -> None:
    """A model that was measured on none of the devices on offer is a mistake, not an infeasible problem."""
    types = sorted({gpu.type for gpu in fleet.gpus})
    split = {(gpu.type, gpu.mig_layout, gpu.reserve_bytes): gpu for gpu in fleet.gpus}.values()
    offered = sorted({_profile(gpu.type, one) for gpu in split for one, _ in _parts(gpu, fleet, rows, choice)})
    for demand in workload.models:
        devices = sorted({row.device for row in rows if row.model == demand.name})
        if not devices:
            known = sorted({row.model for row in rows if not row.is_overhead})
            near = get_close_matches(demand.name, known, n=3)
            hint = _way_to_profiles(demand.name, types[0], fleet)
            raise NotFoundError(
                f"{where}: model {demand.name!r} has no profile; models with profiles: {_some(known)}",
                hint=f"did you mean {' or '.join(near)}? else {hint}" if near else hint,
            )
        if not set(devices) & set(offered):
            sliced = not choice.mig and any(device.partition("/")[0] in types for device in devices)
            raise NotFoundError(
                f"{where}: model {demand.name!r} has no profile on {' or '.join(offered)}; it was measured on "
                f"{', '.join(devices)}",
                hint="--mig lets the planner split GPUs, mig_layout in fleet.yaml says how they are split"
                if sliced
                else _way_to_profiles(demand.name, types[0], fleet),
            )
        for name in demand.allowed_gpu:
            if name not in fleet.types:
                raise NotFoundError(
                    f"{where}: model {demand.name!r}: allowed_gpu names the unknown type {name!r}",
                    hint=f"the fleet offers {', '.join(types)}",
                )


def _require_gpus(workload: Workload, fleet: Fleet, where: str) -> None:
    """A pin names a GPU that may be used."""
    gpus = {gpu.id: gpu for gpu in fleet.gpus}
    for pin in workload.pinned:
        if pin.gpu not in gpus:
            near = get_close_matches(pin.gpu, gpus, n=3)
            raise NotFoundError(
                f"{where}: pinned: model {pin.model!r}: the fleet has no gpu {pin.gpu!r}",
                hint=f"did you mean {' or '.join(near)}?" if near else "a gpu is written node/index, as node1/0",
            )
        if gpus[pin.gpu].cordoned:
            raise InputError(f"{where}: pinned: model {pin.model!r}: gpu {pin.gpu!r} is cordoned and must stay empty")


def _nodes(fleet: Fleet) -> tuple[Node, ...]:
    """Those of which more than the name is known."""
    nodes = (
        Node(
            name=node.name,
            rack=node.rack,
            zone=node.zone,
            host_memory_bytes=node.host_memory_bytes,
            host_cpu_millis=None if node.host_cpu is None else int(exact(node.host_cpu) * 1000),
        )
        for node in fleet.nodes
    )
    return tuple(node for node in nodes if node != Node(name=node.name))


def _limits(fleet: Fleet) -> tuple[FleetLimit, ...]:
    for limit in fleet.limits:
        for gpu in fleet.gpus:
            gpu_type = fleet.types[gpu.type]
            if limit.power_watts is not None and gpu_type.power_watts is None:
                raise InputError(
                    f"fleet: a limit of power needs power_watts of every type on offer; {gpu_type.name} has none",
                    hint="give power_watts under gpu_types in fleet.yaml",
                )
            if limit.usd_per_hour is not None and _price(gpu, gpu_type) is None:
                raise InputError(
                    f"fleet: a limit of usd_per_hour needs a price for every type on offer; {gpu_type.name} has none",
                    hint="give usd_per_hour per node or under gpu_types in fleet.yaml",
                )
    return tuple(
        FleetLimit(
            scope=limit.scope,
            name=limit.name,
            power_milliwatts=None if limit.power_watts is None else int(exact(limit.power_watts) * 1000),
            cost_microusd_per_hour=None if limit.usd_per_hour is None else int(exact(limit.usd_per_hour) * 1_000_000),
        )
        for limit in fleet.limits
    )


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more if names else "none"


def _objectives(workload: Workload, fleet: Fleet, choice: BuildSettings) -> tuple[Objective, ...]:
    rateless = [m.name for m in workload.models if m.rates_rps is None and m.name not in workload.members]
    objectives = choice.objectives
    priced = all(_price(gpu, fleet.types[gpu.type]) is not None for gpu in fleet.gpus)
    if not objectives:
        moves = (Objective.MOVES,) if choice.current else ()
        objectives = (*(Objective.COST,) * priced, Objective.GPUS, *moves, Objective.BALANCE)
    if Objective.COST in objectives and not priced:
        bare = sorted({g.type for g in fleet.gpus if _price(g, fleet.types[g.type]) is None})
        raise InputError(
            f"objective cost needs a price for every type on offer; {', '.join(bare)} has none",
            hint="give usd_per_hour per node or under gpu_types in fleet.yaml",
        )
    unpowered = sorted({gpu.type for gpu in fleet.gpus if fleet.types[gpu.type].power_watts is None})
    if Objective.POWER in objectives and unpowered:
        raise InputError(
            f"objective power needs the power of every type on offer; {', '.join(unpowered)} has none",
            hint="give power_watts under gpu_types in fleet.yaml",
        )
    if not choice.current and (Objective.MOVES in objectives or choice.max_moves is not None):
        what = "objective moves" if Objective.MOVES in objectives else "--max-moves"
        raise InputError(f"{what} needs the plan that runs now", hint="name it: planner solve --current PLAN")
    if rateless and not _RATELESS & set(objectives):
        raise InputError(
            f"model {rateless[0]!r} has no rate_rps",
            hint="give its rate in workload.yaml, or solve with --minimize models or --minimize throughput",
        )
    if choice.allow_unserved and Objective.UNSERVED not in objectives:
        objectives = (Objective.UNSERVED, *objectives)
    return tuple(dict.fromkeys(objectives))


def _model(demand: ModelDemand, workload: Workload, service_level: float) -> Model:
    rates = demand.rates_rps
    # The quantile of a normal distribution lies so many spreads above its mean.
    swing = exact(demand.spread_rps) * exact(round(NormalDist().inv_cdf(service_level), 6))
    by_period = None
    if rates is not None or demand.name in workload.members:
        by_period = [
            exact((rates or {}).get(p, (rates or {}).get(ALL_DAY, 0.0))) + workload.calls_rps(demand.name, p)
            for p in workload.periods
        ]
    return Model(
        name=demand.name,
        rate_mrps=None if by_period is None else tuple(demand_mrps(rate) for rate in by_period),
        demand_mrps=None if by_period is None else tuple(demand_mrps(r + swing, demand.headroom) for r in by_period),
        swing_mrps=capacity_mrps(swing * (1 + exact(demand.headroom))),
        percentile=demand.percentile,
        latency_bound_us=None if demand.latency_bound_ms is None else bound_us(demand.latency_bound_ms),
        replicas_min=demand.replicas_min,
        replicas_max=demand.replicas_max,
        allowed_gpu=demand.allowed_gpu,
        priority=demand.priority,
        spread=demand.spread,
        host_memory_bytes=demand.host_memory_bytes,
        host_cpu_millis=millis(demand.host_cpu),
    )


def _ensemble(demand: EnsembleDemand, workload: Workload) -> Ensemble:
    """Planned with the largest headroom of its members."""
    members = {member.name for member in demand.members}
    headroom = max(model.headroom for model in workload.models if model.name in members)
    bound = demand.latency_bound_ms
    rates = [demand.rates_rps.get(p, demand.rates_rps.get(ALL_DAY, 0.0)) for p in workload.periods]
    return Ensemble(
        name=demand.name,
        demand_mrps=tuple(demand_mrps(rate, headroom) for rate in rates),
        percentile=demand.percentile,
        bound_us=None if bound is None else bound_us(bound),
        call_percentile=demand.percentile if bound is None else demand.call_percentile,
        serve=demand.serve,
        members=tuple(Member(model=m.name, calls=m.calls, depth=m.depth) for m in demand.members),
        edges=demand.graph,
        rate_mrps=tuple(
            demand_mrps(demand.rates_rps.get(p, demand.rates_rps.get(ALL_DAY, 0.0))) for p in workload.periods
        ),
    )


def _price(gpu: Gpu, gpu_type: GpuType) -> float | None:
    return gpu.usd_per_hour if gpu.usd_per_hour is not None else gpu_type.usd_per_hour


# A slice with its start, or the GPU as a whole.
_GpuPart = tuple[SliceType | None, int | None]


def _parts(gpu: Gpu, fleet: Fleet, rows: Sequence[ProfileRow], choice: BuildSettings) -> list[_GpuPart]:
    """The devices of a GPU; where its layout is free, every placement of each slice that something was measured on."""
    gpu_type = fleet.types[gpu.type]
    if gpu.mig_layout:
        return [(gpu_type.slice_named(name), start) for name, start in gpu.mig_layout]
    if not choice.mig or gpu.reserve_bytes:
        return [(None, None)]
    measured = {row.device for row in rows if not row.is_overhead}
    slices = [one for one in gpu_type.slices if _profile(gpu.type, one) in measured]
    whole: list[_GpuPart] = [(None, None)] if gpu.type in measured or not slices else []
    return [*whole, *((one, start) for one in slices for start in one.mig.starts)]


def _profile(type_name: str, part: SliceType | None) -> str:
    """What profiles call such a device."""
    return type_name if part is None else f"{type_name}/{part.name}"


def _devices(
    fleet: Fleet, rows: Sequence[ProfileRow], choice: BuildSettings
) -> tuple[tuple[DeviceKind, ...], tuple[Device, ...]]:
    """Devices whose numbers are all the same make one kind; the first kind of a profile bears the profile's name."""
    kinds: dict[tuple[str, int, float | None], DeviceKind] = {}
    parts: dict[tuple[object, ...], list[_GpuPart]] = {}
    devices = []
    for gpu in fleet.gpus:
        price = _price(gpu, fleet.types[gpu.type])
        alike = (gpu.type, gpu.mig_layout, gpu.reserve_bytes)
        if alike not in parts:
            parts[alike] = _parts(gpu, fleet, rows, choice)
        for part, start in parts[alike]:
            profile = _profile(gpu.type, part)
            key = (profile, gpu.reserve_bytes, price)
            if key not in kinds:
                same = sum(1 for known in kinds if known[0] == profile)
                kinds[key] = _kind(f"{profile}#{same + 1}" if same else profile, gpu, part, fleet, price, rows, choice)
            name = gpu.id if part is None else f"{gpu.id}/{part.name}@{start}"
            devices.append(Device(id=name, gpu=gpu.id, kind=kinds[key].name, start=start, cordoned=gpu.cordoned))
    return tuple(kinds.values()), tuple(devices)


def _kind(
    name: str,
    gpu: Gpu,
    part: SliceType | None,
    fleet: Fleet,
    price: float | None,
    rows: Sequence[ProfileRow],
    choice: BuildSettings,
) -> DeviceKind:
    """Cost and power are those of the whole GPU, also of a slice: a GPU in use is paid once."""
    gpu_type, settings = fleet.types[gpu.type], choice.settings
    profile = _profile(gpu_type.name, part)
    base = _overhead(rows, profile, SERVER_ROW)
    overhead_rows = [row for row in rows if row.is_overhead and row.device == profile]
    backends = sorted({row.model for row in overhead_rows if row.model.startswith(BACKEND_ROW_PREFIX)})
    whole = gpu_type.memory_bytes if part is None else part.memory_bytes
    usable = int((1 - exact(settings.reserve)) * whole) - gpu.reserve_bytes
    if usable <= 0:
        raise InputError(f"gpu {gpu.id!r}: reserve {format_bytes(gpu.reserve_bytes)} leaves no memory to plan with")
    alone = PPM if part is None else limit_ppm(1 - exact(settings.mig_margin))
    return DeviceKind(
        name=name,
        type=gpu_type.name,
        profile=profile,
        memory_bytes=usable,
        server_base_bytes=base if base is not None else choice.server_base_bytes or 0,
        utilization_ppm=min(alone, limit_ppm(settings.utilization)),
        alone_ppm=alone,
        mig=None if part is None else part.mig,
        overhead_source=Source.weakest(row.source for row in overhead_rows),
        backend_overhead_bytes={
            name.removeprefix(BACKEND_ROW_PREFIX): _overhead(rows, profile, name) or 0 for name in backends
        },
        cost_microusd_per_hour=None if price is None else round(exact(price) * 1_000_000),
        power_milliwatts=None if gpu_type.power_watts is None else round(exact(gpu_type.power_watts) * 1000),
        cores=gpu_type.cores,
    )


def _overhead(rows: Iterable[ProfileRow], device: str, name: str) -> int | None:
    """The largest that was measured; None where it was not."""
    known = [r.memory_bytes for r in rows if r.device == device and r.model == name and r.memory_bytes is not None]
    return max(known, default=None)


def _options_on(
    kinds: Sequence[DeviceKind],
    model: Model,
    rows: Sequence[ProfileRow],
    settings: Settings,
    wishes: Wishes,
) -> tuple[list[Option], list[str]]:
    found: list[Option] = []
    reasons: list[str] = []
    for kind in kinds:
        if model.allowed_gpu and kind.type not in model.allowed_gpu:
            continue
        own = [row for row in rows if row.model == model.name and row.device == kind.profile]
        options, why = model_options(own, model, kind, settings, wishes) if own else ([], [_NOT_PROFILED])
        found.extend(options)
        if not options:
            reasons.extend(f"{model.name} on {kind.name}: {reason}" for reason in why)
    return found, list(dict.fromkeys(reasons))


def _require_server_base(
    kinds: Sequence[DeviceKind], options: Sequence[Option], rows: Sequence[ProfileRow], choice: BuildSettings
) -> None:
    for kind in kinds:
        if choice.server_base_bytes is not None or _overhead(rows, kind.profile, SERVER_ROW) is not None:
            continue
        if any(option.kind == kind.name and not option.exclusive for option in options):
            raise InputError(
                f"profiles of {kind.profile} give the memory of replicas, but not what the server itself takes",
                hint=f"add a row '@server,{kind.profile}' with memory_bytes, or pass --server-base",
            )
