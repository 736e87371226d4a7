"""Where tritonserver is on this machine, and how to get one where there is none.

The PyPI wheel nvidia-pytriton carries the real server with its Python backend. It is unpacked into a
private cache and never installed: its pins would break the environment (they drag protobuf down).

One of the pins is no whim: the stub was built for the memory layout of NumPy 1. With NumPy 2 it says
nothing, reads every input as copies of its first element, and returns outputs of zero bytes. So its models
get a NumPy 1 of their own, before the environment's; everything else they import from the environment.
(The stub ignores PYTHONPATH; the first place where it looks is its working directory.)
"""

from __future__ import annotations

import ctypes.util
import hashlib
import os
import shutil
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from planner.errors import InputError, SetupError
from profiler.cache import cache_directory, move_into_place, pip_unpack

WHEEL_NAME = "nvidia-pytriton"
WHEEL_VERSION = "0.7.0"
NUMPY_VERSION = "1.26.4"
NUMPY_PROOF = Path("numpy", "__init__.py")
BINARY_IN_WHEEL = Path("pytriton", "tritonserver", "bin", "tritonserver")
CONTAINER_BINARY = Path("/opt/tritonserver/bin/tritonserver")
INSTALL_HINT = "`planner doctor --install-triton` unpacks one, or name yours with --triton-server or $TRITON_SERVER"
STUB_NAME = "triton_python_backend_stub"
PYTHON_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True, slots=True)
class TritonInstallation:
    """A tritonserver and what it needs around it.

    `backend_directory` is None where the server's built-in default is right. `library_path` comes before
    the caller's LD_LIBRARY_PATH. `working_directory` is where the server has to
    be started (None: anywhere). `origin` says in words where the server was found.
    """

    binary: Path
    backend_directory: Path | None
    library_path: tuple[Path, ...]
    origin: str
    working_directory: Path | None = None


def find_triton(explicit: Path | None = None) -> TritonInstallation:
    """The first tritonserver in the documented order; SetupError with a hint where there is none."""
    if explicit is not None:
        return _describe(_must_be_executable(explicit, "--triton-server"), "the option --triton-server")
    if named := os.environ.get("TRITON_SERVER"):
        return _describe(_must_be_executable(Path(named), "$TRITON_SERVER"), "$TRITON_SERVER")
    if _is_executable(CONTAINER_BINARY):
        return _describe(CONTAINER_BINARY, "the Triton container")
    if on_path := shutil.which("tritonserver"):
        return _describe(Path(on_path).absolute(), "PATH")
    unpacked = _wheel_binary(_wheel_directory())
    if _is_executable(unpacked):
        return _describe(unpacked, f"the wheel {WHEEL_NAME} {WHEEL_VERSION} in Planner's cache")
    raise SetupError("no tritonserver was found on this machine", hint=INSTALL_HINT)


def install_wheel() -> TritonInstallation:
    """Unpack the server's wheel into the cache; returns at once where that was done before.

    Two processes may do it at the same time: each unpacks into a directory of its own, and the first
    rename wins.
    """
    target = _wheel_directory()
    _unpack(f"{WHEEL_NAME}=={WHEEL_VERSION}", target, BINARY_IN_WHEEL)
    _wheel_binary(target).chmod(0o755)
    if not _environment_has_numpy_1():
        _unpack(f"numpy=={NUMPY_VERSION}", _numpy_directory(), NUMPY_PROOF)
    return _describe(_wheel_binary(target), f"the wheel {WHEEL_NAME} {WHEEL_VERSION} in Planner's cache")


def python_library_directory() -> Path | None:
    """The directory of the running Python's shared library, which the backend's stub is linked against."""
    name = f"libpython{PYTHON_VERSION}.so.1.0"
    candidates = [sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"]
    if (multiarch := sysconfig.get_config_var("MULTIARCH")) is not None:
        candidates.append(f"/usr/lib/{multiarch}")
    for directory in candidates:
        if directory and (Path(directory) / name).is_file():
            return Path(directory)
    return None


def python_library_is_known_to_the_loader() -> bool:
    return ctypes.util.find_library(f"python{PYTHON_VERSION}") is not None


def _describe(binary: Path, origin: str) -> TritonInstallation:
    root = binary.resolve().parent.parent
    python_library = python_library_directory()
    own_libraries = () if python_library is None else (python_library,)
    if (root / "python_backend_stubs").is_dir():
        wheel_libraries = root.parent.parent / "nvidia_pytriton.libs"
        libraries = (wheel_libraries, *own_libraries)
        return TritonInstallation(binary, _wheel_backends(root), libraries, origin, _numpy_1_directory())
    backends = root / "backends"
    return TritonInstallation(binary, backends if backends.is_dir() else None, own_libraries, origin)


def _wheel_backends(root: Path) -> Path:
    """The wheel's Python backend together with the stub of the running Python, made on first use.

    It is a copy in the cache, one per Python version, because the stub must lie beside the backend's library
    and executable, and the wheel may be someone else's.
    """
    source = root / "python_backend_stubs" / PYTHON_VERSION / STUB_NAME
    if not source.is_file():
        raise SetupError(
            f"Triton at {root} has no Python backend stub for Python {PYTHON_VERSION}",
            hint="run Planner with one of: "
            + ", ".join(sorted(path.name for path in (root / "python_backend_stubs").iterdir())),
        )
    identity = f"{root} {source.stat().st_size} {source.stat().st_mtime_ns}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:12]
    target = cache_directory() / "backends" / f"python-{PYTHON_VERSION}-{key}"
    if not (target / "python" / STUB_NAME).is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="prepare-") as scratch:
            prepared = Path(scratch) / "backends"
            shutil.copytree(
                root / "backends" / "python",
                prepared / "python",
                ignore=shutil.ignore_patterns("__pycache__"),
            )
            stub = Path(shutil.copy2(source, prepared / "python" / STUB_NAME))
            stub.chmod(0o755)
            move_into_place(prepared, target, Path("python", STUB_NAME))
    return target


def _numpy_1_directory() -> Path | None:
    """Where the wheel's models find their NumPy 1; None where the environment's own is one."""
    if _environment_has_numpy_1():
        return None
    if not (_numpy_directory() / NUMPY_PROOF).is_file():
        raise SetupError(
            f"the Python backend of {WHEEL_NAME} {WHEEL_VERSION} needs NumPy 1, and this environment has another",
            hint=f"`planner doctor --install-triton` unpacks NumPy {NUMPY_VERSION} for it",
        )
    return _numpy_directory()


def _environment_has_numpy_1() -> bool:
    try:
        return metadata.version("numpy").startswith("1.")
    except metadata.PackageNotFoundError:
        return False


def _unpack(requirement: str, target: Path, proof: Path) -> None:
    """Have the wheel of a requirement in a directory of the cache; `proof` is a file that it must hold."""
    if (target / proof).is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="unpack-") as scratch:
        unpacked = Path(scratch) / "wheel"
        pip_unpack(requirement, unpacked)
        if not (unpacked / proof).is_file():
            raise SetupError(f"{requirement} from pip's index holds no {proof}: it is not the wheel that was tried")
        move_into_place(unpacked, target, proof)


def _wheel_directory() -> Path:
    return cache_directory() / f"{WHEEL_NAME}-{WHEEL_VERSION}"


def _numpy_directory() -> Path:
    return cache_directory() / f"numpy-{NUMPY_VERSION}-python-{PYTHON_VERSION}"


def _wheel_binary(directory: Path) -> Path:
    return directory / BINARY_IN_WHEEL


def _is_executable(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _must_be_executable(path: Path, named_by: str) -> Path:
    path = path.expanduser().absolute()
    if not _is_executable(path):
        raise InputError(f"{named_by}: {path} is not an executable file", hint="name the tritonserver binary itself")
    return path
