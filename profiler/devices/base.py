"""What a sweep needs of the device that it measures on, be it cores, a GPU, or a MIG device of one."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from planner.domain.serving import Server


class Usage(Protocol):
    """What the server took of the device in a window. None is unknown; the remarks then say why."""

    @property
    def peak_bytes(self) -> int | None: ...

    @property
    def busy(self) -> float | None:
        """The share of the device's time, in [0, 1]."""
        ...

    @property
    def power_watts(self) -> float | None:
        """Of the whole device, as a mean."""
        ...

    def samples(self) -> dict[str, tuple[float, ...]]:
        """The raw series by name; those that end in `time_s` count from the series' first sample."""
        ...

    def remarks(self) -> dict[str, object]:
        """What is kept beside the figures, as JSON."""
        ...

    def warnings(self) -> tuple[str, ...]:
        """What a person should know before trusting the figures."""
        ...


class Sampler(Protocol):
    """Watches a server on the device from a thread of its own, as a context manager; never holds up its caller."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def sample(self) -> float:
        """Take one sample now and return its time: a mark for `window`."""
        ...

    def window(self, start: float | None = None, end: float | None = None) -> Usage:
        """Usage between two times of the sampler's clock (all samples by default)."""
        ...

    def busiest(self, seconds: float) -> Usage:
        """The window of that length with the most work in it, where nobody knows when the load ran."""
        ...

    def check(self) -> None:
        """DeviceError where what happened on the device since the start spoils the measurement."""
        ...


class Device(Protocol):
    def facts(self) -> dict[str, object]:
        """What the environment of every measurement names of it."""
        ...

    def prepare(self) -> None:
        """To be called before each start of a server; DeviceError where nothing can be measured now."""
        ...

    def sampler(self, server: Server) -> Sampler: ...
