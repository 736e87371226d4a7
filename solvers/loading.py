"""One device being filled: every rule of a device, kept up to date replica by replica."""

from __future__ import annotations

from planner.domain.pooling import pooled_ppm
from planner.domain.problem import Device, DeviceKind
from solvers.reduction import Choice


class Loading:
    """A device with the choices put on it; `fits` answers for the newcomer and for those already there."""

    __slots__ = (
        "_backends",
        "_classes",
        "_instance_limit",
        "_instances",
        "_models",
        "_most",
        "_pools",
        "busy_ppm",
        "device",
        "free_bytes",
        "kind",
        "placed",
    )

    def __init__(self, device: Device, kind: DeviceKind, max_per_device: int | None, periods: int) -> None:
        self.device = device
        self.kind = kind
        self.placed: list[Choice] = []
        self.free_bytes = kind.memory_bytes - kind.server_base_bytes
        self.busy_ppm = [0] * periods
        self._most = max_per_device
        self._models: dict[str, int] = {}
        self._backends: set[str] = set()
        self._instances = 0
        self._pools = False
        self._instance_limit: int | None = None
        # Per interference class: what its residents take from everybody, and the least that one of them bears.
        self._classes = [_ClassLoad(periods) for _ in kind.interference_classes]

    def fits(self, choice: Choice) -> bool:
        return self._gpu_memory(choice) and (
            not self.placed or (self._gpu_utilization(choice) and self._one_replica(choice) and self._latency(choice))
        )

    def put(self, choice: Choice) -> None:
        option = choice.option
        self.free_bytes -= self._bytes_of(choice)
        self._backends.add(option.backend)
        self._models[option.model] = self._models.get(option.model, 0) + 1
        self._instances += option.instances
        self._pools = self._pools or bool(option.swing_ppm)
        if choice.max_others is not None:
            own_limit = choice.max_others + option.instances
            self._instance_limit = min(own_limit, self._instance_limit or own_limit)
        for period, busy in enumerate(option.busy_ppm):
            self.busy_ppm[period] += busy
        for load, added in zip(self._classes, choice.added_ppm2, strict=True):
            load.weighed = [have + more for have, more in zip(load.weighed, added, strict=True)]
        own = self._classes[option.interference_class]
        limits = [choice.borne_ppm2 + own_added for own_added in choice.own_ppm2]
        own.limits = limits if own.limits is None else list(map(min, own.limits, limits))
        self.placed.append(choice)

    def _bytes_of(self, choice: Choice) -> int:
        overhead = 0 if choice.option.backend in self._backends else choice.overhead_bytes
        return choice.option.memory_bytes + overhead

    def _gpu_memory(self, choice: Choice) -> bool:
        return self._bytes_of(choice) <= self.free_bytes

    def _one_replica(self, choice: Choice) -> bool:
        return self._most is None or self._models.get(choice.option.model, 0) < self._most

    def _gpu_utilization(self, choice: Choice) -> bool:
        limit = self.kind.utilization_ppm
        if not self._pools and not choice.option.swing_ppm:
            for have, more in zip(self.busy_ppm, choice.option.busy_ppm, strict=True):  # noqa: SIM110 (asked most often)
                if have + more > limit:
                    return False
            return True
        options = [c.option for c in (*self.placed, choice)]
        return all(
            pooled_ppm((o.model, o.busy_ppm[period], o.swing(period)) for o in options) <= limit
            for period in range(len(self.busy_ppm))
        )

    def _latency(self, choice: Choice) -> bool:
        if choice.max_others is not None and self._instances > choice.max_others:
            return False
        if self._instance_limit is not None and self._instances + choice.option.instances > self._instance_limit:
            return False
        own = self._classes[choice.option.interference_class]
        if max(own.weighed) > choice.borne_ppm2:
            return False
        return all(
            load.limits is None
            or all(w + more <= limit for w, more, limit in zip(load.weighed, added, load.limits, strict=True))
            for load, added in zip(self._classes, choice.added_ppm2, strict=True)
        )

    @property
    def free_shares(self) -> tuple[float, float]:
        """Of memory and of busy time in the busiest period."""
        limit = self.kind.utilization_ppm
        return (
            self.free_bytes / max(1, self.kind.memory_bytes - self.kind.server_base_bytes),
            1 - max(self.busy_ppm) / max(1, limit),
        )

    @property
    def peak_share(self) -> float:
        """Busy time over its limit in the busiest period."""
        limit = self.kind.utilization_ppm if len(self.placed) > 1 else self.kind.alone_ppm
        return max(self.busy_ppm) / max(1, limit)


class _ClassLoad:
    __slots__ = ("limits", "weighed")

    def __init__(self, periods: int) -> None:
        self.weighed = [0] * periods
        self.limits: list[int] | None = None
