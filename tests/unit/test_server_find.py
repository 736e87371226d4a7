"""The order in which a tritonserver is looked for, and unpacking the wheel; with files made up here."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from planner.errors import InputError, SetupError
from profiler import cache
from profiler.server import find


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Triton and with an empty cache; the place for both."""
    monkeypatch.setenv("PLANNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TRITON_SERVER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(find.metadata, "version", lambda _: "2.4.6")
    monkeypatch.setattr(find, "CONTAINER_BINARY", tmp_path / "opt" / "tritonserver" / "bin" / "tritonserver")
    return tmp_path


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def unpack_fake_wheel(requirement: str, target: Path) -> None:
    """What pip makes of the real wheels: neither the server nor the stub is sure to be executable."""
    if requirement.startswith("numpy"):
        (target / "numpy").mkdir(parents=True)
        (target / "numpy" / "__init__.py").touch()
        return
    root = target / "pytriton" / "tritonserver"
    stub = root / "python_backend_stubs" / find.PYTHON_VERSION / find.STUB_NAME
    backend = root / "backends" / "python"
    utilities = backend / "triton_python_backend_utils.py"
    for path in (root / "bin" / "tritonserver", stub, backend / "libtriton_python.so", utilities):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
        path.chmod(0o644)
    (target / "nvidia_pytriton.libs").mkdir()


def test_nothing_found_says_how_to_get_one(bare_machine: Path) -> None:
    with pytest.raises(SetupError) as caught:
        find.find_triton()
    assert "planner doctor --install-triton" in str(caught.value.hint)


def test_the_documented_order(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Places are added from the last of the order to the first, and each new one wins."""
    unpack_fake_wheel("nvidia-pytriton", find._wheel_directory())
    unpack_fake_wheel("numpy", find._numpy_directory())
    executable(find._wheel_binary(find._wheel_directory()))
    assert "cache" in find.find_triton().origin
    on_path = executable(bare_machine / "bin" / "tritonserver")
    assert (find.find_triton().binary, find.find_triton().origin) == (on_path, "PATH")
    container = executable(bare_machine / "opt" / "tritonserver" / "bin" / "tritonserver")
    assert find.find_triton().binary == container
    named = executable(bare_machine / "named" / "bin" / "tritonserver")
    monkeypatch.setenv("TRITON_SERVER", str(named))
    assert find.find_triton().binary == named
    explicit = executable(bare_machine / "explicit" / "bin" / "tritonserver")
    assert find.find_triton(explicit).binary == explicit


def test_a_named_binary_that_is_not_there_is_an_error(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executable(bare_machine / "bin" / "tritonserver")
    with pytest.raises(InputError, match=r"--triton-server: .*/nowhere"):
        find.find_triton(Path("nowhere"))
    monkeypatch.setenv("TRITON_SERVER", str(bare_machine))
    with pytest.raises(InputError, match="TRITON_SERVER"):
        find.find_triton()


def test_backends_beside_the_binary_are_used(bare_machine: Path) -> None:
    binary = executable(bare_machine / "opt" / "tritonserver" / "bin" / "tritonserver")
    assert find.find_triton().backend_directory is None
    (binary.parent.parent / "backends").mkdir()
    assert find.find_triton().backend_directory == binary.parent.parent / "backends"


def test_the_wheel_is_unpacked_once_with_an_executable_stub(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def pip(requirement: str, target: Path) -> None:
        calls.append(requirement)
        unpack_fake_wheel(requirement, target)

    monkeypatch.setattr(find, "pip_unpack", pip)
    first = find.install_wheel()
    assert first == find.install_wheel()
    assert calls == ["nvidia-pytriton==0.7.0", "numpy==1.26.4"]
    assert first.backend_directory is not None
    assert os.access(first.binary, os.X_OK)
    assert os.access(first.backend_directory / "python" / find.STUB_NAME, os.X_OK)
    assert (first.backend_directory / "python" / "libtriton_python.so").is_file()
    assert first.library_path[0].name == "nvidia_pytriton.libs"


def test_two_processes_may_unpack_at_once(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are inside pip before either renames."""
    both_inside = threading.Barrier(2, timeout=10)

    def pip(requirement: str, target: Path) -> None:
        unpack_fake_wheel(requirement, target)
        both_inside.wait()

    monkeypatch.setattr(find, "pip_unpack", pip)
    found: list[find.TritonInstallation] = []
    threads = [threading.Thread(target=lambda: found.append(find.install_wheel())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    assert found[0] == found[1]
    leftovers = [path.name for path in cache.cache_directory().iterdir() if path.name.startswith("unpack-")]
    assert leftovers == []


def test_numpy_1_comes_along_only_where_the_environment_has_another(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(find, "pip_unpack", unpack_fake_wheel)
    numpy_1 = find.install_wheel().working_directory
    assert numpy_1 is not None
    assert (numpy_1 / "numpy").is_dir()
    shutil.rmtree(numpy_1)
    with pytest.raises(SetupError, match="NumPy 1"):
        find.find_triton()
    monkeypatch.setattr(find.metadata, "version", lambda _: "1.26.4")
    assert find.find_triton().working_directory is None
    assert find.find_triton() == find.install_wheel()


def test_a_broken_cache_is_replaced(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "pip_unpack", unpack_fake_wheel)
    first = find.install_wheel()
    first.binary.unlink()
    assert first.backend_directory is not None
    (first.backend_directory / "python" / find.STUB_NAME).chmod(0o644)
    again = find.install_wheel()
    assert again.backend_directory is not None
    assert os.access(again.binary, os.X_OK)
    assert os.access(again.backend_directory / "python" / find.STUB_NAME, os.X_OK)


def test_pip_s_failure_is_shown(bare_machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "No matching distribution")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(SetupError, match="No matching distribution"):
        find.install_wheel()


def test_a_python_without_stub_is_named(bare_machine: Path) -> None:
    unpack_fake_wheel("nvidia-pytriton", bare_machine / "wheel")
    root = bare_machine / "wheel" / "pytriton" / "tritonserver"
    shutil.move(root / "python_backend_stubs" / find.PYTHON_VERSION, root / "python_backend_stubs" / "3.1")
    unpack_fake_wheel("numpy", find._numpy_directory())
    with pytest.raises(SetupError, match="no Python backend stub") as caught:
        find.find_triton(executable(root / "bin" / "tritonserver"))
    assert "3.1" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"PLANNER_CACHE": "/own"}, Path("/own")),
        ({"XDG_CACHE_HOME": "/xdg"}, Path("/xdg/planner")),
        ({"HOME": "/own"}, Path("/own/.cache/planner")),
    ],
)
def test_cache_directory(variables: dict[str, str], expected: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PLANNER_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache.cache_directory() == expected
