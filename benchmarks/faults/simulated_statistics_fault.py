"""`planner` whose Triton never tells its statistics: simulated, because a real one does not fail at this alone."""

from __future__ import annotations

from collections.abc import Mapping

from planner.cli import main
from planner.errors import TritonUnreachable
from profiler.server.client import ControlClient


def _no_answer(_client: ControlClient, model: str) -> Mapping[str, object]:
    raise TritonUnreachable(f"no statistics of {model!r} (simulated)")


ControlClient.statistics = _no_answer  # type: ignore[method-assign]
main()
