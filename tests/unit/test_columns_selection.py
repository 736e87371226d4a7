"""The best plan from columns that are known."""

from __future__ import annotations

from solvers.base import SolveOptions
from solvers.columns.column import Column
from solvers.columns.generation import Task
from solvers.columns.instance import Instance
from solvers.columns.search import Costs
from solvers.columns.selection import select
from solvers.columns.wanted import Wanted
from solvers.reduction import Reduction
from tests.problems import devices, model, option, problem


def test_two_columns_are_better_than_three() -> None:
    """a, b and b, c serve what three columns of one replica each do, and a second b costs nothing."""
    models = [model(name) for name in "abc"]
    subject = problem(models, [option(name, memory_bytes=5) for name in "abc"], fleet=devices(count=4))
    instance = Instance(Reduction(subject))
    task = Task(instance=instance, wanted=Wanted.of(models, optional=False), costs=(1.0,), stock=(4,))
    alone = [Column(0, ((item,),)) for item in range(3)]
    pairs = [Column(0, ((0, 1),)), Column(0, ((1, 2),))]
    costs = Costs(main=(1,), then=())
    found = select(task, [*alone, *pairs], alone, 1, costs, SolveOptions(workers=1), seconds=10)
    assert found is not None
    assert len(found) == 2
    assert {item for column in found for item in column.contents[0]} == {0, 1, 2}
    assert select(task, alone, alone, 1, costs, SolveOptions(), seconds=0.5) is None
