"""Where devices stand, and what is asked of the places: failure domains, nodes, spread, survival, pins, limits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.domain.units import PPM
from planner.errors import InputError


class Domain(StrEnum):
    """What fails, is limited or is counted as one."""

    GPU = "gpu"
    NODE = "node"
    RACK = "rack"
    ZONE = "zone"
    FLEET = "fleet"


SPREAD_OVER = (Domain.NODE, Domain.RACK, Domain.ZONE)
SURVIVED = (Domain.GPU, *SPREAD_OVER)
LIMITED = (Domain.NODE, Domain.RACK, Domain.FLEET)


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A host. None: how much host memory and CPU (in thousandths of a core) it has is not known, or no matter."""

    name: str
    rack: str | None = None
    zone: str | None = None
    host_memory_bytes: int | None = None
    host_cpu_millis: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Replicas of a model stand in at least `at_least` domains, at most `at_most_each` of them in one.

    `at_least` 1 asks for nothing, not even for a replica.
    """

    over: Domain
    at_least: int = 1
    at_most_each: int | None = None

    def __post_init__(self) -> None:
        _require(self.over, SPREAD_OVER, "spread: over")
        if self.at_least < 1 or (self.at_most_each is not None and self.at_most_each < 1):
            raise InputError(f"spread: at_least and at_most_each must be at least 1, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Survival:
    """Without any one domain, what is left of each of the models serves `share_ppm` of its rate (no headroom)."""

    domain: Domain
    share_ppm: int
    models: tuple[str, ...]

    def __post_init__(self) -> None:
        _require(self.domain, SURVIVED, "survives: domain")
        if not 0 < self.share_ppm <= PPM:
            raise InputError(f"survives: the share must lie in (0, 1], got {self.share_ppm / PPM:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One replica of the model, or more, stands on this GPU."""

    model: str
    gpu: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetLimit:
    """What the GPUs in use of each domain of a scope may take together. `name`: of this domain alone."""

    scope: Domain
    name: str | None = None
    power_milliwatts: int | None = None
    cost_microusd_per_hour: int | None = None

    def __post_init__(self) -> None:
        _require(self.scope, LIMITED, "limits: scope")
        if self.power_milliwatts is None and self.cost_microusd_per_hour is None:
            raise InputError("limits: a limit needs an amount of power or of cost")
        if self.name is not None and self.scope is Domain.FLEET:
            raise InputError(f"limits: there is one fleet, it needs no name, got {self.name!r}")


def _require(domain: Domain, allowed: tuple[Domain, ...], what: str) -> None:
    if domain not in allowed:
        raise InputError(f"{what} must be one of {', '.join(allowed)}, got {domain.value!r}")
