"""A plan is edited in every way that matters; each fault must be found and named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from planner.domain.check import check, check_placements
from planner.domain.codec import to_json
from planner.domain.derive import Origin, derive_plan
from planner.domain.latency import CurvePoint
from planner.domain.mig import MigSlice
from planner.domain.plan import Placement, Plan, Status, plan_from_json
from planner.domain.problem import Device, DeviceKind, LatencyBasis, Model, Objective, Option, Problem, Running
from planner.domain.rules import Rule
from planner.errors import InputError

MIB = 2**20


def option(name: str, model: str, kind: str = "L4", **changes: Any) -> Option:
    base = Option(
        id=name, model=model, kind=kind, instances=1, max_batch_size=4, queue_delay_us=100, backend="onnx",
        memory_bytes=1000 * MIB, capacity_mrps=60_000, busy_ppm=(300_000, 100_000), tolerance_ppm=500_000,
        max_others=2, curve=(CurvePoint(60_000, 5_000), CurvePoint(200_000, 6_000)), latency_basis=LatencyBasis.OPEN,
    )  # fmt: skip
    return replace(base, **changes)


def make_problem(**changes: Any) -> Problem:
    base = Problem(
        schema_version=1,
        periods=("day", "night"),
        models=(
            Model(name="a", rate_mrps=(100_000, 30_000), demand_mrps=(110_000, 33_000), percentile=99,
                  latency_bound_us=20_000, replicas_min=1, replicas_max=2),
            Model(name="b", rate_mrps=(50_000, 10_000), demand_mrps=(50_000, 10_000), percentile=95,
                  latency_bound_us=30_000, allowed_gpu=("L4",)),
            Model(name="c", rate_mrps=(20_000, 20_000), demand_mrps=(20_000, 20_000), percentile=99,
                  latency_bound_us=None),
        ),
        kinds=(
            DeviceKind(name="L4", type="L4", profile="L4", memory_bytes=4000 * MIB, server_base_bytes=500 * MIB,
                       utilization_ppm=800_000, backend_overhead_bytes={"onnx": 300 * MIB, "tf": 400 * MIB},
                       cost_microusd_per_hour=700_000, power_milliwatts=72_000),
            DeviceKind(name="T4", type="T4", profile="T4", memory_bytes=8000 * MIB, server_base_bytes=500 * MIB,
                       utilization_ppm=800_000, cost_microusd_per_hour=400_000, power_milliwatts=70_000),
        ),
        devices=(
            Device(id="n1/0", gpu="n1/0", kind="L4"),
            Device(id="n1/1", gpu="n1/1", kind="L4"),
            Device(id="n1/2", gpu="n1/2", kind="L4", cordoned=True),
            Device(id="n2/0", gpu="n2/0", kind="T4"),
        ),
        options=(
            option("a1", "a"),
            option("b1", "b", capacity_mrps=50_000),
            option("b-t4", "b", kind="T4", capacity_mrps=50_000),
            option("c1", "c", capacity_mrps=20_000, latency_basis=LatencyBasis.NONE, curve=(), tolerance_ppm=1_000_000,
                   max_others=None, busy_ppm=(100_000, 100_000)),
        ),
        objectives=(Objective.COST, Objective.GPUS, Objective.BALANCE),
    )  # fmt: skip
    return replace(base, **changes)


PLACED = (
    Placement(replica="a-1", option="a1", device="n1/0"),
    Placement(replica="a-2", option="a1", device="n1/1"),
    Placement(replica="b-1", option="b1", device="n1/0"),
    Placement(replica="c-1", option="c1", device="n1/1"),
)
ORIGIN = Origin(
    status=Status.FEASIBLE, solver="hand", seed=0, runtime_s=0.5, bounds=[(1.4, "area"), (2, "area"), (0.5, "area")]
)


def make_plan(problem: Problem | None = None, placed: tuple[Placement, ...] = PLACED) -> Plan:
    return derive_plan(problem or make_problem(), placed, ORIGIN)


def rules_broken(problem: Problem, plan: Plan) -> set[str]:
    return {violation.rule.value for violation in check(problem, plan)}


def test_the_unedited_plan_holds() -> None:
    assert check(make_problem(), make_plan()) == []


def _edited_option(name: str, **changes: Any) -> Problem:
    problem = make_problem()
    return replace(problem, options=tuple(replace(o, **changes) if o.id == name else o for o in problem.options))


def _edited_kind(**changes: Any) -> Problem:
    problem = make_problem()
    return replace(problem, kinds=(replace(problem.kinds[0], **changes), problem.kinds[1]))


def _edited_model(name: str, **changes: Any) -> Problem:
    problem = make_problem()
    return replace(problem, models=tuple(replace(m, **changes) if m.name == name else m for m in problem.models))


def _split(second_start: int, **changes: Any) -> Problem:
    """n1/0 and n1/1 as slices of one GPU, of two memory slices each."""
    values: dict[str, Any] = {"compute": 2, "memory": 2, "starts": (0, 1, 2), "gpu_compute": 4, "gpu_memory": 4}
    problem, starts = make_problem(), {"n1/0": 0, "n1/1": second_start, "n1/2": 0}
    devices = (replace(d, gpu="n1/9", start=starts[d.id]) if d.id in starts else d for d in problem.devices)
    kinds = (replace(problem.kinds[0], mig=MigSlice(**(values | changes))), problem.kinds[1])
    return replace(problem, devices=tuple(devices), kinds=kinds)


def _with(*extra: Placement, without: str = "") -> tuple[Placement, ...]:
    return tuple(p for p in PLACED if p.replica != without) + extra


def _moved(replica: str, **changes: Any) -> tuple[Placement, ...]:
    return tuple(replace(p, **changes) if p.replica == replica else p for p in PLACED)


# n1/0 carries 500 + 300 + 1000 + 1000 MiB; each world is legal but for the one fault that its name says.
BROKEN_WORLDS: dict[str, tuple[Problem, tuple[Placement, ...], Rule]] = {
    "memory over by one byte": (_edited_kind(memory_bytes=2800 * MIB - 1), PLACED, Rule.GPU_MEMORY),
    "a replica grown by a byte too many": (_edited_option("b1", memory_bytes=2200 * MIB + 1), PLACED, Rule.GPU_MEMORY),
    "server base not counted": (_edited_kind(server_base_bytes=1700 * MIB + 1), PLACED, Rule.GPU_MEMORY),
    "backend overhead not counted": (
        _edited_kind(backend_overhead_bytes={"onnx": 1500 * MIB + 1}), PLACED, Rule.GPU_MEMORY),
    "a second backend's overhead": (
        replace(_edited_option("b1", backend="tf"), kinds=_edited_kind(memory_bytes=3200 * MIB - 1).kinds),
        PLACED, Rule.GPU_MEMORY),
    "busy over by one millionth": (_edited_kind(utilization_ppm=599_999), PLACED, Rule.GPU_UTILIZATION),
    "busy over in the night alone": (
        _edited_option("c1", busy_ppm=(100_000, 700_001)), PLACED, Rule.GPU_UTILIZATION),
    "a neighbour too busy by one millionth": (_edited_option("a1", tolerance_ppm=299_999), PLACED, Rule.LATENCY),
    "a neighbour too many": (_edited_option("a1", max_others=0), PLACED, Rule.LATENCY),
    "a neighbour with instances too many": (_edited_option("b1", instances=3), PLACED, Rule.LATENCY),
    "a neighbour too busy at night": (
        _edited_option("b1", busy_ppm=(300_000, 500_001)), PLACED, Rule.LATENCY),
    "interference weight doubled": (_edited_kind(kappa_ppm=((2_000_000,),)), PLACED, Rule.LATENCY),
    "bound tighter than the promise": (_edited_model("a", latency_bound_us=11_899), PLACED, Rule.LATENCY),
    "past the last stable point": (
        _edited_option("a1", curve=(CurvePoint(60_000, 5_000),)), PLACED, Rule.LATENCY),
    "slower than measured": (
        _edited_option("b1", curve=(CurvePoint(200_000, 16_001),)), PLACED, Rule.LATENCY),
    "rate short by one request": (_edited_option("a1", capacity_mrps=54_500), PLACED, Rule.DEMAND),
    "rate short by a thousandth": (_edited_model("a", demand_mrps=(120_001, 33_000)), PLACED, Rule.DEMAND),
    "night demand short": (_edited_model("b", demand_mrps=(50_000, 50_001)), PLACED, Rule.DEMAND),
    "replica lost": (make_problem(), _with(without="a-2"), Rule.DEMAND),
    "model lost": (make_problem(), _with(without="c-1"), Rule.DEMAND),
    "a replica too many": (
        _edited_model("a", replicas_max=1, demand_mrps=(1, 1)), PLACED, Rule.REPLICAS),
    "a replica too few": (_edited_model("b", replicas_min=2), PLACED, Rule.REPLICAS),
    "rate zero, yet one replica asked": (
        _edited_model("c", rate_mrps=(0, 0), demand_mrps=(0, 0)), _with(without="c-1"), Rule.REPLICAS),
    "two replicas on one device": (
        _edited_kind(memory_bytes=9000 * MIB, utilization_ppm=1_000_000), _moved("a-2", device="n1/0"),
        Rule.ONE_REPLICA),
    "on a forbidden type": (make_problem(), _moved("b-1", option="b-t4", device="n2/0"), Rule.ALLOWED_GPU),
    "option of another type": (make_problem(), _moved("b-1", device="n2/0"), Rule.FLEET),
    "a replica moved too many": (
        replace(make_problem(), max_moves=1, current=(
            Running(replica="a-1", model="a", device="n1/0", instances=1, max_batch_size=4, queue_delay_us=100),
            Running(replica="b-1", model="b", device="n1/0", instances=1, max_batch_size=4, queue_delay_us=101),
            Running(replica="c-1", model="c", device="n1/1", instances=1, max_batch_size=4, queue_delay_us=100),
        )), PLACED, Rule.MOVES),
    "slices that are no layout": (_split(1), PLACED, Rule.MIG_LAYOUT),
    "a start that no slice has": (_split(2, starts=(0,)), PLACED, Rule.MIG_LAYOUT),
    "on a cordoned gpu": (make_problem(), _moved("a-2", device="n1/2"), Rule.FLEET),
}  # fmt: skip


def _over_two(*devices: str, beside: str = "n3/2") -> tuple[Problem, tuple[Placement, ...]]:
    """c over two GPUs, b on n3/2 unless it is `beside` it."""
    problem = make_problem()
    over = option("c2", "c", capacity_mrps=20_000, latency_basis=LatencyBasis.NONE, curve=(), max_others=0, gpus=2)
    more = [Device(id=f"n3/{i}", gpu=f"n3/{i}", kind="L4") for i in range(3)]
    more.append(Device(id="n4/0", gpu="n4/0", kind="L4"))
    problem = replace(problem, options=(*problem.options, over), devices=(*problem.devices, *more))
    first, *others = devices
    c = Placement(replica="c-1", option="c2", device=first, more_devices=tuple(others))
    b = Placement(replica="b-1", option="b1", device=beside)
    return problem, (*(p for p in PLACED if p.replica[0] == "a"), b, c)


def test_a_replica_over_two_gpus_holds() -> None:
    problem, placed = _over_two("n3/0", "n3/1")
    plan = derive_plan(problem, placed, replace(ORIGIN, bounds=[(None, "none")] * 3))
    assert check(problem, plan) == []
    assert (plan.summary.gpus_used, plan.replicas[-1].devices) == (5, ("n3/0", "n3/1"))
    assert plan.replicas[-1].memory_bytes == 2 * plan.replicas[0].memory_bytes
    [used] = {d.endpoint for g in plan.gpus for d in g.devices if "c-1" in d.replicas}
    assert used.http_port == next(d.endpoint.http_port for g in plan.gpus for d in g.devices if d.device == "n3/0")


@pytest.mark.parametrize(("devices", "beside", "rule"), [
    (("n3/0",), "n3/2", Rule.FLEET),
    (("n3/0", "n3/0"), "n3/2", Rule.FLEET),
    (("n3/0", "n3/1", "n3/2"), "n1/0", Rule.FLEET),
    (("n3/0", "n4/0"), "n3/2", Rule.FLEET),
    (("n2/0", "n3/0"), "n3/2", Rule.FLEET),
    (("n3/0", "n3/1"), "n3/0", Rule.LATENCY),
    (("n3/0", "n3/1"), "n3/1", Rule.LATENCY),
])  # fmt: skip
def test_a_replica_has_its_gpus_to_itself_alike_and_on_one_node(
    devices: tuple[str, ...], beside: str, rule: Rule
) -> None:
    problem, placed = _over_two(*devices, beside=beside)
    assert {violation.rule for violation in check_placements(problem, placed)} == {rule}


def test_slices_that_go_together_hold() -> None:
    problem = _split(2)
    origin = replace(ORIGIN, bounds=[(None, "none")] * 3)
    assert check(problem, derive_plan(problem, PLACED, origin)) == []


@pytest.mark.parametrize("fault", BROKEN_WORLDS)
def test_a_broken_rule_is_named(fault: str) -> None:
    problem, placed, rule = BROKEN_WORLDS[fault]
    assert rule.value in rules_broken(problem, make_plan(problem, placed))


def test_demand_may_stay_unserved_where_that_is_allowed() -> None:
    problem = replace(make_problem(), allow_unserved=True, objectives=(Objective.GPUS,))
    origin = replace(ORIGIN, bounds=[(None, "none")])
    plan = derive_plan(problem, _with(without="c-1"), origin)
    assert check(problem, plan) == []
    assert [(u.model, u.rate_rps) for u in plan.unserved] == [("c", 20.0)]


Edit = Callable[[dict[str, Any]], None]


def _set(path: str, value: Any) -> Edit:
    def edit(plan: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        place: Any = plan
        for part in parents:
            place = place[int(part)] if part.isdigit() else place[part]
        place[int(last) if last.isdigit() else last] = value

    return edit


EDITS: dict[str, Edit] = {
    "unknown gpu": _set("replicas.0.devices", ["n9/0"]),
    "no device": _set("replicas.0.devices", []),
    "two devices": _set("replicas.0.devices", ["n1/0", "n1/1"]),
    "unknown option": _set("replicas.0.option", "a9"),
    "replica id twice": _set("replicas.1.id", "a-1"),
    "replica dropped from the list": lambda plan: plan["replicas"].pop(),
    "replica dropped from its device": lambda plan: plan["gpus"][0]["devices"][0]["replicas"].pop(),
    "device listed twice": lambda plan: plan["gpus"].append(plan["gpus"][0]),
    "gpu dropped": lambda plan: plan["gpus"].pop(),
    "period dropped": lambda plan: plan["replicas"][0]["periods"].pop(),
    "objective dropped": lambda plan: (plan["objectives"].pop(), plan["gap"].pop()),
    "objectives swapped": lambda plan: plan["objectives"].reverse(),
    "gap dropped": lambda plan: plan["gap"].pop(),
    "called optimal with a gap": _set("status", "optimal"),
    "called infeasible with a plan": _set("status", "infeasible"),
    "another problem's digest": _set("problem_digest", "sha256:0"),
    "unserved model invented": lambda plan: plan["unserved"].append(
        {"model": "a", "rate_rps": 1.0, "reason": "the devices are full"}),
    "binding rule invented": lambda plan: plan["binding"].append(
        {"rule": "latency", "subject": "a-1", "limit": 1.0, "actual": 1.0, "unit": "ms"}),
    "an unknown field": _set("comment", "hello"),
    "an unknown version": _set("schema_version", 2),
    "value better than its bound": _set("objectives.0.bound", 1.5),
}  # fmt: skip


@pytest.mark.parametrize("fault", EDITS)
def test_an_edited_file_is_refused(fault: str) -> None:
    assert _faults(EDITS[fault])


def _faults(edit: Edit) -> list[str]:
    """What is said about the edited plan, read back from its JSON text as `planner check` does."""
    written = json.loads(json.dumps(to_json(make_plan())))
    edit(written)
    try:
        plan = plan_from_json(written, "plan.json")
    except InputError as error:
        return [str(error)]
    return [str(violation) for violation in check(make_problem(), plan)]


# Who made the plan and how long it took cannot be recomputed from it; the certificate has its own check.
NOT_RECOMPUTED = ("solver", "seed", "runtime_s", "method", "certified_bound", "uncertified", "status")


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}.{index}")
    else:
        yield path, value


def _other(value: Any) -> Any:
    if value is None:
        return 1
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return value + 1 if isinstance(value, int) else value * 1.01 + 0.001


LEAVES = [(path, value) for path, value in _leaves(json.loads(json.dumps(to_json(make_plan()))))
          if path.rsplit(".", 1)[-1] not in NOT_RECOMPUTED]  # fmt: skip


@pytest.mark.parametrize(("path", "value"), LEAVES, ids=[path for path, _ in LEAVES])
def test_every_edited_figure_is_found_and_its_place_named(path: str, value: Any) -> None:
    found = _faults(_set(path, copy.deepcopy(_other(value))))
    assert found
    first, last = path.split(".")[0], path.rsplit(".", 1)[-1]
    names = (first, "gap" if last == "bound" else last, str(_other(value)))
    assert any(name in text for name in names for text in found), found


def test_at_least_a_hundred_faults_are_planted() -> None:
    assert len(BROKEN_WORLDS) + len(EDITS) + len(LEAVES) >= 100
