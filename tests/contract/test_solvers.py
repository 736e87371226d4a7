"""What every solver promises, on the same problems."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from planner.domain.check import check
from planner.domain.derive import Origin, derive_plan
from planner.domain.ensemble import Ensemble, Member, Promise, Serve
from planner.domain.layout import Layout
from planner.domain.objectives import MAXIMISED
from planner.domain.plan import ObjectiveValue, Placement, Status
from planner.domain.problem import Device, Objective, Problem
from planner.errors import InputError, PlannerError
from solvers import registry
from solvers.base import Progress, SolveOptions, SolveResult
from solvers.cpsat.solver import CpsatSolver
from tests.brute_force import brute_force
from tests.problems import devices, kind, model, option, problem, replicas_of_kinds, running

QUICK = SolveOptions(time_limit_s=3, workers=1)


def _two_kinds() -> Problem:
    """Four models, two options each, on cheap small and dear big devices; two periods, two backends."""
    kinds = [
        kind("big", memory_bytes=24, cost_microusd_per_hour=3_000_000, backend_overhead_bytes={"python": 1}),
        kind("small", memory_bytes=10, cost_microusd_per_hour=1_000_000, backend_overhead_bytes={"python": 1}),
    ]
    models = [model(name, (1500 + 100 * i, 800)) for i, name in enumerate("abcd")]
    options = [
        option(m.name, k.name, id=f"{m.name}@{k.name}:{i}", memory_bytes=3 + i, capacity_mrps=800 * (i + 1),
               busy_ppm=(200_000 * (i + 1), 100_000), backend=("onnxruntime", "python")[place % 2],
               tolerance_ppm=600_000, max_others=3)
        for place, m in enumerate(models) for k in kinds for i in range(2)
    ]  # fmt: skip
    fleet = [*devices("big", 2), *devices("small", 4)]
    return problem(models, options, kinds=kinds, fleet=fleet, periods=("day", "night"))


FACTORIES: dict[str, Callable[[], Problem]] = {
    "one": problem,
    "cost": lambda: replace(_two_kinds(), objectives=(Objective.COST, Objective.GPUS, Objective.BALANCE)),
    "throughput": lambda: replace(_two_kinds(), objectives=(Objective.THROUGHPUT, Objective.GPUS)),
    "too-little": lambda: replace(
        _two_kinds(),
        devices=devices("small", 2),
        allow_unserved=True,
        objectives=(Objective.UNSERVED, Objective.MODELS, Objective.GPUS),
    ),
    "packing": lambda: replicas_of_kinds("mixed", 30, 10),
}


@pytest.mark.parametrize("solver", registry.FACTORIES)
@pytest.mark.parametrize("name", FACTORIES)
def test_the_plan_passes_the_check_with_its_bounds(solver: str, name: str) -> None:
    subject = FACTORIES[name]()
    result = registry.solve(subject, QUICK, Progress(), name=solver)
    assert result.placements is not None
    origin = Origin(status=result.status, solver=result.solver, seed=0, runtime_s=result.runtime_s,
                    bounds=[(b.value, b.method) for b in result.bounds])  # fmt: skip
    plan = derive_plan(subject, result.placements, origin)
    assert check(subject, plan) == []
    for objective in plan.objectives:
        if objective.bound is not None:
            sign = -1 if objective.name in MAXIMISED else 1
            assert sign * objective.bound <= sign * objective.value


@pytest.mark.parametrize("solver", registry.FACTORIES)
def test_the_same_seed_gives_the_same_plan(solver: str) -> None:
    subject = FACTORIES["cost"]()
    for options in (replace(QUICK, iterations=3), SolveOptions(time_limit_s=30, workers=2, iterations=20)):
        first, second = (registry.solve(subject, options, Progress(), name=solver) for _ in range(2))
        assert first.placements == second.placements


@pytest.mark.parametrize("solver", registry.FACTORIES)
def test_a_model_that_fits_nowhere_is_proven_infeasible(solver: str) -> None:
    subject = problem(options=[option(memory_bytes=13)])
    assert registry.solve(subject, QUICK, Progress(), name=solver).status is Status.INFEASIBLE


@pytest.mark.parametrize(
    ("solver", "status"),
    [("greedy", Status.NOT_FOUND), ("cpsat", Status.INFEASIBLE), ("auto", Status.INFEASIBLE)],
)
def test_only_a_proof_is_called_infeasible(solver: str, status: Status) -> None:
    subject = problem([model(demand_mrps=2000)])  # two replicas, one device
    result = registry.solve(subject, QUICK, Progress(), name=solver)
    assert (result.status, result.placements) == (status, None)


def test_out_of_time_is_not_infeasible() -> None:
    subject = problem([model(demand_mrps=2000)])
    result = registry.solve(subject, SolveOptions(time_limit_s=0), Progress(), name="cpsat")
    assert result.status is Status.NOT_FOUND


def test_out_of_time_leaves_the_greedy_plan() -> None:
    subject = FACTORIES["cost"]()
    result = registry.solve(subject, SolveOptions(time_limit_s=0), Progress(), name="cpsat")
    assert result.status is Status.FEASIBLE
    assert result.placements == registry.solve(subject, QUICK, Progress(), name="greedy").placements
    assert [bound.method for bound in result.bounds] == ["area", "area", "area"]


@pytest.mark.parametrize(("objective", "solver"), [(Objective.GPUS, "columns"), (Objective.THROUGHPUT, "greedy")])
def test_auto_leaves_large_problems_to_columns_and_greedy(objective: Objective, solver: str) -> None:
    subject = replace(replicas_of_kinds("mixed", 1500, 150), objectives=(objective,))
    result = registry.solve(subject, QUICK, Progress())
    assert result.solver == solver


def test_progress_hears_of_better_plans_only() -> None:
    heard: list[tuple[float, ...]] = []

    class Listening(Progress):
        def improved(self, placements: tuple[Placement, ...], objectives: tuple[ObjectiveValue, ...]) -> None:
            assert placements
            heard.append(tuple(objective.value for objective in objectives))

    subject = FACTORIES["cost"]()
    registry.solve(subject, QUICK, Listening(), name="cpsat")
    assert heard
    assert heard == sorted(set(heard), reverse=True)


def test_an_interrupted_search_gives_its_best_plan() -> None:
    subject = replicas_of_kinds("hard", 200, 40)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    result = registry.solve(subject, SolveOptions(time_limit_s=600), Progress(), name="cpsat")
    timer.join()
    assert result.interrupted
    assert result.runtime_s < 150  # not even the first of its stages has ended
    assert result.placements is not None
    assert result.bounds[0].value is not None
    assert len(Layout(subject, result.placements).devices) >= result.bounds[0].value


@pytest.mark.parametrize("solver", registry.FACTORIES)
def test_an_interruption_anywhere_gives_the_last_plan_that_was_reported(
    solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupting(Progress):
        def improved(self, placements: tuple[Placement, ...], objectives: tuple[ObjectiveValue, ...]) -> None:
            raise KeyboardInterrupt

    subject = FACTORIES["cost"]()
    result = registry.solve(subject, QUICK, Interrupting(), name=solver)
    assert result.interrupted
    assert (result.solver, result.status) == (solver, Status.FEASIBLE)
    assert result.placements is not None
    assert result.bounds[0].method == "area"


def test_presolve_does_not_lose_the_best_plan() -> None:
    """Two replicas of b on the halves of one GPU, c alone on the other: b misses one of 1,001 requests."""
    kinds = [
        kind("big", memory_bytes=8, utilization_ppm=500_000),
        kind("small", memory_bytes=8, utilization_ppm=500_000),
    ]
    options = [
        option("b", "big", id="b1", memory_bytes=6, capacity_mrps=500, busy_ppm=(100_000, 100_000), tolerance_ppm=0),
        option("b", "big", id="b2", memory_bytes=3, capacity_mrps=500, busy_ppm=(100_000, 500_000), tolerance_ppm=0),
        option("b", "small", id="b3", memory_bytes=3, capacity_mrps=501, busy_ppm=(100_000, 100_000), tolerance_ppm=0),
        option("c", "big", id="c1", memory_bytes=3, capacity_mrps=574, busy_ppm=(100_000, 200_000), tolerance_ppm=0),
        option("c", "big", id="c2", memory_bytes=3, capacity_mrps=500, busy_ppm=(100_000, 100_000), tolerance_ppm=0),
        option("c", "small", id="c3", memory_bytes=3, capacity_mrps=819, busy_ppm=(100_000, 100_000), tolerance_ppm=0),
    ]
    models = [model("b", (0, 1001), replicas_min=0, priority=2), model("c", (0, 819), replicas_min=0)]
    fleet = [Device(id=f"big/0/{i}", gpu="big/0", kind="big") for i in range(2)]
    subject = problem(
        models, options, kinds=kinds, fleet=[*fleet, *devices("small")], periods=("day", "night"),
        objectives=(Objective.UNSERVED,), allow_unserved=True,
    )  # fmt: skip
    assert brute_force(subject) == (2000,)
    result = registry.solve(subject, QUICK, Progress(), name="cpsat")
    assert (result.status, result.bounds[0].value) == (Status.OPTIMAL, 0.002)


def test_an_unknown_solver_is_named() -> None:
    with pytest.raises(InputError, match="'gurobi' is not known"):
        registry.solve(problem(), QUICK, Progress(), name="gurobi")


def test_a_plan_that_breaks_a_rule_is_an_internal_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless:
        name = "careless"

        def solve(self, subject: Problem, options: SolveOptions, progress: Progress) -> SolveResult:
            return SolveResult(status=Status.FEASIBLE, solver=self.name, placements=(), bounds=(), runtime_s=0.0)

    monkeypatch.setitem(registry.FACTORIES, "careless", Careless)
    with pytest.raises(PlannerError, match="solver careless gave a plan that breaks rules: demand: m: capacity 0"):
        registry.solve(problem(), QUICK, Progress(), name="careless")


def test_replicas_without_end_are_refused() -> None:
    subject = problem(
        options=[option(memory_bytes=0, busy_ppm=(0,))], max_per_device=None, objectives=(Objective.THROUGHPUT,)
    )
    with pytest.raises(InputError, match="takes neither memory nor busy time"):
        registry.solve(subject, QUICK, Progress(), name="greedy")


def test_greedy_and_the_registry_do_not_load_ortools() -> None:
    script = (
        "import sys; from solvers import registry; from solvers.base import *; from tests.problems import problem;"
        "registry.solve(problem(), SolveOptions(), Progress(), name='greedy');"
        "sys.exit('ortools' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_throughput_also_adds_what_the_slowest_model_cannot_use() -> None:
    """b could be doubled although a, which decides the growth factor, fits no second time."""
    options = [option("a", memory_bytes=8), option("b", memory_bytes=4)]
    subject = problem(
        [model("a"), model("b")], options, fleet=devices(count=2),
        kinds=[kind(memory_bytes=12)], objectives=(Objective.THROUGHPUT,), max_per_device=None,
    )  # fmt: skip
    result = CpsatSolver().solve(subject, QUICK, Progress())
    assert result.status is Status.OPTIMAL
    capacity = sum(subject.option_by_id[p.option].capacity_mrps for p in result.placements or ())
    assert capacity == 4000


def _two_periods(night_of_b: int) -> Problem:
    """a is busy by day; b too, or at night."""
    day_of_b = 600_000 - night_of_b
    options = [option("a", busy_ppm=(500_000, 100_000)), option("b", busy_ppm=(day_of_b, night_of_b))]
    models = [model("a", (1000, 200)), model("b", (1000, 1000))]
    return problem(models, options, fleet=devices(count=2), periods=("day", "night"))


@pytest.mark.parametrize("solver", registry.FACTORIES)
@pytest.mark.parametrize(("night_of_b", "gpus"), [(500_000, 1), (100_000, 2)])
def test_peaks_share_a_device_where_they_do_not_meet(solver: str, night_of_b: int, gpus: int) -> None:
    subject = _two_periods(night_of_b)
    result = registry.solve(subject, QUICK, Progress(), name=solver)
    assert result.placements is not None
    assert len({placement.device for placement in result.placements}) == gpus


def _running_elsewhere(**changes: object) -> Problem:
    """a and b run on two devices, where either would hold both; c is new."""
    options = [option(name, busy_ppm=(200_000,), memory_bytes=3) for name in "abc"]
    current = [running("a", "big/1"), running("b", "big/2")]
    return problem([model(name) for name in "abc"], options, fleet=devices(count=3), current=current, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", registry.FACTORIES)
@pytest.mark.parametrize(
    ("objectives", "most", "gpus", "moves"),
    [
        ((Objective.GPUS, Objective.MOVES), None, 1, 2),
        ((Objective.MOVES, Objective.GPUS), None, 2, 1),
        ((Objective.GPUS,), 1, 2, 1),
    ],
)
def test_moves_are_weighed_against_gpus(
    solver: str, objectives: tuple[Objective, ...], most: int | None, gpus: int, moves: int
) -> None:
    subject = _running_elsewhere(objectives=objectives, max_moves=most)
    result = registry.solve(subject, QUICK, Progress(), name=solver)
    assert result.placements is not None
    layout = Layout(subject, result.placements)
    assert (len(layout.devices), layout.moves) == (gpus, moves)
    stayed = {p.device: p.replica for p in result.placements if p.replica in ("a-1", "b-1")}
    assert all(r.replica == stayed[r.device] for r in subject.current if r.device in stayed)


@pytest.mark.parametrize(("solver", "status"), [("cpsat", Status.INFEASIBLE), ("greedy", Status.NOT_FOUND)])
def test_no_plan_has_fewer_moves_than_new_replicas(solver: str, status: Status) -> None:
    subject = _running_elsewhere(objectives=(Objective.GPUS,), max_moves=0)
    assert registry.solve(subject, QUICK, Progress(), name=solver).status is status


@pytest.mark.parametrize("solver", registry.FACTORIES)
def test_two_small_gpus_may_draw_less_power_than_a_large_one(solver: str) -> None:
    kinds = [kind("big", power_milliwatts=700_000), kind("small", power_milliwatts=72_000, memory_bytes=5)]
    options = [option(name, k.name) for name in "ab" for k in kinds]
    subject = problem(
        [model("a"), model("b")], options, kinds=kinds, fleet=[*devices("big"), *devices("small", 2)],
        objectives=(Objective.POWER, Objective.GPUS),
    )  # fmt: skip
    result = registry.solve(subject, QUICK, Progress(), name=solver)
    assert sorted(placement.device for placement in result.placements or ()) == ["small/0", "small/1"]
    assert result.bounds[0].value == (115.2 if solver == "greedy" else 144)


@pytest.mark.parametrize("solver", registry.FACTORIES)
def test_growth_and_balance_have_bounds_without_a_search(solver: str) -> None:
    """Each device takes one replica of each model, busy to the threshold."""
    options = [option(name, busy_ppm=(400_000,)) for name in "ab"]
    subject = problem(
        [model("a"), model("b")], options, fleet=devices(count=2), objectives=(Objective.THROUGHPUT, Objective.BALANCE)
    )
    result = registry.solve(subject, QUICK, Progress(), name=solver)
    assert result.bounds[0].value == 2
    assert result.bounds[1].value == (1 if solver in ("cpsat", "auto") else 0.4)


@pytest.mark.parametrize("solver", registry.FACTORIES)
@pytest.mark.parametrize(("bound_us", "gpus"), [(1400, 1), (1399, 2), (600, 2)])
def test_the_bound_of_an_ensemble_decides_whether_its_members_may_share(solver: str, bound_us: int, gpus: int) -> None:
    """A call takes 0.3 ms alone and 0.7 ms beside another model."""
    result = registry.solve(_ensemble(bound_us=bound_us), QUICK, Progress(), name=solver)
    assert len({placement.device for placement in result.placements or ()}) == gpus


@pytest.mark.parametrize("solver", registry.FACTORIES)
def test_an_ensemble_that_is_too_slow_anywhere_is_infeasible(solver: str) -> None:
    assert registry.solve(_ensemble(bound_us=599), QUICK, Progress(), name=solver).status is Status.INFEASIBLE


@pytest.mark.parametrize("solver", registry.FACTORIES)
@pytest.mark.parametrize(("serve", "replicas"), [(Serve.TRITON, 4), (Serve.CLIENT, 3)])
def test_members_that_triton_serves_stand_together(solver: str, serve: Serve, replicas: int) -> None:
    """b serves twice what a does: called by clients, one replica of it is enough."""
    subject = _ensemble(serve=serve, bound_us=None, demand_mrps=(2000,))
    options = [replace(o, capacity_mrps=2000) if o.model == "b" else o for o in subject.options]
    models = [model(name, 2000) for name in "ab"]
    result = registry.solve(
        replace(subject, options=tuple(options), models=tuple(models)), QUICK, Progress(), name=solver
    )
    assert len(result.placements or ()) == replicas


def _ensemble(**changes: object) -> Problem:
    values = {"bound_us": 1000, "serve": Serve.CLIENT, "demand_mrps": (1000,)} | changes
    ensemble = Ensemble(
        name="e", percentile=95, call_percentile=99, members=(Member(model="a"), Member(model="b")),
        edges=(("a", "b"),), **values,  # type: ignore[arg-type]
    )  # fmt: skip
    options = [
        option(name, id=f"{name}{n}", tolerance_ppm=n * 500_000, max_others=n,
               promises=(Promise(percentile=99, latency_us=300 + 400 * n),))
        for name in "ab" for n in (0, 1)
    ]  # fmt: skip
    return problem([model("a"), model("b")], options, fleet=devices(count=2), ensembles=[ensemble])


@pytest.mark.parametrize("solver", registry.FACTORIES)
@pytest.mark.parametrize(("swing", "gpus"), [(200_000, 1), (0, 2)])
def test_uncertain_rates_of_different_models_need_less_than_their_sum(solver: str, swing: int, gpus: int) -> None:
    """Busy 0.45 each beside a threshold of 0.8: where 0.2 of it is swing, both take 0.783."""
    options = [option(name, busy_ppm=(450_000,), swing_ppm=(swing,) if swing else ()) for name in "ab"]
    subject = problem([model("a"), model("b")], options, fleet=devices(count=2))
    result = registry.solve(subject, QUICK, Progress(), name=solver)
    assert len({placement.device for placement in result.placements or ()}) == gpus
