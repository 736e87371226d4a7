"""What a problem must be before anyone solves it: complete in itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from planner.domain.ensemble import Serve
from planner.domain.topology import Domain
from planner.errors import InputError

if TYPE_CHECKING:
    from planner.domain.problem import Option, Problem


def require_whole(problem: Problem) -> None:
    """InputError unless everything that is named is there once, and every number is one that can be."""
    _unique("model", [m.name for m in problem.models])
    _unique("device kind", [k.name for k in problem.kinds])
    _unique("device", [d.id for d in problem.devices])
    _unique("option", [o.id for o in problem.options])
    _unique("current replica", [r.replica for r in problem.current])
    if problem.max_moves is not None and problem.max_moves < 0:
        raise InputError(f"max_moves must be >= 0, got {problem.max_moves}")
    _unique("node", [n.name for n in problem.nodes])
    for device in problem.devices:
        if device.kind not in problem.kind_by_name:
            raise InputError(f"device {device.id!r}: unknown kind {device.kind!r}")
        if problem.kind_by_name[device.kind].mig is not None and (device.start is None or device.start < 0):
            raise InputError(f"device {device.id!r}: a MIG slice needs its start, at least 0")
    for option in problem.options:
        _check_option(problem, option)
    for model in problem.models:
        for name in ("rate_mrps", "demand_mrps"):
            value = getattr(model, name)
            if value is not None and (len(value) != len(problem.periods) or min(value) < 0):
                raise InputError(f"model {model.name!r}: {name} needs one number >= 0 per period, got {value}")
    _check_spanning(problem)
    _check_ensembles(problem)
    _check_references(problem)
    _check_domains(problem)
    for name in () if problem.observed is None else problem.observed.models:
        if name not in problem.model_by_name:
            raise InputError(f"observed: unknown model {name!r}")


def _check_ensembles(problem: Problem) -> None:
    _unique("ensemble", [e.name for e in problem.ensembles])
    for ensemble in problem.ensembles:
        for name in ensemble.models:
            if name not in problem.model_by_name:
                raise InputError(f"ensemble {ensemble.name!r}: unknown member {name!r}")
        if len(ensemble.demand_mrps) != len(problem.periods) or min(ensemble.demand_mrps) < 0:
            found = ensemble.demand_mrps
            raise InputError(f"ensemble {ensemble.name!r}: demand_mrps needs a number >= 0 per period, got {found}")
        if len(ensemble.expected_mrps) != len(problem.periods):
            raise InputError(f"ensemble {ensemble.name!r}: rate_mrps needs one number per period")
    _unique("member of an ensemble that Triton serves", [
        name for e in problem.ensembles if e.serve is Serve.TRITON for name in e.models
    ])  # fmt: skip


def _check_references(problem: Problem) -> None:
    """Every model and GPU that a rule names is there."""
    gpus = {device.gpu for device in problem.devices}
    named = [("conflict", m) for pair in problem.conflict for m in pair]
    named += [("together", m) for pair in problem.together for m in pair]
    named += [("pinned", pin.model) for pin in problem.pinned]
    named += [("survives", m) for survival in problem.survives for m in survival.models]
    for rule, name in named:
        if name not in problem.model_by_name:
            raise InputError(f"{rule}: unknown model {name!r}")
    for rule, pairs in (("conflict", problem.conflict), ("together", problem.together)):
        for one, other in pairs:
            if one == other:
                raise InputError(f"{rule}: needs two models, got {one!r} twice")
    for pin in problem.pinned:
        if pin.gpu not in gpus:
            raise InputError(f"pinned: model {pin.model!r}: unknown gpu {pin.gpu!r}")


def _check_domains(problem: Problem) -> None:
    """Where racks or zones count, every node has its own."""
    for domain, rule in _domains_asked(problem):
        for name in dict.fromkeys(device.node for device in problem.devices):
            node = problem.node_by_name.get(name)
            if node is None or (node.rack if domain is Domain.RACK else node.zone) is None:
                raise InputError(f"{rule}: node {name!r} has no {domain}", hint="give it one in fleet.yaml")
    for limit in problem.limits:
        known = {problem.domain_of(device, limit.scope) for device in problem.devices}
        if limit.name is not None and limit.name not in known:
            raise InputError(f"limits: unknown {limit.scope} {limit.name!r}")
        for kind in problem.kinds:
            if limit.power_milliwatts is not None and kind.power_milliwatts is None:
                raise InputError(f"limits: the power of device kind {kind.name!r} is not known")
            if limit.cost_microusd_per_hour is not None and kind.cost_microusd_per_hour is None:
                raise InputError(f"limits: the cost of device kind {kind.name!r} is not known")


def _domains_asked(problem: Problem) -> Iterator[tuple[Domain, str]]:
    asked = [(spread.over, f"model {m.name!r}: spread") for m in problem.models for spread in m.spread]
    asked += [(survival.domain, "survives") for survival in problem.survives]
    asked += [(limit.scope, "limits") for limit in problem.limits]
    return ((domain, rule) for domain, rule in asked if domain in (Domain.RACK, Domain.ZONE))


def _check_option(problem: Problem, option: Option) -> None:
    if option.model not in problem.model_by_name or option.kind not in problem.kind_by_name:
        raise InputError(f"option {option.id!r}: unknown model {option.model!r} or kind {option.kind!r}")
    if len(option.busy_ppm) != len(problem.periods):
        raise InputError(f"option {option.id!r}: busy_ppm needs one number per period")
    if not 0 <= option.interference_class < len(problem.kind_by_name[option.kind].interference_classes):
        raise InputError(f"option {option.id!r}: unknown interference class {option.interference_class}")


def _check_spanning(problem: Problem) -> None:
    """Replicas over several GPUs take whole ones."""
    spanning = [option for option in problem.options if option.gpus > 1]
    parts = _parts_of_gpus(problem) if spanning else set()
    for option in spanning:
        kind = problem.kind_by_name[option.kind]
        if kind.name in parts or kind.cores is not None:
            raise InputError(f"option {option.id!r}: takes {option.gpus} whole GPUs, and a {kind.name} is none")
        if option.model in problem.served_by_triton:
            ensemble = problem.served_by_triton[option.model].name
            text = f"takes {option.gpus} GPUs for itself alone, ensemble {ensemble!r} needs its members on one server"
            raise InputError(f"option {option.id!r}: {text}", hint="serve the ensemble by its clients: serve: client")


def _parts_of_gpus(problem: Problem) -> set[str]:
    """Kinds of devices that are no whole GPU."""
    on_gpu = Counter((device.kind, device.gpu) for device in problem.devices)
    several = {kind for (kind, _), count in on_gpu.items() if count > 1}
    return several | {kind.name for kind in problem.kinds if kind.mig is not None}


def _unique(what: str, names: list[str]) -> None:
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{what} {twice!r} is given twice")
