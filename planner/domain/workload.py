"""What must be served: models with rates and latency objectives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from fractions import Fraction

from planner.domain.ensemble import Serve
from planner.domain.observed import ObservedRates
from planner.domain.topology import Domain, Pin, Spread
from planner.domain.units import exact
from planner.errors import InputError

ALL_DAY = "all"
PERCENTILES = (50, 90, 95, 99)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDemand:
    """One model's demand. `rates_rps` None: no rate is asked for (objectives models and throughput).

    `rates_rps` maps a period of the day to requests per second; a rate that never changes has the one
    period "all". `spread_rps`: the standard deviation of a rate whose mean that is. `latency_bound_ms` None: no latency
    objective. `host_memory_bytes` and `host_cpu` (cores): what each replica takes of its node.
    """

    name: str
    rates_rps: Mapping[str, float] | None = None
    headroom: float = 0.0
    percentile: int = 99
    latency_bound_ms: float | None = None
    replicas_min: int = 1
    replicas_max: int | None = None
    allowed_gpu: tuple[str, ...] = ()
    priority: int = 1
    spread_rps: float = 0.0
    spread: tuple[Spread, ...] = ()
    host_memory_bytes: int = 0
    host_cpu: float = 0.0

    def __post_init__(self) -> None:
        subject = f"model {self.name!r}"
        for period, rate in (self.rates_rps or {}).items():
            if not 0 <= rate < float("inf"):
                where = "rate_rps" if period == ALL_DAY else f"rates_rps.{period}"
                raise InputError(f"{subject}: {where} must be a number >= 0, got {rate}")
        if not 0 <= self.spread_rps < float("inf"):
            raise InputError(f"{subject}: spread_rps must be a number >= 0, got {self.spread_rps}")
        if self.headroom < 0:
            raise InputError(f"{subject}: headroom must be >= 0, got {self.headroom}")
        if self.percentile not in PERCENTILES:
            allowed = ", ".join(map(str, PERCENTILES))
            raise InputError(f"{subject}: percentile must be one of {allowed}, got {self.percentile}")
        if self.latency_bound_ms is not None and not 0 < self.latency_bound_ms < float("inf"):
            raise InputError(f"{subject}: the latency bound must be positive, got {self.latency_bound_ms} ms")
        if self.replicas_min < 0 or (self.replicas_max is not None and self.replicas_max < max(1, self.replicas_min)):
            found = f"min {self.replicas_min} and max {self.replicas_max}"
            raise InputError(f"{subject}: replicas need 0 <= min <= max and max >= 1, got {found}")
        if self.priority < 1:
            raise InputError(f"{subject}: priority must be a positive integer, got {self.priority}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberCalls:
    """A model of an ensemble: calls per request, up to `parallel` of them at the same time."""

    name: str
    calls: int = 1
    parallel: int = 1

    @property
    def depth(self) -> int:
        """Calls one after another."""
        return -(-self.calls // self.parallel)


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleDemand:
    """A directed acyclic graph of models that serve one request together; `graph` has its edges.

    `rates_rps` and `latency_bound_ms` as of a model; members come on top of what their models are asked for.
    """

    name: str
    rates_rps: Mapping[str, float]
    percentile: int
    latency_bound_ms: float | None
    serve: Serve
    members: tuple[MemberCalls, ...]
    graph: tuple[tuple[str, str], ...] = ()

    @property
    def call_percentile(self) -> int | float:
        """At this percentile every call of a request has to be in time for the whole to be, by the union bound.

        All calls count, also those side by side: each of them may be the one that is late. The next higher
        percentile that profiles know; beyond these the percentile itself, rounded up.
        """
        late = Decimal(100 - self.percentile) / sum(member.calls for member in self.members)
        found = next((p for p in PERCENTILES if p >= 100 - late), None)
        two_digits = Decimal(1).scaleb(late.adjusted() - 1)
        return float(100 - late.quantize(two_digits, ROUND_DOWN)) if found is None else found


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalDemand:
    """Without any one domain, what is left of each of the models serves this share of its rate."""

    domain: Domain
    models: tuple[str, ...]
    share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`conflict` and `together`: pairs of models that may not, or must, share every device."""

    models: tuple[ModelDemand, ...]
    conflict: tuple[tuple[str, str], ...] = ()
    together: tuple[tuple[str, str], ...] = ()
    pinned: tuple[Pin, ...] = ()
    survives: tuple[SurvivalDemand, ...] = ()
    ensembles: tuple[EnsembleDemand, ...] = ()
    observed: ObservedRates | None = None

    @property
    def is_uncertain(self) -> bool:
        return self.observed is not None or any(model.spread_rps for model in self.models)

    def __post_init__(self) -> None:
        names = [model.name for model in self.models]
        for name in names:
            if names.count(name) > 1:
                raise InputError(f"workload: model {name!r} is given twice")
        if not names:
            raise InputError("workload: there is no model in it")

    @property
    def periods(self) -> tuple[str, ...]:
        """Every period that some model names; a rate without periods holds in all of them."""
        given = [*(model.rates_rps or {} for model in self.models), *(e.rates_rps for e in self.ensembles)]
        named = {p: None for rates in given for p in rates if p != ALL_DAY}
        return tuple(named) or (ALL_DAY,)

    @property
    def members(self) -> frozenset[str]:
        """Models that some ensemble calls."""
        return frozenset(member.name for ensemble in self.ensembles for member in ensemble.members)

    def calls_rps(self, model: str, period: str) -> Fraction:
        """What ensembles ask of a model in a period."""
        asked = [
            exact(e.rates_rps.get(period, e.rates_rps.get(ALL_DAY, 0.0))) * member.calls
            for e in self.ensembles
            for member in e.members
            if member.name == model
        ]
        return sum(asked, Fraction(0))
