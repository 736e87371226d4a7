"""The doctor's checks on this machine, and on one whose stub does not start."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from profiler.server import doctor
from profiler.server.find import TritonInstallation


def test_doctor(triton: TritonInstallation) -> None:
    checks = {check.name: check for check in doctor.checks(triton.binary)}
    for name in ("triton", "python-backend", "libpython", "onnxruntime", "shared-memory"):
        assert checks[name].ok, checks[name]
        assert checks[name].hint is None
    assert all(check.hint for check in checks.values() if not check.ok)
    missing = doctor.checks(Path("nowhere"))[0]
    assert (missing.name, missing.ok) == ("triton", False)


def test_doctor_finds_a_stub_that_cannot_start(
    triton: TritonInstallation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if triton.backend_directory is None:
        pytest.skip("the backends of this installation are not ours to break")
    broken = tmp_path / "backends"
    shutil.copytree(triton.backend_directory, broken)
    (broken / "python" / "triton_python_backend_stub").write_text("#!/bin/sh\nexit 127\n")
    monkeypatch.setattr(doctor, "find_triton", lambda _: replace(triton, backend_directory=broken))
    monkeypatch.setattr(doctor, "TRIAL_S", 2.0)
    checks = {check.name: check for check in doctor.checks()}
    assert checks["triton"].ok
    assert not checks["python-backend"].ok
    assert "executable" in str(checks["python-backend"].hint)
