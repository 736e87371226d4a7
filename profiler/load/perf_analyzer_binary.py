"""Where perf_analyzer is on this machine, and how to get one that runs here.

Its wheel asks for glibc 2.38. On an older system the wheel lies in Planner's cache beside the C library of a
newer Debian, and is started through that library's own loader: nothing is installed, and nothing else on
the machine sees it.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from planner.errors import InputError, SetupError
from planner.files import explained
from profiler.cache import cache_directory, pip_unpack
from profiler.load.debian_libraries import loader_and_libraries, unpack_libraries

WHEEL_NAME = "perf-analyzer"
WHEEL_VERSION = "2.60.0"
WHEEL_GLIBC = (2, 38)
BINARY_IN_WHEEL = Path("perf_analyzer", "bin", "perf_analyzer")
INSTALL_HINT = "`planner doctor --install-perf-analyzer` sets one up in Planner's cache"
_LIBRARIES = "libraries"
_RUN_TIMEOUT_S = 20.0
_ELF = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class PerfAnalyzerBinary:
    """A perf_analyzer that runs here: `command` starts it, `origin` says in words where it was found."""

    command: tuple[str, ...]
    version: str
    origin: str


@dataclass(frozen=True, slots=True)
class _Candidate:
    command: tuple[str, ...]
    version: str | None
    origin: str


def find_perf_analyzer() -> PerfAnalyzerBinary:
    """The first that runs: $PERF_ANALYZER (which must), PATH, this environment, Planner's cache.

    SetupError where none does, with the reason of each that was found.
    """
    reasons = []
    for candidate in _candidates():
        said = _try(candidate.command)
        if said.version is not None:
            return PerfAnalyzerBinary(candidate.command, candidate.version or said.version, candidate.origin)
        if candidate.origin == "$PERF_ANALYZER":
            raise InputError(f"$PERF_ANALYZER: {candidate.command[0]} does not run: {said.reason}")
        reasons.append(f"the one from {candidate.origin} does not run: {said.reason}")
    raise SetupError("; ".join(reasons) or "perf_analyzer is not on this machine", hint=INSTALL_HINT)


def install_perf_analyzer() -> PerfAnalyzerBinary:
    """Have a perf_analyzer that runs in the cache; returns at once where there is one.

    It is put together in a folder of its own, tried, and only then moved to its place, so an installation
    that was cut off or damaged is made anew. SetupError where the network, or this system, does not allow it.
    """
    target = _cache_directory()
    if (installed := _running_in(target)) is not None:
        return installed
    with explained(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="unpack-") as scratch:
            fresh = Path(scratch) / "fresh"
            _assemble(fresh, Path(scratch) / "apt")
            tried = _try(_candidate_in(fresh).command)
            if tried.version is None:
                raise SetupError(f"{WHEEL_NAME} {WHEEL_VERSION} was unpacked but does not run: {tried.reason}")
            _put_in_place(fresh, target)
    installed = _running_in(target)
    if installed is None:
        raise SetupError(f"{target} was changed by somebody else while perf_analyzer was set up", hint="try again")
    return installed


def _candidates() -> Iterator[_Candidate]:
    if named := os.environ.get("PERF_ANALYZER"):
        yield _Candidate((str(Path(named).expanduser().absolute()),), None, "$PERF_ANALYZER")
    # pip's console script starts the binary as a child: the binary itself is found below.
    on_path = shutil.which("perf_analyzer")
    if on_path is not None and _is_elf(Path(on_path)):
        yield _Candidate((str(Path(on_path).absolute()),), None, "PATH")
    package = importlib.util.find_spec("perf_analyzer")
    for place in (package.submodule_search_locations or ()) if package is not None else ():
        binary = Path(place).parent / BINARY_IN_WHEEL
        if binary.is_file():
            yield _Candidate((str(binary),), _distribution_version(), "this Python environment")
    if _cache_directory().is_dir():
        yield _candidate_in(_cache_directory())


def _candidate_in(directory: Path) -> _Candidate:
    binary = str(directory / BINARY_IN_WHEEL)
    loader = loader_and_libraries(directory / _LIBRARIES)
    started = () if loader is None else (str(loader[0]), "--library-path", str(loader[1]))
    return _Candidate((*started, binary), WHEEL_VERSION, "Planner's cache")


def _running_in(directory: Path) -> PerfAnalyzerBinary | None:
    if not directory.is_dir():
        return None
    candidate = _candidate_in(directory)
    if _try(candidate.command).version is None:
        return None
    return PerfAnalyzerBinary(candidate.command, WHEEL_VERSION, candidate.origin)


def _assemble(fresh: Path, scratch: Path) -> None:
    wheel_platform = f"manylinux_{WHEEL_GLIBC[0]}_{WHEEL_GLIBC[1]}_{platform.machine()}"
    pip_unpack(f"{WHEEL_NAME}=={WHEEL_VERSION}", fresh, platform=wheel_platform)
    if not (fresh / BINARY_IN_WHEEL).is_file():
        raise SetupError(f"{WHEEL_NAME} {WHEEL_VERSION} from pip's index holds no {BINARY_IN_WHEEL}")
    (fresh / BINARY_IN_WHEEL).chmod(0o755)
    if _glibc() < WHEEL_GLIBC:
        unpack_libraries(fresh / _LIBRARIES, scratch)


def _put_in_place(fresh: Path, target: Path) -> None:
    """Where another process was first and its result runs, that one stays."""
    if target.exists() and _running_in(target) is None:
        target.rename(fresh.with_name("broken"))
    try:
        fresh.rename(target)
    except OSError:
        if _running_in(target) is None:
            raise


def _cache_directory() -> Path:
    return cache_directory() / f"{WHEEL_NAME}-{WHEEL_VERSION}"


@dataclass(frozen=True, slots=True)
class _Trial:
    version: str | None
    reason: str


def _try(command: tuple[str, ...]) -> _Trial:
    """What `--version` says, or why it cannot be asked."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=_RUN_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return _Trial(None, f"no answer within {_RUN_TIMEOUT_S:g} s")
    except OSError as error:
        return _Trial(None, error.strerror or str(error))
    said = re.search(r"Version (.+)", done.stdout + done.stderr)
    if done.returncode == 0 and said is not None:
        return _Trial(said[1].strip(), "")
    if wanted := re.search(r"version `GLIBC_([\d.]+)' not found", done.stderr):
        found = ".".join(map(str, _glibc()))
        return _Trial(None, f"it needs glibc {wanted[1]}, this machine has {found}")
    last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
    return _Trial(None, last[0] if last else f"exit code {done.returncode}")


def _glibc() -> tuple[int, ...]:
    name, version = platform.libc_ver()
    if name != "glibc":
        raise SetupError("perf_analyzer is built for glibc, and this system has another C library")
    return tuple(int(part) for part in version.split("."))


def _distribution_version() -> str | None:
    try:
        return metadata.version(WHEEL_NAME)
    except metadata.PackageNotFoundError:
        return None


def _is_elf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_ELF)) == _ELF
    except OSError:
        return False
