"""The kernel's count of out-of-memory kills, from a file as the kernel writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest

from planner.domain.serving import Endpoint, LoadMode, LoadResult, LoadSpec, Server
from planner.errors import ServerError
from profiler.load import strict
from profiler.server.kernel_kills import KernelKills


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (2, ""),
        (3, "; meanwhile the kernel killed 1 process of this machine for lack of memory"),
        (5, "; meanwhile the kernel killed 3 processes of this machine for lack of memory"),
    ],
)
def test_kills_since_the_beginning_are_told(tmp_path: Path, after: int, words: str) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("nr_free_pages 1\noom_kill 2\nnuma_hit 7\n")
    kills = KernelKills(counters)
    counters.write_text(f"nr_free_pages 9\noom_kill {after}\nnuma_hit 8\n")
    assert kills.words() == words


def test_a_kernel_that_does_not_count_tells_nothing(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 1\n")
    assert KernelKills(tmp_path / "vmstat").words() == ""
    assert KernelKills(tmp_path / "nowhere").words() == ""


class SimulatedServer:
    """Of another machine: nobody looks at its processes."""

    endpoint, pid = Endpoint("simulated", 1, 2, 3), None

    def load(self, model: str, *, timeout_s: float = 120.0) -> None:
        """It is loaded."""

    def statistics(self, model: str) -> Mapping[str, object]:
        return {}

    def raise_if_ended(self) -> None:
        """It lives."""

    def log_tail(self, lines: int = 20) -> str:
        return ""

    def close(self) -> None:
        """It stays."""


def test_a_kill_after_a_window_is_told_by_the_next_one_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counters = tmp_path / "vmstat"
    counters.write_text("oom_kill 2\n")
    monkeypatch.setattr(strict, "KernelKills", partial(KernelKills, counters))

    class Generator:
        name = "simulated"
        failed = 0

        def run(self, server: Server, specs: Sequence[LoadSpec]) -> list[LoadResult]:
            return [
                LoadResult(
                    model=spec.model, seconds=1.0, sent_s=(), latency_s=(), offered=3, failed=self.failed,
                    first_error="no answer" if self.failed else None, client_busy=0.0, client_bound=False,
                )
                for spec in specs
            ]  # fmt: skip

    generator, server = Generator(), SimulatedServer()
    judged = strict.StrictLoadGenerator(generator, deadline_s=1.0)
    specs = [LoadSpec("m", LoadMode.CLOSED, 1.0, concurrency=1)]
    judged.run(server, specs)
    counters.write_text("oom_kill 3\n")
    generator.failed = 3
    with pytest.raises(ServerError, match="the kernel killed 1 process of this machine for lack of memory"):
        judged.run(server, specs)
    with pytest.raises(ServerError) as later:
        judged.run(SimulatedServer(), specs)
    assert "the kernel" not in later.value.message, "a server that started after it"
