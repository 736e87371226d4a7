"""What the tests on a real Triton or a real Chromium share."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from planner.cli import run as command_line
from tests.browser import BROWSERS, FRAME, LIGHT
from tests.small_models import write_small_models


@pytest.fixture(scope="module")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository."""
    path = tmp_path_factory.mktemp("models")
    write_small_models(path)
    return path


@pytest.fixture
def planner(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A command as it is typed in a folder, but in this process: starting one takes longer than most commands."""

    def call(
        folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            for name, value in (environment or {}).items():
                patch.setenv(name, value)
            code = command_line(arguments)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return call


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed; apt-get install -y chromium")
    return found


@pytest.fixture
def run(browser: str, tmp_path: Path) -> Callable[..., str]:
    def run_browser(*arguments: str) -> str:
        # Without a sandbox, so that it also starts as root and in a container; the page is our own.
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'browser'}", *arguments,
        ]  # fmt: skip
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return run_browser


@pytest.fixture
def seen(run: Callable[..., str], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """What a reader sees of a page at a width: its text and colours, and where each piece of its map stands."""

    def look(html: str, width: int, scheme: str = LIGHT) -> dict[str, Any]:
        (tmp_path / "page.html").write_text(html, encoding="utf-8")
        frame = tmp_path / "frame.html"
        frame.write_text(FRAME.format(width=width), encoding="utf-8")
        dom = run(scheme, "--window-size=1400,1000", "--virtual-time-budget=5000", "--dump-dom", frame.as_uri())
        found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
        assert found is not None
        read: dict[str, Any] = json.loads(unescape(found[1]))
        return read

    return look
