"""What a sweep tells while it runs, and at its end."""

from __future__ import annotations

from dataclasses import dataclass, field

from planner.domain.profile import Measurement
from profiler.points import Configuration, LoadPoint


class MeasureReporter:
    """Hears of a sweep's progress. Every method does nothing by default."""

    def configuration(self, model: str, configuration: Configuration, number: int, total: int) -> None:
        """The `number`th (from 1) configuration begins; there are `total`, of which a search may need fewer."""

    def point(self, model: str, point: LoadPoint, seconds: float) -> None:
        """A point begins, with a window of `seconds` or several."""

    def measured(self, measurement: Measurement) -> None:
        """A point is finished and stored; `failure` is set where it failed."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


@dataclass(slots=True)
class MeasureSummary:
    """What came of a sweep. `failed`, `left_out` (the budget ended first) and `pruned` (no need to know it, and why)
    name points or configurations in words. `fitted` configurations follow from laws and were not measured."""

    measured: int = 0
    reused: int = 0
    fitted: int = 0
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    pruned: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        return not self.failed and not self.left_out
