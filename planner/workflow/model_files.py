"""Whether the files of models stay what they were when a sweep began: its points bear their digest."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from planner.errors import ModelError
from profiler.points import ModelFacts, model_files

Signature = frozenset[tuple[str, int, int]]


class ModelFiles:
    """Remembers size and time of change of every file that makes the models, and of the members of ensembles; contents
    would take too long to read again."""

    def __init__(self, models: Iterable[ModelFacts]) -> None:
        self._signatures = {one.name: _signature(one.path) for model in models for one in (model, *model.members)}

    def require_unchanged(self, model: ModelFacts) -> None:
        """ModelError where a file was changed, added or removed."""
        now, before = _signature(model.path), self._signatures[model.name]
        if now != before:
            names = sorted({name for name, *_ in now ^ before})
            raise ModelError(
                f"model {model.name!r} changed on disk since the sweep began: {', '.join(names[:3])}",
                hint="run the command again: it measures the model as it is now",
            )


def _signature(folder: Path) -> Signature:
    found = set()
    for path in model_files(folder):
        status = path.stat()
        found.add((path.relative_to(folder).as_posix(), status.st_size, status.st_mtime_ns))
    return frozenset(found)
