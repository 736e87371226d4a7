"""What verifying a plan found: predicted beside measured. Written as verification.json beside the plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from planner.domain.codec import from_json, later
from planner.domain.problem import require_version

SCHEMA_VERSION = 1


class Verdict(StrEnum):
    MET = "met"  # the whole interval keeps the bound
    MISSED = "missed"  # the whole interval is above it
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Quantile:
    """A latency percentile with its 95 % interval; None where the requests are too few for it."""

    percentile: int | float
    value_ms: float
    low_ms: float | None
    high_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedModel:
    """What only a simulation knows of a replica. `executed_batch_mean` counts inferences."""

    latencies: tuple[Quantile, ...]
    throughput_rps: float
    executed_batch_mean: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVerification:
    """One replica under its traffic.

    `predicted_ms` is the plan's promise at this rate beside these neighbours, `expected_ms` what fast
    neighbours would make of it. Latencies are None where they are not known, and `reason` says why; a failed
    request counts as one that never ended. The errors are (predicted - measured) / measured. Memory and busy
    share are measured per model only on the CPU. `verdict` is None where the model has no bound, and so is `within`,
    the share of its requests that kept it. In a simulation "measured" is what it found.
    `is_ensemble`: an ensemble that the server serves, from end to end; what it takes is counted at its members.
    """

    replica: str
    model: str
    rate_rps: float
    completed: int
    failed: int
    percentile: int | float
    bound_ms: float | None
    predicted_ms: float | None
    expected_ms: float | None
    measured_ms: float | None
    measured_low_ms: float | None
    measured_high_ms: float | None
    error: float | None
    expected_error: float | None
    memory_bytes_predicted: int
    memory_bytes_measured: int | None
    busy_predicted: float
    busy_measured: float | None
    verdict: Verdict | None
    reason: str | None
    within: float | None = later(None)
    simulated: SimulatedModel | None = later(None)  # noqa: RUF009 - None, and no record of its own
    is_ensemble: bool = later(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    message: str
    log_tail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceVerification:
    """One server with all its models under traffic at the same time, for `seconds`.

    `period` is the one that was driven, the busiest of this device. `failure` is set where the server did not
    last; then nothing was measured.
    """

    device: str
    type: str
    period: str
    seconds: float
    memory_bytes_predicted: int
    memory_bytes_measured: int | None
    busy_predicted: float
    busy_measured: float | None
    models: tuple[ModelVerification, ...]
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """`rates` is planned, full, the factor by which the planned rates were multiplied, or trace.

    `interrupted`: only the devices that were finished by then are in it. `simulated`: no server ran, the devices were
    simulated from the measurements of models alone.
    """

    schema_version: int
    plan_digest: str
    rates: str
    load_generator: str
    notes: tuple[str, ...]
    devices: tuple[DeviceVerification, ...]
    interrupted: bool = False
    simulated: bool = later(False)

    @property
    def complete(self) -> bool:
        return not self.interrupted and all(device.failure is None for device in self.devices)

    def models(self) -> Iterator[ModelVerification]:
        for device in self.devices:
            yield from device.models

    def count(self, verdict: Verdict | None) -> int:
        return sum(model.verdict is verdict for model in self.models())


def verification_from_json(value: object, where: str) -> Verification:
    require_version(value, where)
    return from_json(Verification, value, where)
