"""The kernel's count of out-of-memory kills, from a file as the kernel writes it."""

from __future__ import annotations

from pathlib import Path

import pytest

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
