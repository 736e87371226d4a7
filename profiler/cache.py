"""Planner's private cache, and wheels that are unpacked there without being installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from planner.errors import SetupError


def cache_directory() -> Path:
    """Planner's private cache: $PLANNER_CACHE, else `planner` below the user's cache directory."""
    if own := os.environ.get("PLANNER_CACHE"):
        return Path(own).expanduser().absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).expanduser().absolute() / "planner"
    return Path.home() / ".cache" / "planner"


def pip_unpack(requirement: str, target: Path, *, platform: str | None = None) -> None:
    """Unpack the wheel of a requirement, without what it depends on; SetupError with pip's own words.

    `platform` is the wheel's, where it is not one that this machine can run by itself.
    """
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--no-input", "--only-binary", ":all:", "--target", str(target), requirement]
    command += [] if platform is None else ["--platform", platform]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SetupError(
            f"pip could not unpack {requirement}: {done.stderr.strip()[-600:]}",
            hint="the wheel comes from the package index that pip uses: is there a network?",
        )


def move_into_place(source: Path, target: Path, proof: Path) -> None:
    """Rename a finished directory; where another process was first, its result stays.

    `proof` is the file below the directory without which it is broken, and is replaced.
    """
    if target.is_dir() and not (target / proof).is_file():
        target.rename(source.with_name("broken"))
    try:
        source.rename(target)
    except OSError:
        if not (target / proof).is_file():
            raise
