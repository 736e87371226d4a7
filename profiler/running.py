"""A fresh server with models loaded and its memory watched, and what a sweep needs to start one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from planner.domain.serving import LoadGenerator, Server
from planner.errors import InputError
from profiler.devices.cpu import ProcessTreeSampler
from profiler.points import Configuration, MeasureRequest, ModelFacts


class WriteRepository(Protocol):
    def __call__(self, model: ModelFacts, configuration: Configuration, target: Path, /) -> None:
        """Put the model with this configuration into the model repository `target`."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What a sweep works with. `start_server` gives a fresh server over a model repository, nothing loaded."""

    start_server: Callable[[Path], Server]
    load_generator: LoadGenerator
    write_repository: WriteRepository


def sampler_of(server: Server, request: MeasureRequest) -> ProcessTreeSampler:
    if server.pid is None:
        raise InputError("a CPU device is measured with a server on this machine, not a remote one")
    return ProcessTreeSampler(server.pid, request.cores, own_cores=set(request.sampler_cores) or None)


class RunningModels:
    """A fresh server with models loaded, its memory sampled from the start; a context manager."""

    def __init__(self, request: MeasureRequest, tools: Tools, models: Mapping[ModelFacts, Configuration]) -> None:
        self._stack = ExitStack()
        try:
            repository = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="planner-measure-")))
            for model, configuration in models.items():
                tools.write_repository(model, configuration, repository)
            self.server = tools.start_server(repository)
            self._stack.callback(self.server.close)
            self.sampler = self._stack.enter_context(sampler_of(self.server, request))
            for model in models:
                self.server.load(model.name)
        except BaseException:
            self._stack.close()
            raise

    def memory_bytes(self) -> int:
        """The tree's memory now."""
        return self.sampler.window(start=self.sampler.sample()).peak_bytes

    def peak_bytes(self) -> int:
        self.sampler.sample()
        return self.sampler.window().peak_bytes

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
