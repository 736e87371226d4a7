"""Small problems with GPUs that can be split.

The GPU is made up, so that all its layouts fit into a search by hand: three compute slices, four memory slices;
layouts 1g+1g+1g, 2g+1g, 3g, or whole. Two 2g would fit into the memory, but not into the compute slices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hypothesis import strategies as st

from planner.domain.ensemble import Ensemble, Member, Serve
from planner.domain.mig import MigSlice
from planner.domain.problem import Device, DeviceKind, Model, Objective, Option, Problem, Running
from planner.domain.units import PPM
from tests.problems import kind, model, option, problem, running

SLICES = {
    "1g": MigSlice(compute=1, memory=1, starts=(0, 1, 2), gpu_compute=3, gpu_memory=4),
    "2g": MigSlice(compute=2, memory=2, starts=(0, 2), gpu_compute=3, gpu_memory=4),
    "3g": MigSlice(compute=3, memory=4, starts=(0,), gpu_compute=3, gpu_memory=4),
}


def slice_kind(name: str, **changes: object) -> DeviceKind:
    values: dict[str, object] = {"type": "split", "profile": f"split/{name}", "mig": SLICES[name]}
    return kind(f"split/{name}", **(values | changes))


def free_gpu(index: int, names: Sequence[str] = ("1g", "2g", "3g"), *, whole: bool = True) -> list[Device]:
    """Every device that a GPU may have whose layout is free."""
    gpu = f"split/{index}"
    found = [Device(id=gpu, gpu=gpu, kind="split")] if whole else []
    return found + [
        Device(id=f"{gpu}/{name}@{start}", gpu=gpu, kind=f"split/{name}", start=start)
        for name in names
        for start in SLICES[name].starts
    ]


def fixed_gpu(index: int, *slices: tuple[str, int]) -> list[Device]:
    gpu = f"split/{index}"
    return [Device(id=f"{gpu}/{n}@{s}", gpu=gpu, kind=f"split/{n}", start=s) for n, s in slices]


@st.composite
def tiny_mig_problems(draw: st.DrawFn) -> Problem:
    """One or two GPUs with free or fixed layouts, and perhaps a GPU of another type."""
    cost = draw(st.sampled_from([None, 1_000_000, 2_000_000]))
    kinds = [kind("split", memory_bytes=12, type="split", cost_microusd_per_hour=cost)]
    for name, memory in (("1g", 5), ("2g", 8), ("3g", 11)):
        alone = draw(st.sampled_from([PPM, 950_000]))
        kinds.append(
            slice_kind(
                name,
                memory_bytes=memory,
                server_base_bytes=draw(st.integers(0, 1)),
                backend_overhead_bytes={"python": draw(st.integers(0, 1))},
                cost_microusd_per_hour=cost,
                alone_ppm=alone,
            )
        )
    kinds.append(kind("other", memory_bytes=6, cost_microusd_per_hour=draw(st.sampled_from([None, 500_000]))))
    models = [_model(draw, name) for name in ("a", "b", "c")[: draw(st.integers(1, 3))]]
    options = [o for m in models for k in kinds for o in _options(draw, m, k)]
    fleet: list[Device] = []
    for index in range(draw(st.integers(1, 2))):
        layout = draw(st.sampled_from([(), (), (("2g", 0), ("1g", 2)), (("1g", 0), ("1g", 1), ("1g", 2))]))
        fleet += fixed_gpu(index, *layout) if layout else free_gpu(index)
    fleet += [Device(id="other/0", gpu="other/0", kind="other")] * draw(st.integers(0, 1))
    current = draw(st.sampled_from([False, False, False, True]))
    objectives = draw(
        st.sampled_from(
            [(Objective.MOVES, Objective.GPUS), (Objective.GPUS, Objective.MOVES)]
            if current
            else [
                (Objective.GPUS,),
                (Objective.COST, Objective.GPUS),
                (Objective.GPUS, Objective.BALANCE),
                (Objective.BALANCE, Objective.GPUS),
                (Objective.UNSERVED, Objective.GPUS),
                (Objective.THROUGHPUT,),
            ]
        )
    )
    return problem(
        models,
        options,
        kinds=kinds,
        fleet=fleet,
        objectives=objectives,
        allow_unserved=objectives[0] is Objective.UNSERVED,
        current=_current(draw, options, fleet) if current and options else (),
        ensembles=_ensembles(draw, models),
    )


def _ensembles(draw: st.DrawFn, models: Sequence[Model]) -> tuple[Ensemble, ...]:
    """Perhaps one whose members stand together on each slice that serves it."""
    if len(models) < 2 or draw(st.sampled_from([True, True, True, False])):
        return ()
    members = tuple(Member(model=m.name) for m in models[:2])
    return (
        Ensemble(
            name="e",
            demand_mrps=(draw(st.integers(0, 1000)),),
            percentile=99,
            bound_us=None,
            call_percentile=99,
            serve=Serve.TRITON,
            members=members,
        ),
    )


def _current(draw: st.DrawFn, options: Sequence[Option], fleet: Sequence[Device]) -> tuple[Running, ...]:
    """What runs now: anywhere, so perhaps on slices that do not go together."""
    pairs = [(o, d.id) for o in options for d in fleet if d.kind == o.kind]
    chosen = draw(st.lists(st.sampled_from(pairs), max_size=3, unique=True)) if pairs else []
    return tuple(running(o.model, device, replica=f"{o.model}-{i}") for i, (o, device) in enumerate(chosen))


def _model(draw: st.DrawFn, name: str) -> Model:
    return model(name, draw(st.integers(200, 2200)), replicas_min=draw(st.sampled_from([0, 1, 1, 2])))


def _options(draw: st.DrawFn, m: Model, k: DeviceKind) -> Iterator[Option]:
    if draw(st.sampled_from([True, True, True, False])):
        yield option(
            m.name,
            k.name,
            backend=draw(st.sampled_from(["onnxruntime", "python"])),
            memory_bytes=draw(st.integers(3, 6)),
            capacity_mrps=draw(st.integers(400, 2500)),
            busy_ppm=(draw(st.sampled_from([300_000, 500_000, 950_000, PPM])),),
            max_others=draw(st.sampled_from([None, 0])),
        )
