"""Replicas of one GPU type as vectors: what the peers of vector packing understand of a problem."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from planner.domain.plan import Placement
from planner.domain.problem import Problem

Numbers = NDArray[np.int64]
Row = tuple[int, int, int]
"""Kind, bin, and how many of the kind are in it."""


@dataclass(frozen=True)
class Items:
    """`need[k]`: memory in bytes, then busy time in ppm per period; `limit[k]`: how full a bin with it may be."""

    need: Numbers
    limit: Numbers
    count: Numbers
    capacity: Numbers
    options: tuple[str, ...]
    devices: tuple[str, ...]

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        return self.need / self.capacity

    @cached_property
    def weights(self) -> NDArray[np.float64]:
        """How scarce each resource is: what all replicas take of it, in bins."""
        return self.count @ self.shares

    @cached_property
    def fragile(self) -> bool:
        return bool((self.limit < self.capacity).any())

    @property
    def area_bound(self) -> int:
        """The fuller resource of all replicas, in whole bins."""
        return int((-(-(self.count @ self.need) // self.capacity)).max())

    def copies(self, room: Numbers, kind: int) -> Numbers:
        """How many of a kind fit into each column of `room`; what it does not need must not be overdrawn either."""
        need = self.need[kind][:, None]
        if self.count[kind] == 1:  # much faster than a division, and no more than one is asked for
            return (need <= room).all(axis=0).astype(np.int64)
        unbounded = np.where(room >= 0, self.count[kind], 0)
        return np.where(need > 0, room // np.maximum(need, 1), unbounded).min(axis=0).clip(min=0)

    def alone(self, kind: int) -> int:
        """How many of a kind fit into a bin of their own."""
        return int(self.copies(np.minimum(self.capacity, self.limit[kind])[:, None], kind)[0])

    def placements(self, rows: Iterable[Row]) -> tuple[Placement, ...] | None:
        """None where there are more bins than GPUs."""
        rows = list(rows)
        if max((place for _, place, _ in rows), default=0) >= len(self.devices):
            return None
        single = enumerate((kind, place) for kind, place, number in rows for _ in range(number))
        return tuple(
            Placement(replica=f"r{i}", option=self.options[kind], device=self.devices[place])
            for i, (kind, place) in single
        )


def items_of(problem: Problem) -> Items:
    """ValueError for a problem that is more than fixed replicas on GPUs of one type."""
    options, kinds = problem.options, problem.kinds
    models = [problem.model_by_name[option.model] for option in options]
    same = len(kinds) == 1 and len({model.name for model in models}) == len(models) == len(problem.models)
    if not same or problem.max_per_device is not None or any(m.replicas_min != m.replicas_max for m in models):
        raise ValueError("these peers pack a fixed number of replicas with one option each on GPUs of one type")
    kind = kinds[0]
    memory = kind.memory_bytes - kind.server_base_bytes - sum(kind.backend_overhead_bytes.values())
    capacity = np.array([memory, *[kind.utilization_ppm] * len(problem.periods)])
    need = np.array([(option.memory_bytes, *option.busy_ppm) for option in options])
    if any(option.max_others is not None for option in options) or (need > capacity).any():
        raise ValueError("these peers know memory, busy time and tolerance alone")
    borne = need + np.array([(memory, *[option.tolerance_ppm] * len(problem.periods)) for option in options])
    return Items(
        need=need,
        limit=np.minimum(capacity, borne),
        count=np.array([model.replicas_min for model in models]),
        capacity=capacity,
        options=tuple(option.id for option in options),
        devices=tuple(device.id for device in problem.devices),
    )
