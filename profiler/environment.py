"""The machine and the versions that made a measurement."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path


def environment(*, server_version: str, server_cores: Sequence[int] | None = None) -> dict[str, object]:
    """What someone needs to doubt or repeat a measurement; no host name and no path of this machine."""
    return {
        "machine": platform.machine(),
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "server_cores": None if server_cores is None else list(server_cores),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "triton": server_version,
        "tritonclient": package_version("tritonclient"),
        "grpcio": package_version("grpcio"),
        "planner": package_version("planner"),
        "commit": _git_commit(Path(__file__)),
    }


def _cpu_model() -> str | None:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return None


def package_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit(source: Path) -> str | None:
    """The commit of the checkout this code runs from, "-dirty" with changes; None where it is installed."""
    if _git(source.parent, "ls-files", "--error-unmatch", source.name) is None:
        return None  # an environment inside somebody else's checkout is not that checkout's code
    return _git(source.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def _git(directory: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(directory), *arguments]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip() or None
