"""The plan: which replica runs where, and every figure that follows from it. Written as plan.json."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from planner.domain.codec import from_json, later
from planner.domain.ensemble import Serve
from planner.domain.problem import LatencyBasis, Objective, require_version
from planner.errors import InputError


class Status(StrEnum):
    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    NOT_FOUND = "not-found"

    @property
    def has_plan(self) -> bool:
        return self in (Status.OPTIMAL, Status.FEASIBLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The decision itself: one replica, its option, its device, and `more_devices` where it takes several GPUs."""

    replica: str
    option: str
    device: str
    more_devices: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        return (self.device, *self.more_devices)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveValue:
    """`value` in the objective's natural unit; `bound` was proved by `method`, None where there is none.

    gpus: GPUs; cost: USD per hour; power: watts; moves: replicas to start or change; unserved: sum of priority
    x missing share; balance: largest busy over its limit; models: models loaded; throughput: growth factor of all
    rates. `certified_bound` has its proof in certificate.json; `uncertified` says why there is none. Plans of older
    versions have neither.
    """

    name: Objective
    value: float
    bound: float | None
    certified_bound: float | None = None
    uncertified: str | None = None
    method: str

    def __post_init__(self) -> None:
        if self.certified_bound is not None and self.uncertified is not None:
            raise InputError(
                f"objective {self.name.value!r}: a certified bound and a reason for none exclude each other"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPeriod:
    """`rate_rps` is the traffic expected, `busy` and `latency_ms` are promised at the whole capacity."""

    period: str
    rate_rps: float
    busy: float
    latency_ms: float | None
    percentile: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """`devices`: one, or the GPUs of one node that it takes; its server runs on the first one. `busy` is that of each,
    `memory_bytes` that of all of them."""

    id: str
    model: str
    option: str
    devices: tuple[str, ...]
    instances: int
    max_batch_size: int
    queue_delay_us: int | None
    capacity_rps: float
    weight: float
    memory_bytes: int
    latency_basis: LatencyBasis
    source: str
    periods: tuple[ReplicaPeriod, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointPorts:
    grpc_port: int
    http_port: int
    metrics_port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedDevice:
    """`busy` is the total of the busiest period. `endpoint` is that of the server: one for all GPUs that a replica
    takes."""

    device: str
    profile: str
    start: int | None
    memory_bytes_used: int
    memory_bytes_capacity: int
    busy: float
    endpoint: EndpointPorts
    replicas: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGpu:
    gpu: str
    type: str
    devices: tuple[PlannedDevice, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unserved:
    model: str
    rate_rps: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A rule that has hardly any slack left: `actual` against `limit`, both in `unit`.

    `period`: when; None where the rule knows no period, or the problem has one alone.
    """

    rule: str
    subject: str
    limit: float
    actual: float
    unit: str
    period: str | None = later(None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMember:
    """`calls` per request; each takes at most `latency_ms` at `percentile`; None where nothing asks for it."""

    model: str
    calls: int
    percentile: int | float
    latency_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleServer:
    device: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedEnsemble:
    """`latency_ms` of the slowest `path` against `bound_ms`; `servers` have all members where `serve` is triton."""

    name: str
    serve: Serve
    percentile: int
    bound_ms: float | None
    latency_ms: float | None
    path: tuple[str, ...]
    members: tuple[PlannedMember, ...]
    servers: tuple[EnsembleServer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """`cost_usd_per_hour` and `power_watts` are None where a used type has none."""

    gpus_used: int
    devices_used: int
    cost_usd_per_hour: float | None
    power_watts: float | None
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    schema_version: int
    status: Status
    solver: str
    seed: int
    runtime_s: float
    problem_digest: str
    objectives: tuple[ObjectiveValue, ...]
    gap: tuple[float | None, ...]
    calibrated: bool
    summary: Summary
    gpus: tuple[PlannedGpu, ...]
    replicas: tuple[Replica, ...]
    unserved: tuple[Unserved, ...]
    binding: tuple[Binding, ...]
    ensembles: tuple[PlannedEnsemble, ...] = later(())

    def __post_init__(self) -> None:
        if not self.status.has_plan:
            raise InputError(f"a plan cannot have the status {self.status.value!r}: there is none")
        if len(self.gap) != len(self.objectives):
            raise InputError(f"plan: {len(self.objectives)} objectives need as many gaps, got {len(self.gap)}")

    @property
    def servers(self) -> tuple[PlannedDevice, ...]:
        """Devices on which a server runs: all in use but those that a server on another one takes besides."""
        others = {name for replica in self.replicas for name in replica.devices[1:]}
        return tuple(device for gpu in self.gpus for device in gpu.devices if device.device not in others)

    def placements(self) -> tuple[Placement, ...]:
        return tuple(
            Placement(replica=r.id, option=r.option, device=r.devices[0], more_devices=r.devices[1:])
            for r in self.replicas
            if r.devices
        )


def plan_from_json(value: object, where: str) -> Plan:
    require_version(value, where)
    return from_json(Plan, value, where)
