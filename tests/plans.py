"""Plans for tests, from placements that were chosen by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from planner.domain.check import check
from planner.domain.derive import Origin, derive_plan
from planner.domain.plan import Placement, Plan, Status
from planner.domain.problem import Device, DeviceKind, Model, Option, Problem
from tests.problems import GIB, kind, model, option, problem

CPU = kind("cpu-1", memory_bytes=4 * GIB, cores=1)
GPU = kind("A100-80", memory_bytes=75 * GIB)


def node_devices(kinds: Sequence[str], node: str = "n1") -> tuple[Device, ...]:
    """One whole device per kind: n1/0, n1/1 and so on."""
    return tuple(Device(id=f"{node}/{i}", gpu=f"{node}/{i}", kind=name) for i, name in enumerate(kinds))


def replica_option(model_name: str, kind_name: str, **changes: object) -> Option:
    """10 req/s at a tenth of the device's time, and it bears any neighbour."""
    values: dict[str, object] = {"backend": "python", "memory_bytes": GIB // 4, "capacity_mrps": 10_000}
    return option(model_name, kind_name, **(values | changes))


def placed(
    options: Sequence[Option],
    layout: Mapping[str, Sequence[str]],
    *,
    kinds: Sequence[DeviceKind] = (CPU, GPU),
    fleet: Sequence[Device] | None = None,
    models: Sequence[Model] | None = None,
    **changes: object,
) -> tuple[Problem, Plan]:
    """A plan that keeps every rule. `layout` gives per device the ids of the options on it.

    Models ask for what is placed; the fleet is the devices of the layout in their order.
    """
    by_id = {o.id: o for o in options}
    on = [(by_id[name], device) for device, names in layout.items() for name in names]
    own_fleet = fleet or [Device(id=device, gpu=device, kind=by_id[names[0]].kind) for device, names in layout.items()]
    asked = {o.model: sum(p.capacity_mrps for p, _ in on if p.model == o.model) for o, _ in on}
    made = problem(
        models or [model(name, mrps) for name, mrps in asked.items()],
        options,
        kinds=kinds,
        fleet=own_fleet,
        **changes,  # type: ignore[arg-type]
    )
    placements = [Placement(replica=f"{o.model}-{i}", option=o.id, device=device) for i, (o, device) in enumerate(on)]
    origin = Origin(
        status=Status.FEASIBLE,
        solver="by hand",
        seed=0,
        runtime_s=0.0,
        bounds=[(None, "none")] * len(made.objectives),
    )
    plan = derive_plan(made, placements, origin)
    assert check(made, plan) == []
    return made, plan
