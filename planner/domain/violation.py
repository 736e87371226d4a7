"""The names of the rules, and a rule that a plan breaks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Rule(StrEnum):
    GPU_MEMORY = "gpu-memory"
    GPU_UTILIZATION = "gpu-utilization"
    LATENCY = "latency"
    ONE_REPLICA = "one-replica"
    DEMAND = "demand"
    REPLICAS = "replicas"
    ALLOWED_GPU = "allowed-gpu"
    MIG_LAYOUT = "mig-layout"
    ENSEMBLE_LATENCY = "ensemble-latency"
    ENSEMBLE_SERVERS = "ensemble-servers"
    SPREAD = "spread"
    SURVIVES = "survives"
    CONFLICT = "conflict"
    TOGETHER = "together"
    PINNED = "pinned"
    HOST_MEMORY = "host-memory"
    HOST_CPU = "host-cpu"
    FLEET = "fleet"
    MOVES = "moves"
    PLAN_FILE = "plan-file"  # the plan's own figures do not follow from its placements
    CERTIFICATE = "certificate"  # a certified bound does not follow from its certificate


@dataclass(frozen=True, slots=True)
class Violation:
    rule: Rule
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}: {self.message}"
