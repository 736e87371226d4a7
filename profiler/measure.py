"""The sweep on one device: every model alone, every configuration on a fresh server, every load point once.

What is measured next is the search's to say (`profiler.search`); it is told the same of a point in the store as of
one just measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import cast

from planner.domain.profile import SERVER_ROW, Measurement, ProfileRow, ProfileStore
from planner.domain.serving import LoadMode, LoadSpec, Server
from planner.domain.statistics import samples_needed
from planner.domain.units import counted
from planner.errors import POINT_FAILURES, PlannerError
from profiler import overheads
from profiler.budget import Budget
from profiler.configuration_run import ConfigurationRun
from profiler.constraints import Constraints
from profiler.load.answers import check_answer
from profiler.points import (
    Configuration,
    LoadPoint,
    MeasureRequest,
    ModelFacts,
    closed_ladder,
    configurations,
    midway,
    open_points,
    overhead_key,
    point_key,
    saturating_points,
)
from profiler.progress import MeasureReporter, MeasureSummary
from profiler.repeated import Repeated
from profiler.running import Tools
from profiler.search import Exhaustive, Search
from profiler.seen import fitted_measurement, is_saturated, seen
from profiler.thrifty import Thrifty

_CLOSED_SAMPLES = 200
_CLOSED_WINDOW_MAX_S = 10.0
_GROWTH_WORTH_MORE = 1.05
_BISECTIONS = 2
_FAILURES_PER_CONFIGURATION = 2


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
        grids = {model: configurations(self._request, model) for model in self._request.models}
        total = sum(map(len, grids.values()))
        # what one request carries changes all figures: each size is a search of its own
        searches = {
            (model, size): self._search(model, [c for c in every if c.request_batch_size == size], size)
            for model, every in grids.items()
            for size in sorted({c.request_batch_size for c in every})
        }
        number = 0
        # in turn: first every model's first configuration, so that what a budget cuts off, it cuts off all
        while searches:
            for (model, size), search in list(searches.items()):
                configuration = search.next()
                if configuration is None:
                    self._finish(model, searches.pop((model, size)))
                    continue
                number += 1
                self._reporter.configuration(model.name, configuration, number, total)
                paid_once_bytes = (base_bytes or 0) + backend_bytes.get(model.backend, 0)
                self._configuration(search, model, configuration, paid_once_bytes)
        self.summary.seconds = self._budget.elapsed_s()

    def _search(self, model: ModelFacts, every: Sequence[Configuration], request_batch_size: int) -> Search:
        thrifty = self._request.search == "auto" and model.name not in self._request.manual
        return (Thrifty if thrifty else Exhaustive)(every, self._constraints(model), request_batch_size)

    def _constraints(self, model: ModelFacts) -> Constraints:
        return self._request.constraints.get(model.name, Constraints())

    def _finish(self, model: ModelFacts, search: Search) -> None:
        """Keep what need not be measured: marked as fitted, and never in the place of a measurement."""
        for fitted in search.fitted():
            measurement = fitted_measurement(self._request, model, fitted, self._time())
            stored = self._store.get(measurement.key)
            if stored is None or stored.failure is not None or stored.row.is_fitted:
                self._store.add([measurement])
                self.summary.fitted += 1
        self.summary.pruned += [f"{model.name} ({left.configuration}): {left.reason}" for left in search.pruned()]

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

    def _configuration(
        self, search: Search, model: ModelFacts, configuration: Configuration, paid_once_bytes: int
    ) -> None:
        closed: list[Measurement] = []
        try:
            with ConfigurationRun(self._request, self._tools, model, configuration, paid_once_bytes) as run:
                self._closed_loop(run, search, closed)
                found = seen(configuration, closed)
                search.record(found)
                if found.inferences_per_s is not None:
                    why_not = search.no_open_loop(found)
                    if why_not is None:
                        self._open_loop(run, search, max(m.row.rate_rps or 0.0 for m in closed))
                    else:
                        self.summary.pruned.append(f"{_label(run, 'open loop')}: {why_not}")
        except BudgetEnded:
            # the next ones may be in the store already, so the sweep still looks at them
            self.summary.left_out.append(f"{model.name} ({configuration})")
            search.left_out(configuration)
        except ConfigurationGivenUp:
            search.given_up(configuration)  # the causes are in the summary

    def _closed_loop(self, run: ConfigurationRun, search: Search, found: list[Measurement]) -> None:
        """Growing concurrency, as long as more of it pays; what worked is added to `found`.

        A thrifty search stops where Triton's own queue shows that every instance always has work.
        """
        points, more = closed_ladder(self._request, run.configuration)
        if search.is_thrifty:
            lone = [point for point in points if point.concurrency == 1 and search.asks_one_at_a_time]
            saturating = saturating_points(self._request, run.configuration)
            points, more = [*lone, saturating[0]], [*saturating[1:], *more]
        best_rps = 0.0
        for place, point in enumerate(dict.fromkeys([*points, *more]), start=1):
            measurement = self._point(run, point, best_rps)
            rate_rps = 0.0
            if measurement is not None:
                found.append(measurement)
                rate_rps = measurement.row.rate_rps or 0.0
            pays, best_rps = rate_rps > _GROWTH_WORTH_MORE * best_rps, max(best_rps, rate_rps)
            told = measurement is not None and search.is_thrifty and is_saturated(measurement)
            if place >= len(points) and (told or not pays):
                break

    def _open_loop(self, run: ConfigurationRun, search: Search, capacity_rps: float) -> None:
        """Growing rates, up to where the latency bound is missed. A thrifty search then looks for the rate that keeps
        it: between the last two, or below the first.
        """
        points = open_points(self._request, run.model.name, capacity_rps)
        if search.is_thrifty and self._constraints(run.model).latency_ms is None:
            # no plan looks for the rate that keeps a bound: every second one, from the highest, shows how latency grows
            points = points[::-2][::-1]
        kept: LoadPoint | None = None
        for place, point in enumerate(points, start=1):
            why = self._missed(run, search, point)
            if why is not None:
                rest = [_label(run, left.name) for left in points[place:]]
                self.summary.pruned.extend(f"{label}: {point.name} has {why}" for label in rest)
                if search.is_thrifty:
                    self._bisect(run, search, kept, point)
                break
            kept = point

    def _bisect(self, run: ConfigurationRun, search: Search, kept: LoadPoint | None, missed: LoadPoint) -> None:
        # lower rates need longer windows: below the first one, half of it has to do
        for _ in range(1 if kept is None else _BISECTIONS):
            middle = midway(kept, missed)
            if self._missed(run, search, middle) is None:
                kept = middle
            else:
                missed = middle

    def _missed(self, run: ConfigurationRun, search: Search, point: LoadPoint) -> str | None:
        """Why a higher rate need not be tried; None where it may do."""
        measurement = self._point(run, point)
        if measurement is None:
            return None
        why = self._constraints(run.model).on_latency(measurement.row)
        if why is None and search.is_thrifty and measurement.statistics.get("overloaded"):
            return "more than it can serve"
        return why

    def _point(self, run: ConfigurationRun, point: LoadPoint, best_rps: float = 0.0) -> Measurement | None:
        """The point, measured or from the store; None where it failed."""
        key = point_key(self._request, run.model, run.configuration, point)
        stored = None if self._request.fresh else self._store.get(key)
        if stored is not None and stored.failure is None and not stored.row.is_fitted:
            self.summary.reused += 1
            return stored
        if not self._budget.has_room(self._request.min_window_s):
            raise BudgetEnded
        begin = self._clock()
        try:
            run.start()
            seconds = self._window_s(run, point)
            self._reporter.point(run.model.name, point, seconds)
            repeated = self._windows(run, point, seconds)
        except POINT_FAILURES as error:
            self._failed(run, key, point, error)
            return None
        self._budget.spent(seconds * len(repeated.windows), self._clock() - begin)
        return self._finished(run, run.measurement(key, repeated, self._time()), best_rps)

    def _windows(self, run: ConfigurationRun, point: LoadPoint, seconds: float) -> Repeated:
        """Windows of the same load until they tell it closely enough, or the budget has no room for one more."""
        percent = self._request.percentiles.get(run.model.name, 99)
        repeated = Repeated((run.window(point, seconds),), percent, self._request.precision)
        while not repeated.is_enough and self._budget.has_room(seconds):
            more = run.window(point, seconds, len(repeated.windows))
            repeated = replace(repeated, windows=(*repeated.windows, more))
        return repeated

    def _finished(self, run: ConfigurationRun, measurement: Measurement, best_rps: float) -> Measurement:
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
            # what differs from point to point stands behind the colon, and in each record
            if (kind := warning.partition(":")[0]) not in self._warned:
                self._warned.add(kind)
                self._note(f"{label}: {warning}")
        self._note_once(run.model.name, measurement.statistics["load_generator_note"])
        if (unknown := measurement.statistics.get("unknown")) is not None:
            self._note_once(run.model.name, f"Triton's statistics are unknown: {unknown}")
        self._reporter.measured(measurement)
        return measurement

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
            too_few = needed / point.rate_rps > most_s * request.precision.max_windows
            if too_few and run.model.name not in self._without_percentile:
                self._without_percentile.add(run.model.name)
                self._note(
                    f"{run.model.name}: no p{percent:g} at {point.rate_rps:.3g} req/s: it needs {needed:,} requests, "
                    f"{counted(request.precision.max_windows, 'window')} of {most_s:g} s have fewer "
                    f"(window.max_seconds; a p95 needs {samples_needed(95):,})"
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
