"""The sweep on one device: every model alone, every configuration on a fresh server, every load point once."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from typing import cast

from planner.domain.profile import SERVER_ROW, Measurement, ProfileRow, ProfileStore
from planner.domain.serving import LoadMode, LoadSpec, Server
from planner.domain.statistics import samples_needed
from planner.errors import POINT_FAILURES, PlannerError
from profiler import overheads
from profiler.budget import Budget
from profiler.configuration_run import ConfigurationRun
from profiler.load.answers import check_answer
from profiler.points import (
    Configuration,
    LoadPoint,
    MeasureRequest,
    ModelFacts,
    closed_point,
    closed_points,
    configurations,
    open_points,
    overhead_key,
    point_key,
)
from profiler.running import Tools

_CLOSED_SAMPLES = 200
_CLOSED_WINDOW_MAX_S = 10.0
_DOUBLINGS_MAX = 2
_GROWTH_WORTH_MORE = 1.05
_FAILURES_PER_CONFIGURATION = 2


class MeasureReporter:
    """Hears of a sweep's progress. Every method does nothing by default."""

    def configuration(self, model: str, configuration: Configuration, number: int, total: int) -> None:
        """The `number`th (from 1) of `total` configurations begins."""

    def point(self, model: str, point: LoadPoint, seconds: float) -> None:
        """A window of `seconds` begins."""

    def measured(self, measurement: Measurement) -> None:
        """A point is finished and stored; `failure` is set where it failed."""

    def note(self, text: str) -> None:
        """Something that a person should know."""


@dataclass(slots=True)
class MeasureSummary:
    """What came of a sweep. `failed` and `left_out` (the budget ended first) name points in words."""

    measured: int = 0
    reused: int = 0
    failed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        return not self.failed and not self.left_out


class BudgetEnded(Exception):
    """The next point does not fit into what is left of the budget."""


class ConfigurationGivenUp(Exception):
    """Its model does not load, or its points fail one after another."""


def measure(
    request: MeasureRequest,
    store: ProfileStore,
    tools: Tools,
    reporter: MeasureReporter | None = None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> MeasureSummary:
    """Measure what is not in the store yet (all of it with `fresh`); each point is stored when it is done.

    A point that fails is stored with its cause and the sweep goes on. Raises ServerError only where no
    server starts at all, DeviceError where the device cannot be measured from the beginning, InputError
    where a model's inputs cannot be made up.
    """
    sweep = _Sweep(request, store, tools, reporter or MeasureReporter(), clock, now)
    sweep.run()
    return sweep.summary


class _Sweep:
    def __init__(
        self,
        request: MeasureRequest,
        store: ProfileStore,
        tools: Tools,
        reporter: MeasureReporter,
        clock: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._request = request
        self._store = store
        self._tools = tools
        self._reporter = reporter
        self._clock = clock
        self._now = now
        self._budget = Budget(request.budget_s, clock)
        self._without_percentile: set[str] = set()
        self._warned: set[str] = set()
        self.summary = MeasureSummary()

    def run(self) -> None:
        base_bytes = self._overhead(SERVER_ROW, partial(overheads.server_base_bytes, self._tools))
        # without the server's base its backends' overheads would come out too large, and replicas too small
        backend_bytes = {} if base_bytes is None else self._backend_overheads(base_bytes)
        plan = _in_turn([[(model, c) for c in configurations(self._request, model)] for model in self._request.models])
        for number, (model, configuration) in enumerate(plan, start=1):
            self._reporter.configuration(model.name, configuration, number, len(plan))
            paid_once_bytes = (base_bytes or 0) + backend_bytes.get(model.backend, 0)
            try:
                with ConfigurationRun(self._request, self._tools, model, configuration, paid_once_bytes) as run:
                    self._configuration(run)
            except BudgetEnded:
                # the next ones may be in the store already, so the sweep still looks at them
                self.summary.left_out.append(f"{model.name} ({configuration})")
            except ConfigurationGivenUp:
                continue  # the causes are in the summary
        self.summary.seconds = self._budget.elapsed_s()

    def _backend_overheads(self, base_bytes: int) -> dict[str, int]:
        found = {}
        for backend, models in overheads.models_to_pair(self._request.models).items():
            name = overheads.backend_row_name(backend)
            try:
                measured = partial(
                    overheads.backend_overhead_bytes, self._tools, models, base_bytes, self._touch, self._not_paired
                )
                found[backend] = self._overhead(name, measured) or 0
            except POINT_FAILURES as error:
                self._note(f"overhead of backend {backend} stays within its models: {error.message}")
        return found

    def _touch(self, server: Server, model: ModelFacts) -> None:
        if server.pid is not None:
            shapes, file = self._request.shapes.get(model.name, {}), self._request.input_files.get(model.name)
            path = None if file is None else file.path
            spec = LoadSpec(model.name, LoadMode.CLOSED, 1.0, concurrency=1, shapes=shapes, input_file=path)
            check_answer(server, spec, self._tools.load_deadline_s)

    def _not_paired(self, model: ModelFacts, error: PlannerError) -> None:
        self._note(f"{model.name} is left out where the overhead of its backend is measured: {error.message}")

    def _overhead(self, name: str, measured: Callable[[], int | None]) -> int | None:
        """The bytes of a row that is paid once per server: from the store, else measured and stored.

        None: the device did not tell; then no row takes it off, which is safe. Never measured anew beside
        rows that it was taken off: those would then be short of it.
        """
        key = overhead_key(self._request, name)
        stored = self._store.get(key)
        if stored is not None and stored.failure is None and stored.row.memory_bytes is not None:
            return stored.row.memory_bytes
        memory_bytes = measured()
        if memory_bytes is None:
            self._note(f"the memory of {name} is unknown, it stays within the models: the device did not tell it")
            return None
        row = ProfileRow(model=name, device=self._request.device, memory_bytes=memory_bytes)
        environment = self._request.environment
        self._store.add([Measurement(key=key, row=row, environment=environment, measured_at=self._time())])
        return memory_bytes

    def _configuration(self, run: ConfigurationRun) -> None:
        capacity_rps = self._closed_loop(run)
        if capacity_rps > 0:
            for point in open_points(self._request, run.model.name, capacity_rps):
                self._point(run, point)

    def _closed_loop(self, run: ConfigurationRun) -> float:
        """The largest rate over growing concurrency, as long as more of it pays; 0 where nothing worked."""
        points = closed_points(self._request, run.configuration)
        largest = points[-1].concurrency or 1
        doublings = 0 if self._request.concurrency is not None else _DOUBLINGS_MAX
        points += [closed_point(largest << doubling) for doubling in range(1, doublings + 1)]
        best_rps = 0.0
        for point in points:
            rate_rps = self._closed_rate(run, point, best_rps)
            pays, best_rps = rate_rps > _GROWTH_WORTH_MORE * best_rps, max(best_rps, rate_rps)
            if not pays and (point.concurrency or 1) >= largest:
                break
        return best_rps

    def _closed_rate(self, run: ConfigurationRun, point: LoadPoint, best_rps: float) -> float:
        row = self._point(run, point, best_rps)
        return 0.0 if row is None else row.rate_rps or 0.0

    def _point(self, run: ConfigurationRun, point: LoadPoint, best_rps: float = 0.0) -> ProfileRow | None:
        """The point's row, measured or from the store; None where it failed."""
        key = point_key(self._request, run.model, run.configuration, point)
        stored = None if self._request.fresh else self._store.get(key)
        if stored is not None and stored.failure is None:
            self.summary.reused += 1
            return stored.row
        if not self._budget.has_room(self._request.min_window_s):
            raise BudgetEnded
        begin = self._clock()
        try:
            run.start()
            seconds = self._window_s(run, point)
            self._reporter.point(run.model.name, point, seconds)
            window = run.window(point, seconds)
        except POINT_FAILURES as error:
            self._failed(run, key, point, error)
            return None
        self._budget.spent(seconds, self._clock() - begin)
        return self._finished(run, run.measurement(key, window, self._time()), best_rps)

    def _finished(self, run: ConfigurationRun, measurement: Measurement, best_rps: float) -> ProfileRow:
        row = measurement.row
        if row.load is LoadMode.CLOSED and (row.rate_rps or 0.0) < best_rps / _GROWTH_WORTH_MORE:
            # past the knee: a lower rate at more load
            row = replace(row, stable=False)
            measurement = replace(measurement, row=row)
        self._store.add([measurement])
        self.summary.measured += 1
        label = _label(run, str(measurement.statistics["point"]))
        if measurement.statistics["client_bound"]:
            effect = "the server can do more" if row.load is LoadMode.CLOSED else "latencies come out too long"
            self._note(f"{label}: the load generator was too slow, {effect}")
        for warning in cast(list[str], measurement.statistics["warnings"]):
            if warning not in self._warned:
                self._warned.add(warning)
                self._note(f"{label}: {warning}")
        self._note_once(run.model.name, measurement.statistics["load_generator_note"])
        if (unknown := measurement.statistics.get("unknown")) is not None:
            self._note_once(run.model.name, f"Triton's statistics are unknown: {unknown}")
        self._reporter.measured(measurement)
        return row

    def _failed(self, run: ConfigurationRun, key: str, point: LoadPoint, error: PlannerError) -> None:
        cause = f"{error.message}\n{error.log_tail}" if error.log_tail else error.message
        measurement = run.failure(key, point, cause, self._time())
        self._store.add([measurement])
        self.summary.failed.append(f"{_label(run, point.name)}: {error.message}")
        self._reporter.measured(measurement)
        never_started = not run.is_running
        run.failures += 1
        run.stop()
        if never_started or run.failures >= _FAILURES_PER_CONFIGURATION:
            raise ConfigurationGivenUp from error

    def _window_s(self, run: ConfigurationRun, point: LoadPoint) -> float:
        """As long as the percentile needs, within the request's limits; BudgetEnded where that does not fit."""
        request = self._request
        if point.rate_rps is not None:
            percent = request.percentiles.get(run.model.name, 99)
            needed = samples_needed(percent)
            # three standard deviations more, or every second Poisson window would have too few
            wanted_s, most_s = (needed + 3 * math.sqrt(needed)) / point.rate_rps, request.max_window_s
            if needed / point.rate_rps > most_s and run.model.name not in self._without_percentile:
                self._without_percentile.add(run.model.name)
                self._note(
                    f"{run.model.name}: no p{percent:g} at {point.rate_rps:.3g} req/s: it needs {needed:,} requests, "
                    f"windows end at {most_s:g} s (window.max_seconds; a p95 needs {samples_needed(95):,})"
                )
        else:
            wanted_s, most_s = _CLOSED_SAMPLES / run.expected_rps, min(_CLOSED_WINDOW_MAX_S, request.max_window_s)
        wanted_s = max(request.min_window_s, min(most_s, wanted_s))
        if not self._budget.has_room(wanted_s):
            raise BudgetEnded
        return wanted_s

    def _note_once(self, model: str, text: object) -> None:
        note = f"{model}: {text}"
        if text is not None and note not in self.summary.notes:
            self._note(note)

    def _note(self, text: str) -> None:
        self.summary.notes.append(text)
        self._reporter.note(text)

    def _time(self) -> str:
        return self._now().isoformat(timespec="seconds")


def _label(run: ConfigurationRun, point_name: str) -> str:
    return f"{run.model.name} ({run.configuration}), {point_name}"


def _in_turn(
    per_model: list[list[tuple[ModelFacts, Configuration]]],
) -> list[tuple[ModelFacts, Configuration]]:
    """First every model's first configuration, then every second: what a budget cuts off, it cuts off all."""
    return [entry for turn in zip_longest(*per_model) for entry in turn if entry is not None]
