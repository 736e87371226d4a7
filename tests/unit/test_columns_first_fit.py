"""First fit over arrays keeps every rule of a device, and serves everything or says that it could not."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings

from planner.domain.check import check_placements
from planner.domain.problem import Problem
from solvers.bounds import applies
from solvers.columns.filling import spread_out
from solvers.columns.first_fit import first_fit
from solvers.columns.generation import Task
from solvers.columns.instance import Instance
from solvers.columns.solver import placements_of
from solvers.columns.wanted import Wanted
from solvers.reduction import Reduction
from tests.problems import devices, kind, model, option, problem
from tests.tiny_problems import tiny_problems


def _task(subject: Problem) -> Task:
    instance = Instance(Reduction(subject))
    wanted = Wanted.of(subject.models, optional=subject.allow_unserved)
    costs = (1.0,) * len(instance.groups)
    return Task(instance=instance, wanted=wanted, costs=costs, stock=tuple(group.stock for group in instance.groups))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tiny_problems())
def test_a_plan_keeps_every_rule(subject: Problem) -> None:
    reduction = Reduction(subject)
    if reduction.hopeless or not reduction.groups or not applies(subject):
        return
    task = _task(subject)
    placed = first_fit(task)
    if placed is not None:
        assert check_placements(subject, placements_of(task.instance, spread_out(placed))) == []


def _all_different(gpus: int) -> Problem:
    rng = random.Random(5)
    gpu = kind("gpu", memory_bytes=100, server_base_bytes=4, utilization_ppm=800_000)
    models = [model(f"m{index}", 1000) for index in range(60)]
    options = [
        option(m.name, "gpu", memory_bytes=rng.randint(5, 60), busy_ppm=(rng.randint(20, 400) * 1000,)) for m in models
    ]
    return problem(models, options, kinds=[gpu], fleet=devices("gpu", gpus))


def test_it_fills_gpus_before_it_takes_new_ones() -> None:
    subject = _all_different(60)
    task = _task(subject)
    placed = first_fit(task)
    assert placed is not None
    placements = placements_of(task.instance, spread_out(placed))
    assert check_placements(subject, placements) == []
    area = max(sum(o.memory_bytes for o in subject.options) / 96, sum(o.busy_ppm[0] for o in subject.options) / 800_000)
    assert len({p.device for p in placements}) <= 1.5 * area


def test_it_says_where_the_stock_ends() -> None:
    assert first_fit(_task(_all_different(5))) is None
