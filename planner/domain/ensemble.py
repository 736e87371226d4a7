"""Ensembles: directed acyclic graphs of models that serve one request together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from planner.domain.codec import later
from planner.domain.latency import CurvePoint
from planner.errors import InputError


class Serve(StrEnum):
    """Who calls the members: the client, wherever they stand, or a server that has all of them."""

    CLIENT = "client"
    TRITON = "triton"


@dataclass(frozen=True, kw_only=True)
class Member:
    """`calls` per request of the ensemble, of which `depth` one after another and the others beside them."""

    model: str
    calls: int = 1
    depth: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= self.calls:
            found = f"{self.calls} calls and depth {self.depth}"
            raise InputError(f"ensemble member {self.model!r}: 1 <= depth <= calls is needed, got {found}")


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """`demand_mrps` per period, with headroom, `rate_mrps` without.

    `percentile` of the whole is within `bound_us`; None: no bound. It is where every call of a request keeps
    its part of the bound at `call_percentile`, which may lie beyond those that are measured.
    """

    name: str
    demand_mrps: tuple[int, ...]
    percentile: int
    bound_us: int | None
    call_percentile: int | float
    serve: Serve
    members: tuple[Member, ...]
    edges: tuple[tuple[str, str], ...] = ()
    rate_mrps: tuple[int, ...] = later(())

    @property
    def expected_mrps(self) -> tuple[int, ...]:
        """The traffic by period, without headroom where that is known."""
        return self.rate_mrps or self.demand_mrps

    def __post_init__(self) -> None:
        names = self.models
        if not names or len(set(names)) != len(names):
            raise InputError(f"ensemble {self.name!r}: needs members, each once, got {', '.join(names) or 'none'}")
        for edge in self.edges:
            for name in edge:
                if name not in names:
                    raise InputError(f"ensemble {self.name!r}: {name!r} in its graph is none of its members")
        if len(self.order) < len(names):
            stuck = ", ".join(name for name in names if name not in self.order)
            raise InputError(f"ensemble {self.name!r}: its graph has a cycle among {stuck}")

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(member.model for member in self.members)

    @cached_property
    def before(self) -> Mapping[str, tuple[str, ...]]:
        """The members whose results each member waits for."""
        return {name: tuple(left for left, right in self.edges if right == name) for name in self.models}

    @cached_property
    def order(self) -> tuple[str, ...]:
        """The members, each after those that it waits for; without those on a cycle, or behind one."""
        found: list[str] = []
        waiting = list(self.models)
        while ready := [name for name in waiting if all(other in found for other in self.before[name])]:
            found += ready
            waiting = [name for name in waiting if name not in ready]
        return tuple(found)

    def slowest_path(self, call_us: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
        """The path whose calls in sequence take longest, with these latencies of one call, and how long."""
        depth = {member.model: member.depth for member in self.members}
        ends: dict[str, tuple[int, tuple[str, ...]]] = {}
        for name in self.order:
            start, path = max((ends[other] for other in self.before[name]), default=(0, ()), key=lambda end: end[0])
            ends[name] = (start + depth[name] * call_us.get(name, 0), (*path, name))
        return max(ends.values(), key=lambda end: end[0])


@dataclass(frozen=True, slots=True)
class Promise:
    """`percentile` of a call's latency stays within `latency_us` beside all that the option bears.

    `curve` is what was measured alone at this percentile; empty where the promise rests on something else.
    """

    percentile: int | float
    latency_us: int
    curve: tuple[CurvePoint, ...] = ()
