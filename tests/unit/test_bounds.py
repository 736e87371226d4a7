from __future__ import annotations

from planner.domain.layout import Layout
from planner.domain.plan import Placement
from planner.domain.problem import Device, Objective, Problem
from planner.domain.units import PPM
from solvers.base import Bound
from solvers.bounds import AreaBound, area_bounds, places_needed
from solvers.reduction import Reduction
from tests.problems import devices, kind, model, option, problem


def _gpus(subject: Problem) -> int | None:
    return AreaBound(Reduction(subject)).value(Objective.GPUS)


def test_memory_counts_without_server_base_and_the_least_backend_overhead() -> None:
    big = kind(memory_bytes=14, server_base_bytes=1, backend_overhead_bytes={"onnxruntime": 1})
    models = [model(name) for name in "abcdef"]
    options = [option(m.name, memory_bytes=4) for m in models]
    assert _gpus(problem(models, options, kinds=[big])) == 2
    assert _gpus(problem([*models, model("g")], [*options, option("g", memory_bytes=1)], kinds=[big])) == 3


def test_busy_time_counts_against_the_threshold_and_no_more_than_a_device() -> None:
    models = [model("a"), model("b")]
    assert _gpus(problem(models, [option("a", busy_ppm=(900_000,)), option("b", busy_ppm=(PPM,))])) == 2
    assert _gpus(problem(models, [option("a", busy_ppm=(400_000,)), option("b", busy_ppm=(400_000,))])) == 1


def test_replicas_of_one_model_stand_on_different_devices() -> None:
    subject = problem([model(demand_mrps=3000)], [option(memory_bytes=1, busy_ppm=(10_000,))])
    assert _gpus(subject) == 3


def test_what_bears_few_others_takes_a_share_of_the_instances() -> None:
    models = [model(name) for name in "abc"]
    assert _gpus(problem(models, [option(m.name, memory_bytes=1, max_others=1) for m in models])) == 2


def test_the_cheapest_option_counts_for_cost() -> None:
    kinds = [kind("big", cost_microusd_per_hour=3_000_000), kind("small", cost_microusd_per_hour=1_000_000)]
    options = [option(memory_bytes=12), option("m", "small", memory_bytes=12)]
    subject = problem([model(demand_mrps=2000)], options, kinds=kinds, fleet=[*devices("big"), *devices("small", 2)])
    assert AreaBound(Reduction(subject)).value(Objective.COST) == 2_000_000


def test_two_devices_of_one_gpu_count_as_one() -> None:
    fleet = [Device(id=f"big/0/{i}", gpu="big/0", kind="big") for i in range(2)]
    models = [model("a"), model("b")]
    subject = problem(models, [option(m.name, memory_bytes=12) for m in models], fleet=fleet)
    assert _gpus(subject) == 1


def test_unserved_demand_needs_no_gpu() -> None:
    subject = problem(allow_unserved=True, objectives=(Objective.UNSERVED, Objective.GPUS))
    reduction = Reduction(subject)
    nothing, all_served = Layout(subject, ()), Layout(subject, [Placement(replica="r", option="m@big", device="big/0")])
    assert area_bounds(reduction, nothing)[1] == Bound(value=0, method="area")
    assert area_bounds(reduction, all_served)[1] == Bound(value=1, method="area")


def test_places_are_bounded_by_a_plan_only_where_it_is_first() -> None:
    plan = [Placement(replica="r", option="m@big", device="big/0")]
    for objectives, expected in (((Objective.GPUS,), 1), ((Objective.BALANCE, Objective.GPUS), 3)):
        subject = problem([model(replicas_min=3)], fleet=devices(count=5), objectives=objectives)
        assert places_needed(Reduction(subject), Layout(subject, plan)) == [expected]
