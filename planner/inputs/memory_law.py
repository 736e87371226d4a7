"""The memory law: used = server base + backend overhead + constant of the replica + instances x per instance.

Fitted on readings of one model alone on a device, one per number of instances. Amounts in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

AGREE_WITHIN = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLaw:
    """`shared_bytes`: what the model alone takes before its first instance, without the server's base.

    Part of it is the backend's overhead. `residuals_bytes`: reading minus law, by number of instances.
    """

    model: str
    backend: str
    base_bytes: float
    shared_bytes: float
    per_instance_bytes: float
    residuals_bytes: Mapping[int, float] = field(default_factory=dict)

    def used_bytes(self, instances: int) -> float:
        return self.base_bytes + self.shared_bytes + instances * self.per_instance_bytes

    @property
    def worst_residual_bytes(self) -> float:
        return max((abs(r) for r in self.residuals_bytes.values()), default=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOverhead:
    """What a backend takes once per server. `inferred_from` empty: not known, so it stays in the replicas."""

    backend: str
    overhead_bytes: int
    inferred_from: tuple[str, ...] = ()


def fit(model: str, backend: str, base_bytes: float, readings: Mapping[int, float]) -> MemoryLaw | None:
    """Least squares over (instances, bytes used); None where fewer than two instance counts were read."""
    if len(readings) < 2:
        return None
    mean_x = sum(readings) / len(readings)
    mean_y = sum(readings.values()) / len(readings)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in readings.items()) / sum((x - mean_x) ** 2 for x in readings)
    intercept = mean_y - slope * mean_x
    return MemoryLaw(
        model=model,
        backend=backend,
        base_bytes=base_bytes,
        shared_bytes=intercept - base_bytes,
        per_instance_bytes=slope,
        residuals_bytes={x: y - intercept - slope * x for x, y in sorted(readings.items())},
    )


def backend_overhead(backend: str, laws: Sequence[MemoryLaw]) -> BackendOverhead:
    """The overhead that single-model readings allow to infer (triton.md, "Memory").

    Where the two smallest intercepts agree within 5 %, the smallest is the overhead. Otherwise it is 0 and
    each intercept stays in its replica: too much memory for two models together, never too little.
    """
    ordered = sorted((law for law in laws if law.backend == backend), key=lambda law: law.shared_bytes)
    if len(ordered) < 2 or ordered[0].shared_bytes <= 0:
        return BackendOverhead(backend=backend, overhead_bytes=0)
    smallest = ordered[0].shared_bytes
    agreeing = [law for law in ordered if law.shared_bytes - smallest <= AGREE_WITHIN * law.shared_bytes]
    if len(agreeing) < 2:
        return BackendOverhead(backend=backend, overhead_bytes=0)
    names = tuple(sorted(law.model for law in agreeing))
    return BackendOverhead(backend=backend, overhead_bytes=int(smallest), inferred_from=names)


def replica_bytes(law: MemoryLaw | None, instances: int, reading_bytes: float, base_bytes: float, overhead: int) -> int:
    """Hot memory of one replica without base and overhead: the law or the reading, whichever is larger.

    The law evens out readings of hardly used instances, the reading covers what the law leaves out.
    """
    predicted = law.used_bytes(instances) if law is not None else 0.0
    return max(0, ceil(max(predicted, reading_bytes) - base_bytes - overhead))
