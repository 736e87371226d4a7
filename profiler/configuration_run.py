"""One configuration of one model on a fresh server of its own: started when its first point needs it."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType
from typing import Self

from planner.domain.profile import Measurement, ProfileRow
from planner.domain.serving import LoadMode, LoadSpec, Sequences, Server
from planner.errors import LoadError, ServerError, TritonExited
from profiler.points import Configuration, LoadPoint, MeasureRequest, ModelFacts
from profiler.repeated import Repeated
from profiler.running import RunningModels, Tools
from profiler.window import Reading, Window

_WARMUP_S = {LoadMode.CLOSED: 0.5, LoadMode.OPEN: 1.0}
_HOT_S = 1.5


class ConfigurationRun:
    """Measures load points of one configuration; `paid_once_bytes` is the memory of server and backend.

    `expected_rps` is a first guess of its capacity, from the warm-up (0 before the first start).
    """

    def __init__(
        self,
        request: MeasureRequest,
        tools: Tools,
        model: ModelFacts,
        configuration: Configuration,
        paid_once_bytes: int,
    ) -> None:
        self._request = request
        self._tools = tools
        self._paid_once_bytes = paid_once_bytes
        self._running: RunningModels | None = None
        self._cold_bytes: int | None = None
        self.model = model
        self.configuration = configuration
        self.expected_rps = 0.0
        self.failures = 0

    @property
    def is_running(self) -> bool:
        return self._running is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> RunningModels:
        """The server with the model loaded and warm, on the first call started and warmed up."""
        if self._running is None:
            running = RunningModels(self._tools, {self.model: self.configuration})
            try:
                self._cold_bytes = running.memory_bytes()
                self._warm_up(running.server)
            except BaseException:
                running.close()
                raise
            self._running = running
        return self._running

    def stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def _warm_up(self, server: Server) -> None:
        """The largest batch on every instance: what the model needs when it is hot."""
        batch, concurrency = max(1, self.configuration.max_batch_size), 2 * self.configuration.instances
        file = self._request.input_files.get(self.model.name)
        if self.model.is_stateful or (file is not None and not file.is_uniform):
            batch, concurrency = 1, concurrency * batch  # requests carry one inference, the server may batch them
        spec = self._spec(LoadMode.CLOSED, _HOT_S, concurrency=concurrency)
        [result] = self._tools.load_generator.run(server, [replace(spec, request_batch_size=batch, warmup_seconds=0)])
        inferences = result.answered * batch
        self.expected_rps = max(1, inferences) / result.seconds / self.configuration.request_batch_size

    def _spec(
        self, mode: LoadMode, seconds: float, *, concurrency: int | None = None, rate_rps: float | None = None
    ) -> LoadSpec:
        file = self._request.input_files.get(self.model.name)
        return LoadSpec(
            model=self.model.name,
            mode=mode,
            seconds=seconds,
            concurrency=concurrency,
            rate_rps=rate_rps,
            request_batch_size=self.configuration.request_batch_size,
            warmup_seconds=_WARMUP_S[mode],
            seed=self._request.seed,
            shapes=self._request.shapes.get(self.model.name, {}),
            input_file=None if file is None else file.path,
            sequences=self._request.sequences.get(self.model.name, Sequences()),
        )

    def window(self, point: LoadPoint, seconds: float, number: int = 0) -> Window:
        """Put the load on the server, for a counted window of `seconds`; its `number` gives it arrivals of its own."""
        running = self.start()
        load = self._tools.load_generator
        before = self._statistics(running.server)
        spec = self._spec(point.mode, seconds, concurrency=point.concurrency, rate_rps=point.rate_rps)
        spec = replace(spec, seed=self._request.seed + number)
        try:
            [result] = load.run(running.server, [spec])
        except (ServerError, LoadError):
            running.sampler.check()  # a lost device explains more than the server's or the generator's words about it
            raise
        running.sampler.check()
        after = self._statistics(running.server)
        times = result.window
        usage = running.sampler.busiest(seconds) if times is None else running.sampler.window(*times)
        own = self.model.name
        members = {name: (before[name], after[name]) for name in before if name != own}
        return Window(point, result, usage, running.peak_bytes(), before[own], after[own], members)

    def _statistics(self, server: Server) -> dict[str, Reading]:
        names = [self.model.name, *(member.name for member in self.model.members)]
        return {name: _statistics(server, name) for name in names}

    def measurement(self, key: str, repeated: Repeated, measured_at: str) -> Measurement:
        window = repeated.together
        return Measurement(
            key=key,
            row=window.fill(
                self._row(window.point), paid_once_bytes=self._paid_once_bytes, cold_bytes=self._cold_bytes
            ),
            samples=window.samples(),
            statistics={**window.statistics, **repeated.remarks()},
            environment=self._request.environment,
            measured_at=measured_at,
        )

    def failure(self, key: str, point: LoadPoint, cause: str, measured_at: str) -> Measurement:
        return Measurement(
            key=key,
            row=self._row(point),
            environment=self._request.environment,
            failure=cause,
            measured_at=measured_at,
        )

    def _row(self, point: LoadPoint) -> ProfileRow:
        return ProfileRow(
            model=self.model.name,
            device=self._request.device,
            backend=self.model.backend,
            instances=self.configuration.instances,
            max_batch_size=self.configuration.max_batch_size,
            queue_delay_us=self.configuration.queue_delay_us,
            load=point.mode,
            request_batch_size=self.configuration.request_batch_size,
            concurrency=point.concurrency,
            offered_rps=point.rate_rps,
            stable=False,
            load_generator=self._tools.load_generator.name,
            model_digest=self.model.digest,
            variant=self.model.variant(self.configuration),
            requests=self._request.requests_of(self.model),
        )


def _statistics(server: Server, model: str) -> Reading:
    """Triton's, or why they are unknown: a reading that fails must not cost the window that it stands beside."""
    try:
        return server.statistics(model)
    except TritonExited:
        raise
    except ServerError as error:
        return error
