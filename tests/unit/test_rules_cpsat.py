"""One tiny test per rule: that rule alone, a few replicas put down by hand, and CP-SAT says whether they may stand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ortools.sat.python import cp_model

from planner.domain.ensemble import Ensemble, Member, Promise, Serve
from planner.domain.problem import Device, Problem
from planner.domain.units import PPM
from solvers.bounds import places_needed
from solvers.cpsat.constraints import Constraints
from solvers.cpsat.scaling import at_most
from solvers.cpsat.variables import Variables
from solvers.reduction import Reduction
from tests.mig_problems import free_gpu, slice_kind
from tests.problems import devices, kind, model, option, problem, running

AddRule = Callable[[Constraints], None]


def _may_stand(subject: Problem, rule: AddRule, *counts: dict[str, int]) -> bool:
    """Whether the rule alone allows these numbers of replicas, option by option, on the devices in their order."""
    built = cp_model.CpModel()
    reduction = Reduction(subject)
    variables = Variables(built, reduction, places_needed(reduction, None))
    rule(Constraints(built, variables))
    for slot, wanted in zip(variables.slots, counts, strict=True):
        for choice, count in slot.counts.items():
            built.add(count == wanted.get(choice.option.id, 0))
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.catch_sigint_signal = False
    return solver.solve(built) in (cp_model.OPTIMAL, cp_model.FEASIBLE)


def _two(**changes: object) -> Problem:
    """Models a and b on one device."""
    kinds = [kind(**changes)]
    return problem([model("a"), model("b")], [option("a"), option("b", backend="python")], kinds=kinds)


BOTH = {"a@big": 1, "b@big": 1}


def test_gpu_memory_counts_the_server_base() -> None:
    assert _may_stand(_two(memory_bytes=8), Constraints.gpu_memory, BOTH)
    assert not _may_stand(_two(memory_bytes=8, server_base_bytes=1), Constraints.gpu_memory, BOTH)


def test_gpu_memory_counts_each_backend_once() -> None:
    overheads = {"onnxruntime": 1, "python": 2}
    assert _may_stand(_two(memory_bytes=11, backend_overhead_bytes=overheads), Constraints.gpu_memory, BOTH)
    assert not _may_stand(_two(memory_bytes=10, backend_overhead_bytes=overheads), Constraints.gpu_memory, BOTH)
    one_backend = problem([model("a"), model("b")], [option("a"), option("b")],
                          kinds=[kind(memory_bytes=9, backend_overhead_bytes={"onnxruntime": 1})])  # fmt: skip
    assert _may_stand(one_backend, Constraints.gpu_memory, BOTH)


@pytest.mark.parametrize(("busy", "allowed"), [(400_000, True), (400_001, False)])
def test_gpu_utilization_binds_in_each_period(busy: int, allowed: bool) -> None:
    options = [option("a", busy_ppm=(100_000, 400_000)), option("b", busy_ppm=(0, busy))]
    models = [model("a", (1000, 1000)), model("b", (1000, 1000))]
    subject = problem(models, options, periods=("day", "night"))
    assert _may_stand(subject, Constraints.gpu_utilization, BOTH) is allowed


def test_gpu_utilization_lets_one_replica_alone_use_it_all() -> None:
    subject = problem([model("a"), model("b")], [option("a", busy_ppm=(PPM,)), option("b", busy_ppm=(0,))])
    assert _may_stand(subject, Constraints.gpu_utilization, {"a@big": 1})
    assert not _may_stand(subject, Constraints.gpu_utilization, BOTH)


@pytest.mark.parametrize(("tolerance", "allowed"), [(100_000, True), (99_999, False)])
def test_latency_bears_the_tolerance_of_each(tolerance: int, allowed: bool) -> None:
    subject = problem([model("a"), model("b")], [option("a", tolerance_ppm=tolerance), option("b")])
    assert _may_stand(subject, Constraints.latency, BOTH) is allowed


def test_latency_weighs_the_others_by_kappa() -> None:
    classes = {"interference_classes": ("x", "y"), "kappa_ppm": ((PPM, 2 * PPM), (0, PPM))}
    options = [option("a", tolerance_ppm=150_000), option("b", interference_class=1, tolerance_ppm=0)]
    subject = problem([model("a"), model("b")], options, kinds=[kind(**classes)])
    assert not _may_stand(subject, Constraints.latency, BOTH)
    options = [option("a", tolerance_ppm=200_000), option("b", interference_class=1, tolerance_ppm=0)]
    subject = problem([model("a"), model("b")], options, kinds=[kind(**classes)])
    assert _may_stand(subject, Constraints.latency, BOTH)


@pytest.mark.parametrize(("instances", "allowed"), [(1, True), (2, False)])
def test_latency_bears_so_many_others(instances: int, allowed: bool) -> None:
    subject = problem([model("a"), model("b")], [option("a", max_others=1), option("b", instances=instances)])
    assert _may_stand(subject, Constraints.latency, BOTH) is allowed


def test_one_replica_counts_all_options_of_a_model() -> None:
    options = [option("a", id="one", memory_bytes=1), option("a", id="two", capacity_mrps=500, memory_bytes=0)]
    subject = problem([model("a")], options)
    assert _may_stand(subject, Constraints.one_replica, {"one": 1})
    assert not _may_stand(subject, Constraints.one_replica, {"one": 1, "two": 1})


def test_one_replica_may_be_lifted() -> None:
    subject = problem([model(demand_mrps=2000)], max_per_device=None)
    assert _may_stand(subject, Constraints.one_replica, {"m@big": 2})


def test_demand_is_met_by_the_sum_of_capacities() -> None:
    subject = problem([model(demand_mrps=1001)], fleet=devices(count=2))
    assert not _may_stand(subject, Constraints.demand, {"m@big": 1}, {})
    assert _may_stand(subject, Constraints.demand, {"m@big": 1}, {"m@big": 1})


def test_demand_is_soft_where_some_may_stay_unserved() -> None:
    assert _may_stand(problem(allow_unserved=True), Constraints.demand, {})


@pytest.mark.parametrize(("count", "allowed"), [(0, False), (1, False), (2, True), (3, False)])
def test_replicas_minimum_and_maximum(count: int, allowed: bool) -> None:
    subject = problem([model(demand_mrps=3000, replicas_min=2, replicas_max=2)], fleet=devices(count=2),
                      max_per_device=2)  # fmt: skip
    rows = [{"m@big": min(count, 2)}, {"m@big": count - min(count, 2)}]
    assert _may_stand(subject, Constraints.replicas, *rows) is allowed


@pytest.mark.parametrize(("count", "allowed"), [(0, True), (1, False), (2, True)])
def test_replicas_may_all_be_left_out_where_some_may_stay_unserved(count: int, allowed: bool) -> None:
    subject = problem([model(demand_mrps=3000, replicas_min=2)], fleet=devices(count=2), allow_unserved=True)
    rows = [{"m@big": int(i < count)} for i in range(2)]
    assert _may_stand(subject, Constraints.replicas, *rows) is allowed


def test_symmetry_uses_the_first_of_like_gpus() -> None:
    subject = problem([model(demand_mrps=2000)], fleet=devices(count=2))
    assert _may_stand(subject, Constraints.symmetry, {"m@big": 1}, {})
    assert not _may_stand(subject, Constraints.symmetry, {}, {"m@big": 1})


def test_allowed_gpu_and_cordoned_devices_have_no_variable() -> None:
    fleet = [*devices("big"), Device(id="big/9", gpu="big/9", kind="big", cordoned=True), *devices("small")]
    options = [option(), option("m", "small")]
    kinds = [kind("big"), kind("small")]
    reduction = Reduction(problem([model(allowed_gpu=("big",))], options, kinds=kinds, fleet=fleet))
    assert [[d.id for gpu in group.gpus for d in gpu] for group in reduction.groups] == [["big/0"]]


def test_coefficients_are_divided_but_never_rounded() -> None:
    for wanted, allowed in ((3, True), (4, False)):
        built = cp_model.CpModel()
        count = built.new_int_var(0, 9, "")
        at_most(built, [(6 * 2**40, count)], 23 * 2**40)
        built.add(count == wanted)
        solver = cp_model.CpSolver()
        solver.parameters.catch_sigint_signal = False
        assert (solver.solve(built) == cp_model.OPTIMAL) is allowed


@pytest.mark.parametrize(("most", "allowed"), [(0, False), (1, True)])
def test_moves_count_what_does_not_run_there_already(most: int, allowed: bool) -> None:
    """One replica stays; the other one runs there in another configuration."""
    subject = problem(
        [model("a"), model("b")], [option("a"), option("b")], max_moves=most,
        current=[running("a", "big/0"), running("b", "big/0", instances=2)],
    )  # fmt: skip
    assert _may_stand(subject, Constraints.moves, BOTH) is allowed


@pytest.mark.parametrize(
    ("used", "allowed"),
    [
        (("split",), True),
        (("1g@2", "2g@0"), True),
        (("1g@2", "1g@1", "1g@0"), True),
        (("1g@1", "2g@0"), False),  # memory slice 1 twice
        (("1g@2", "1g@1", "2g@0"), False),
        (("1g@2", "split"), False),
    ],
)
def test_mig_layout_lets_slices_stand_that_go_together(used: tuple[str, ...], allowed: bool) -> None:
    names = ("1g", "2g")
    subject = problem(
        [model("a")],
        [option("a", name) for name in ("split", *(f"split/{n}" for n in names))],
        kinds=[kind("split"), *(slice_kind(name) for name in names)],
        fleet=free_gpu(0, names),
    )
    [group] = Reduction(subject).groups
    devices_there = [device.id.removeprefix("split/0").removeprefix("/") or "split" for device in group.gpus[0]]
    assert set(used) <= set(devices_there)
    counts = [{f"a@{d.kind}": 1} if name in used else {} for name, d in zip(devices_there, group.gpus[0], strict=True)]
    assert _may_stand(subject, Constraints.mig_layout, *counts) is allowed


def test_mig_layout_counts_compute_slices() -> None:
    """Two slices of two compute slices each would fit into the memory of a GPU that has three."""
    subject = problem(
        [model("a"), model("b")],
        [option(name, "split/2g") for name in "ab"],
        kinds=[slice_kind("2g")],
        fleet=free_gpu(0, ("2g",), whole=False),
        current=[running("a", "split/0/2g@2")],  # so that both placements are looked at
        max_moves=2,
    )
    assert [len(group.kinds) for group in Reduction(subject).groups] == [2]
    one, other = {"a@split/2g": 1}, {"b@split/2g": 1}
    assert _may_stand(subject, Constraints.mig_layout, one, {})
    assert not _may_stand(subject, Constraints.mig_layout, one, other)


@pytest.mark.parametrize("most", [1, None])
@pytest.mark.parametrize(("threshold", "allowed"), [(782_843, True), (782_842, False)])
def test_gpu_utilization_pools_what_is_uncertain(threshold: int, allowed: bool, most: int | None) -> None:
    options = [option(name, busy_ppm=(450_000,), swing_ppm=(200_000,)) for name in "ab"]
    kinds = [kind(utilization_ppm=threshold)]
    subject = problem([model("a"), model("b")], options, kinds=kinds, max_per_device=most)
    assert _may_stand(subject, Constraints.gpu_utilization, BOTH) is allowed


@pytest.mark.parametrize(("bound_us", "allowed"), [(1000, True), (999, False)])
def test_ensemble_latency_adds_up_the_calls_of_each_path(bound_us: int, allowed: bool) -> None:
    """a twice in sequence, then b or c: 2 x 0.3 + 0.4 ms, where c is the quicker one."""
    subject = _ensemble(bound_us=bound_us, edges=(("a", "b"), ("a", "c")))
    assert _may_stand(subject, Constraints.ensemble_latency, {f"{name}@big": 1 for name in "abc"}) is allowed


@pytest.mark.parametrize(("members", "allowed"), [("abc", True), ("ab", False), ("", False)])
def test_ensemble_servers_carry_all_members_and_enough(members: str, allowed: bool) -> None:
    subject = _ensemble(bound_us=None, serve=Serve.TRITON)
    assert _may_stand(subject, Constraints.ensemble_servers, {f"{name}@big": 1 for name in members}) is allowed


def _ensemble(**changes: object) -> Problem:
    values = {"serve": Serve.CLIENT, "edges": ()} | changes
    members = (Member(model="a", calls=2, depth=2), Member(model="b"), Member(model="c"))
    ensemble = Ensemble(name="e", demand_mrps=(500,), percentile=95, call_percentile=99, members=members, **values)  # type: ignore[arg-type]
    latencies = {"a": 300, "b": 400, "c": 100}
    options = [option(n, promises=(Promise(percentile=99, latency_us=us),)) for n, us in latencies.items()]
    return problem([model(name) for name in "abc"], options, ensembles=[ensemble])
