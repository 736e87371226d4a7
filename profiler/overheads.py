"""The memory that is paid once per server: of the server itself, and of each backend."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from planner.domain.profile import BACKEND_ROW_PREFIX
from planner.domain.serving import Server
from planner.errors import POINT_FAILURES, PlannerError
from profiler.points import Configuration, ModelFacts
from profiler.running import RunningModels, Tools, watched_server

_SETTLE_S = 1.0
_MODELS_PER_BACKEND = 4


def server_base_bytes(tools: Tools) -> int | None:
    """The memory of an idle server without models: the peak of its first second; None: unknown."""
    with tempfile.TemporaryDirectory(prefix="planner-measure-") as empty:
        with watched_server(tools, Path(empty)) as (_, sampler):
            time.sleep(_SETTLE_S)
        return sampler.window().peak_bytes


def backend_row_name(backend: str) -> str:
    return f"{BACKEND_ROW_PREFIX}{backend}"


def models_to_pair(models: Sequence[ModelFacts]) -> dict[str, list[ModelFacts]]:
    """Per backend with two or more models, those whose memory together tells the backend's overhead."""
    by_backend: dict[str, list[ModelFacts]] = {}
    for model in models:
        if model.members:
            continue  # an ensemble is no process's memory, but its members'
        by_backend.setdefault(model.backend, []).append(model)
    return {backend: found[:_MODELS_PER_BACKEND] for backend, found in by_backend.items() if len(found) > 1}


def backend_overhead_bytes(
    tools: Tools,
    models: Sequence[ModelFacts],
    base_bytes: int,
    touch: Callable[[Server, ModelFacts], None],
    failed: Callable[[ModelFacts, PlannerError], None],
) -> int | None:
    """used(A) + used(B) - used(A and B) - base, the smallest over neighbouring pairs, at least 0.

    What two models do not share belongs to each: the smallest is safe for all of them. `touch` sends a model one
    request: part of what is paid once, such as the pages of libraries, comes with the first, while what many leave
    behind is each model's own. None: unknown. A model that does not load or answer is told to `failed` and left
    out; its error is raised where fewer than two are left.
    """
    used: dict[ModelFacts, int | None] = {}
    for number, model in enumerate(models):
        try:
            used[model] = _used_bytes(tools, [model], touch)
        except POINT_FAILURES as error:
            if len(used) + len(models) - number - 1 < 2:
                raise
            failed(model, error)
    alone = list(used.values())
    together = [_used_bytes(tools, pair, touch) for pair in pairwise(used)]
    overheads = [
        a + b - both - base_bytes
        for (a, b), both in zip(pairwise(alone), together, strict=True)
        if a is not None and b is not None and both is not None
    ]
    return max(0, min(overheads)) if len(overheads) == len(together) else None


def _used_bytes(tools: Tools, models: Sequence[ModelFacts], touch: Callable[[Server, ModelFacts], None]) -> int | None:
    configurations = {model: Configuration(1, model.max_batch_size, model.queue_delay_us) for model in models}
    with RunningModels(tools, configurations) as running:
        for model in models:
            touch(running.server, model)
        return running.memory_bytes()
