"""MIG: what a slice takes of its GPU, and the sets of slices that a GPU can be split into.

A set is legal where no two slices take the same memory slice and all together no more compute slices than there are
(NVIDIA MIG user guide, "Supported MIG profiles").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from planner.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class MigSlice:
    """A profile such as 2g.20gb: `compute` of the GPU's `gpu_compute` compute slices, and `memory` of its
    `gpu_memory` memory slices, from one of `starts` on."""

    compute: int
    memory: int
    starts: tuple[int, ...]
    gpu_compute: int
    gpu_memory: int

    def __post_init__(self) -> None:
        if not (0 < self.compute <= self.gpu_compute and 0 < self.memory <= self.gpu_memory):
            raise InputError(
                f"a MIG slice takes 1 to {self.gpu_compute} compute and 1 to {self.gpu_memory} memory slices"
            )
        if not self.starts or min(self.starts) < 0 or max(self.starts) + self.memory > self.gpu_memory:
            raise InputError(f"a MIG slice of {self.memory} memory slices cannot start at {self.starts}")

    def mask(self, start: int) -> int:
        """The memory slices that it takes, as bits."""
        return ((1 << self.memory) - 1) << start


@dataclass(frozen=True, slots=True)
class Part:
    """A device as a layout sees it. `mig` and `start` None: no slice, but all of the GPU that is not one."""

    kind: str
    mig: MigSlice | None
    start: int | None


def may_join(part: Part, others: Sequence[Part]) -> bool:
    """Whether a GPU that carries `others`, a legal set, can carry this part as well."""
    sliced = [(other.mig, other.start or 0) for other in others if other.mig is not None]
    if part.mig is None:
        return not sliced
    if len(sliced) < len(others):
        return False
    own = part.mig.mask(part.start or 0)
    fits = part.mig.compute + sum(mig.compute for mig, _ in sliced) <= part.mig.gpu_compute
    return fits and not any(mig.mask(start) & own for mig, start in sliced)


def layout_of(slices: Sequence[tuple[MigSlice, int | None]]) -> tuple[int, ...] | None:
    """A start for each slice that has none, so that all of them are one legal layout; None where there is none."""
    stack: list[tuple[tuple[int, ...], int]] = [((), 0)]
    if sum(mig.compute for mig, _ in slices) > min((mig.gpu_compute for mig, _ in slices), default=0):
        return None
    while stack:
        starts, used = stack.pop()
        if len(starts) == len(slices):
            return starts
        mig, given = slices[len(starts)]
        for start in reversed(mig.starts if given is None else [s for s in mig.starts if s == given]):
            if not mig.mask(start) & used:
                stack.append(((*starts, start), used | mig.mask(start)))
    return None


@lru_cache(maxsize=256)
def layouts(parts: tuple[Part, ...]) -> tuple[tuple[int, ...], ...]:
    """Every largest set of parts that one GPU can carry, as places in `parts`; of sets of the same kinds the first."""
    whole = tuple(place for place, part in enumerate(parts) if part.mig is None)
    by_kinds: dict[tuple[str, ...], tuple[int, ...]] = {}
    for chosen in [whole] * bool(whole) + list(_slice_sets(parts)):
        by_kinds.setdefault(tuple(sorted(parts[place].kind for place in chosen)), chosen)
    counted = {kinds: Counter(kinds) for kinds in by_kinds}
    return tuple(
        chosen
        for kinds, chosen in by_kinds.items()
        if not any(other != kinds and counted[kinds] <= counted[other] for other in by_kinds)
    )


def _slice_sets(parts: Sequence[Part]) -> Iterator[tuple[int, ...]]:
    """Legal sets of slices to which none can be added, those with the first parts first."""
    slices = [(place, part.mig, part.mig.mask(part.start or 0)) for place, part in enumerate(parts) if part.mig]
    stack: list[tuple[int, tuple[int, ...], int, int]] = [(0, (), 0, 0)] if slices else []
    while stack:
        at, chosen, used, compute = stack.pop()
        if at < len(slices):
            place, mig, mask = slices[at]
            stack.append((at + 1, chosen, used, compute))
            if not mask & used and compute + mig.compute <= mig.gpu_compute:
                stack.append((at + 1, (*chosen, place), used | mask, compute + mig.compute))
        elif all(mask & used or compute + mig.compute > mig.gpu_compute for _, mig, mask in slices):
            yield chosen
