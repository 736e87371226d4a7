"""The C library of a newer Debian, unpacked into a folder of its own on an older one.

apt-get does the work with its lists, cache and log in a scratch folder, so that nothing of the machine's
changes; the machine's own mirror, proxy and keys are used.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from planner.errors import SetupError

RELEASE = "trixie"
PACKAGES = ("libc6", "libstdc++6", "libgcc-s1", "libssl3t64", "zlib1g", "libzstd1")
HINT = "use a system with glibc 2.38 or newer (Debian 13, Ubuntu 24.04), or the built-in load generator"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_TIMEOUT_S = 600.0
# The machine's hooks clean its own apt cache: here they would reach outside the scratch folder.
_CONFIGURATION = """\
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
APT::Update::Error-Mode "any";
APT::Sandbox::User "root";
Acquire::Retries "1";
Acquire::http::Timeout "30";
Dir::State "{scratch}/state";
Dir::State::status "{scratch}/status";
Dir::Cache "{scratch}/cache";
Dir::Log "{scratch}/log";
Dir::Etc::sourcelist "{scratch}/sources.list";
Dir::Etc::sourceparts "-";
"""


def unpack_libraries(target: Path, scratch: Path) -> None:
    """Unpack what perf_analyzer needs of Debian's RELEASE below `target`; SetupError where that cannot be."""
    if platform.freedesktop_os_release().get("ID") != "debian":
        raise SetupError("only on Debian can the newer C library that perf_analyzer needs be set up", hint=HINT)
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SetupError(f"{tool} is not on PATH, and unpacking the newer C library needs it", hint=HINT)
    mirror = _mirror()
    scratch.mkdir()
    configuration = scratch / "apt.conf"
    configuration.write_text(_CONFIGURATION.format(scratch=scratch))
    keys = f"[signed-by={_KEYRING}] " if _KEYRING.is_file() else ""
    (scratch / "sources.list").write_text(f"deb {keys}{mirror} {RELEASE} main\n")
    (scratch / "status").touch()
    for folder in ("state/lists/partial", "cache/archives/partial", "log", "packages"):
        (scratch / folder).mkdir(parents=True)
    apt = ["apt-get", "-c", str(configuration), "-qq"]
    _run([*apt, "update"], scratch)
    _run([*apt, "download", *PACKAGES], scratch / "packages")
    for package in sorted((scratch / "packages").glob("*.deb")):
        _run(["dpkg-deb", "-x", str(package), str(target)], scratch)


def loader_and_libraries(target: Path) -> tuple[Path, Path] | None:
    """The program loader below `target` and the folder of its libraries; None where they are not there."""
    loaders = sorted(target.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))
    return (loaders[0], loaders[0].parent) if loaders else None


def _mirror() -> str:
    """Where this machine gets its own Debian from."""
    release = platform.freedesktop_os_release()
    names = {release.get("VERSION_CODENAME"), "stable", "oldstable", "oldoldstable"}
    asked = ["apt-get", "--no-release-info", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"]
    for line in _run([*asked, "Created-By: Packages"], Path("/")).splitlines():
        suite, component, uri = line.split(maxsplit=2)
        if suite in names and component == "main":
            return uri
    raise SetupError("apt-get knows no mirror of Debian's main packages", hint=HINT)


def _run(command: Sequence[str], folder: Path) -> str:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SetupError(f"{command[0]} did not end within {_TIMEOUT_S:g} s; is there a network?") from None
    if done.returncode != 0:
        said = done.stderr.strip()[-600:] or f"exit code {done.returncode}"
        raise SetupError(
            f"{Path(command[0]).name} could not get Debian's {RELEASE} libraries: {said}",
            hint="they come from the Debian mirror that this machine uses: is there a network?",
        )
    return done.stdout
