"""A fresh server with models loaded and its memory watched, and what a sweep needs to start one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from planner.domain.serving import LoadGenerator, Server
from profiler.devices.base import Device, Sampler
from profiler.points import Configuration, ModelFacts


class WriteRepository(Protocol):
    def __call__(self, model: ModelFacts, configuration: Configuration, target: Path, /) -> None:
        """Put the model with this configuration into the model repository `target`.

        ModelError where its files are not what they were.
        """


@dataclass(frozen=True, slots=True)
class Tools:
    """What a sweep works with. `start_server` gives a fresh server over a model repository, nothing loaded.

    A model that is not loaded after `load_deadline_s` counts as hung.
    """

    start_server: Callable[[Path], Server]
    load_generator: LoadGenerator
    write_repository: WriteRepository
    device: Device
    load_deadline_s: float = 120.0


@contextmanager
def watched_server(tools: Tools, repository: Path) -> Iterator[tuple[Server, Sampler]]:
    """A fresh server over a model repository, and an eye on what it takes of the device."""
    tools.device.prepare()
    server = tools.start_server(repository)
    try:
        with tools.device.sampler(server) as sampler:
            yield server, sampler
    finally:
        server.close()


class RunningModels:
    """A fresh server with models loaded, its memory sampled from the start; a context manager."""

    def __init__(self, tools: Tools, models: Mapping[ModelFacts, Configuration]) -> None:
        self._stack = ExitStack()
        try:
            repository = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="planner-measure-")))
            for model, configuration in models.items():
                tools.write_repository(model, configuration, repository)
            self.server, self.sampler = self._stack.enter_context(watched_server(tools, repository))
            for model in models:
                self.server.load(model.name, timeout_s=tools.load_deadline_s)
        except BaseException:
            self._stack.close()
            raise

    def memory_bytes(self) -> int | None:
        """The server's memory now."""
        return self.sampler.window(start=self.sampler.sample()).peak_bytes

    def peak_bytes(self) -> int | None:
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
