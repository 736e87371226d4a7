"""Setting perf_analyzer up in a cache of its own, as `planner doctor --install-perf-analyzer` does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from planner.errors import InputError, SetupError
from profiler.load import debian_libraries, perf_analyzer_binary
from profiler.load.perf_analyzer_binary import (
    BINARY_IN_WHEEL,
    WHEEL_VERSION,
    PerfAnalyzerBinary,
    find_perf_analyzer,
    install_perf_analyzer,
)
from profiler.server.doctor import checks

APT_LISTS = Path("/var/lib/apt/lists")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose only perf_analyzer is the one in a new cache."""
    monkeypatch.setenv("PLANNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("PERF_ANALYZER", raising=False)
    monkeypatch.setattr(perf_analyzer_binary.shutil, "which", lambda _: None)
    monkeypatch.setattr(perf_analyzer_binary.importlib.util, "find_spec", lambda _: None)
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """pip and apt-get reach nothing: a proxy where nobody listens, and no local wheels."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")


def say_version(binary: Path) -> str:
    binary.parent.mkdir(parents=True, exist_ok=True)
    binary.write_text('#!/bin/sh\necho "Perf Analyzer Version 1.2.3 (commit abc)"\n')
    binary.chmod(0o755)
    return str(binary)


def test_it_is_set_up_once_repaired_and_nothing_else_is_touched(
    perf_analyzer: PerfAnalyzerBinary, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SetupError, match="perf_analyzer is not on this machine") as caught:
        find_perf_analyzer()
    assert "planner doctor --install-perf-analyzer" in str(caught.value.hint)
    lists = {path.name for path in APT_LISTS.glob("*")}

    monkeypatch.undo()
    environment = os.environ | {"PLANNER_CACHE": str(empty_cache)}
    command = [sys.executable, "-m", "planner.cli", "doctor", "--install-perf-analyzer", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert f"installed: perf_analyzer {WHEEL_VERSION}, {empty_cache}" in done.stderr
    [found] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "perf_analyzer"]
    assert found["ok"], found
    assert lists == {path.name for path in APT_LISTS.glob("*")}
    assert [path.name for path in empty_cache.iterdir() if path.name.startswith("unpack-")] == []

    monkeypatch.setenv("PLANNER_CACHE", str(empty_cache))
    place = empty_cache / f"perf-analyzer-{WHEEL_VERSION}"
    first = place.stat().st_ino
    installed = install_perf_analyzer()
    assert (installed.version, place.stat().st_ino) == (WHEEL_VERSION, first)
    (place / BINARY_IN_WHEEL).write_bytes((place / BINARY_IN_WHEEL).read_bytes()[:1_000_000])
    repaired = install_perf_analyzer()
    assert repaired == installed
    assert place.stat().st_ino != first
    assert (place / BINARY_IN_WHEEL).stat().st_size > 10_000_000


def test_without_a_network_it_says_so_and_leaves_nothing(empty_cache: Path, offline: None) -> None:
    with pytest.raises(SetupError, match="pip could not unpack perf-analyzer") as caught:
        install_perf_analyzer()
    assert "is there a network?" in str(caught.value.hint)
    assert list(empty_cache.iterdir()) == []


def test_without_debian_s_mirror_it_says_so(tmp_path: Path, offline: None) -> None:
    if "debian" not in Path("/etc/os-release").read_text():
        pytest.skip("the libraries are set up on Debian only")
    with pytest.raises(SetupError, match="could not get Debian's trixie libraries"):
        debian_libraries.unpack_libraries(tmp_path / "libraries", tmp_path / "apt")


def test_on_another_old_system_it_says_what_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_libraries.platform, "freedesktop_os_release", lambda: {"ID": "fedora"})
    with pytest.raises(SetupError, match="only on Debian") as caught:
        debian_libraries.unpack_libraries(tmp_path / "libraries", tmp_path / "apt")
    assert "built-in load generator" in str(caught.value.hint)


def test_one_that_needs_a_newer_c_library_is_told(empty_cache: Path) -> None:
    binary = empty_cache / f"perf-analyzer-{WHEEL_VERSION}" / BINARY_IN_WHEEL
    binary.parent.mkdir(parents=True)
    binary.write_text('#!/bin/sh\necho "perf: version \\`GLIBC_9.99\' not found (required by perf)" >&2\nexit 1\n')
    binary.chmod(0o755)
    with pytest.raises(SetupError, match=r"Planner's cache does not run: it needs glibc 9\.99, this machine has \d"):
        find_perf_analyzer()
    [found] = [check for check in checks(Path("nowhere")) if check.name == "perf_analyzer"]
    assert not found.ok
    assert "it needs glibc 9.99" in found.found
    assert "--install-perf-analyzer" in str(found.hint)


def test_one_that_is_named_is_taken_or_refused(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERF_ANALYZER", say_version(tmp_path / "mine"))
    found = find_perf_analyzer()
    assert (found.command, found.version) == ((str(tmp_path / "mine"),), "1.2.3 (commit abc)")
    monkeypatch.setenv("PERF_ANALYZER", str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"\$PERF_ANALYZER: .*gone does not run: No such file"):
        find_perf_analyzer()
