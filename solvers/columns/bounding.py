"""A bound by column generation for a problem whose plan comes from elsewhere."""

from __future__ import annotations

import time

from planner.domain.objectives import natural
from solvers.base import Bound, SolveOptions
from solvers.bounds import NO_BOUND, applies
from solvers.columns.compiled import compiled
from solvers.columns.instance import Instance
from solvers.columns.search import Costs, Search
from solvers.columns.solver import NAME
from solvers.reduction import Reduction


def first_bound(relaxation: Reduction, options: SolveOptions) -> Bound:
    """Of the first objective, within the time limit; NO_BOUND where columns cannot tell."""
    deadline = time.monotonic() + options.time_limit_s
    problem = relaxation.problem
    told = applies(problem) and relaxation.groups and not relaxation.hopeless and not problem.allow_unserved
    if not told or compiled(options.time_limit_s) is None:
        return NO_BOUND
    instance, objective = Instance(relaxation), problem.objectives[0]
    search = Search(instance, Costs(main=instance.unit_costs(objective)), options, deadline, lambda plan, bound: None)
    search.prove()
    reason = "it was proved without the rules between devices, and a certificate does not say so"
    return Bound(value=natural(objective, search.bound), method=NAME, uncertified=reason)
