"""Which configuration is measured next, and which need not be. Pure: decided from what was seen, and from nothing else.

So a search that goes on after an interruption asks for the same configurations as one that was never stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from profiler.constraints import Constraints
from profiler.laws import Law
from profiler.points import Configuration


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a configuration's closed loop showed. `inferences_per_s` None: no point of it worked (`failed`), or there
    was no time for it.

    `busy` is the share of the device's time at that rate, `noise` half the rate's 95 % interval as a share of it.
    `client_bound`: the load generator set the rate. `disturbed`: others took a good part of the device's time.
    `lone_ms` is the mean latency of one request at a time, where that was measured.
    """

    configuration: Configuration
    failed: bool = False
    inferences_per_s: float | None = None
    memory_bytes: int | None = None
    busy: float | None = None
    noise: float = 0.0
    client_bound: bool = False
    disturbed: bool = False
    lone_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """What the laws say of a configuration that was not measured. `within` is what they were off by, at most."""

    configuration: Configuration
    inferences_per_s: float
    memory_bytes: int | None
    busy: float | None
    within: float
    laws: tuple[Law, ...]


@dataclass(frozen=True, slots=True)
class Pruned:
    configuration: Configuration
    reason: str


class Search(Protocol):
    is_thrifty: bool
    """Whether points that show nothing new are left out, too."""

    @property
    def asks_one_at_a_time(self) -> bool:
        """Whether the next closed loop is wanted with one request at a time, too."""
        ...

    def next(self) -> Configuration | None:
        """What to measure next; None at the end."""
        ...

    def record(self, seen: Seen) -> None:
        """What came of the configuration that `next` gave."""
        ...

    def given_up(self, configuration: Configuration) -> None:
        """Its server does not start, or its points fail one after another."""
        ...

    def left_out(self, configuration: Configuration) -> None:
        """There was no time to measure it."""
        ...

    def no_open_loop(self, seen: Seen) -> str | None:
        """Why the configuration's latency under open traffic is not needed; None where it is."""
        ...

    def fitted(self) -> list[Fitted]:
        """At the end: what need not be measured because the laws tell it."""
        ...

    def pruned(self) -> list[Pruned]:
        """At the end: what need not be known at all, and why."""
        ...


class Exhaustive:
    """Every configuration in turn: a grid, or a list from a file. Constraints spare it the open loop alone."""

    is_thrifty = False
    asks_one_at_a_time = True

    def __init__(
        self, configurations: Sequence[Configuration], constraints: Constraints, batch_per_request: int
    ) -> None:
        self._left = list(configurations)
        self._constraints = constraints
        self._batch_per_request = batch_per_request

    def next(self) -> Configuration | None:
        return self._left.pop(0) if self._left else None

    def record(self, seen: Seen) -> None:
        """Whatever came of it, the rest is measured, too."""

    def given_up(self, configuration: Configuration) -> None:
        """Whatever came of it, the rest is measured, too."""

    def left_out(self, configuration: Configuration) -> None:
        """It is not tried again."""

    def no_open_loop(self, seen: Seen) -> str | None:
        return broken(seen, self._constraints, self._batch_per_request)

    def fitted(self) -> list[Fitted]:
        return []

    def pruned(self) -> list[Pruned]:
        return []


def broken(seen: Seen, constraints: Constraints, batch_per_request: int) -> str | None:
    """Which constraint the closed loop shows to be broken, whatever the open one would."""
    return (
        constraints.on_lone_request(seen.lone_ms)
        or constraints.on_memory(seen.memory_bytes)
        or constraints.on_rate((seen.inferences_per_s or 0.0) / batch_per_request)
    )
