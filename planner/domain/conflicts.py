"""Models in conflict as groups of which a device carries one replica at most: what a search of one device can use."""

from __future__ import annotations

from collections.abc import Mapping

from planner.domain.problem import Problem


def exclusive_groups(problem: Problem) -> Mapping[str, str]:
    """By model, the name of its group: disjoint sets of models each two of which are in conflict.

    Of most models they are the only one. Conflicts between groups are left out, and all of them where a device may
    carry a model more than once: every plan keeps what the groups say.
    """
    group = {model.name: model.name for model in problem.models}
    if problem.max_per_device != 1:
        return group
    enemies: dict[str, set[str]] = {name: set() for name in group}
    for one, other in problem.conflict:
        enemies[one].add(other)
        enemies[other].add(one)
    members = {name: {name} for name in group}
    for one, other in problem.conflict:
        for joined, whole in ((one, group[other]), (other, group[one])):
            if group[joined] != whole and len(members[group[joined]]) == 1 and members[whole] <= enemies[joined]:
                members[whole].add(joined)
                group[joined] = whole
    return group
