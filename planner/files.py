"""Files and folders that appear whole or not at all, and errors that say what could not be written."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from planner.errors import InputError, SetupError

AT_FDCWD = -100
RENAME_EXCHANGE = 2


def write_all(texts: Mapping[Path, str], *, absent: Collection[Path] = ()) -> None:
    """Write all of these files or none; what stood there before stays until every new one is on the disk.

    With the last of them the files `absent` are gone. Raises SetupError where the disk is full or the place
    may not be written. A device or a pipe (such as /dev/stdout) is written directly.
    """
    fresh: dict[Path, Path] = {}
    try:
        for named, text in texts.items():
            path = named.resolve()
            with explained(named):
                if path.is_dir():
                    raise InputError(f"{named} is a folder; name a file")
                if named.exists() and not named.is_file():
                    named.write_text(text, encoding="utf-8")
                    continue
                if path in fresh:
                    raise InputError(f"{named} is named twice; name two files")
                path.parent.mkdir(parents=True, exist_ok=True)
                fresh[path] = _sibling(path)
                _write_synced(fresh[path], text)
        for path in absent:
            if path.is_dir():
                raise InputError(f"{path} is a folder; move it away")
        _rename_all(fresh, absent)
    finally:
        for temporary in fresh.values():
            temporary.unlink(missing_ok=True)


@contextmanager
def explained(subject: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one of Planner's errors that names the path."""
    try:
        yield
    except shutil.Error as error:
        raise SetupError(f"cannot write {subject}: {error.args[0][0][2]}") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "make room and try again; nothing was changed" if full else None
        raise SetupError(f"cannot write {subject}: {error.strerror or error}", hint=hint) from error


@contextmanager
def whole_folder(target: Path, *, is_ours: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a new folder that takes the place of `target` when the block ends well, and is gone otherwise.

    A folder that `is_ours` recognises is replaced; InputError for any other one that is not empty.
    """
    path = target.resolve()
    if path.exists() and not path.is_dir():
        raise InputError(f"{target} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not is_ours(path):
        raise InputError(
            f"{target} is not empty, and not all of it was written by planner emit",
            hint="name a new or an empty folder",
        )
    fresh = _sibling(path)
    with explained(target):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            fresh.mkdir()
            with _sources_named(fresh):
                yield fresh
            _sync_tree(fresh)
            _put_in_place(fresh, path)
        finally:
            # After an exchange this is the old folder.
            shutil.rmtree(fresh, ignore_errors=True)


@contextmanager
def _sources_named(written: Path) -> Iterator[None]:
    """What cannot be read is no fault of the folder that is being written."""
    try:
        yield
    except OSError as error:
        named = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if named and not any(Path(name).is_relative_to(written) for name in named):
            raise InputError(f"cannot read {named[0]}: {error.strerror}") from error
        raise


def _sibling(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")


def _write_synced(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _rename_all(fresh: Mapping[Path, Path], absent: Collection[Path]) -> None:
    """Rename every new file into place; where one step fails, those before it become what they were."""
    backups: dict[Path, Path | None] = {}
    several = len(fresh) + len(absent) > 1
    try:
        for path, temporary in fresh.items():
            with explained(path):
                backups[path] = _backup(path) if several and path.exists() else None
                temporary.replace(path)
        for path in absent:
            with explained(path):
                _move_away(path, backups)
    except BaseException:
        for path, backup in backups.items():
            if backup is not None:
                backup.replace(path)
            elif several and not fresh[path].exists():
                path.unlink(missing_ok=True)
        raise
    for backup in backups.values():
        if backup is not None:
            backup.unlink()
    for folder in {path.parent for path in fresh}:
        _sync(folder)


def _move_away(path: Path, backups: dict[Path, Path | None]) -> None:
    aside = _sibling(path)
    try:
        path.rename(aside)
    except FileNotFoundError:
        return
    backups[path] = aside


def _backup(path: Path) -> Path:
    copy = _sibling(path)
    try:
        shutil.copy2(path, copy)
    except OSError:
        copy.unlink(missing_ok=True)
        raise
    return copy


def _put_in_place(fresh: Path, path: Path) -> None:
    if not path.exists():
        fresh.rename(path)
    elif not _exchange(fresh, path):
        # A file system without RENAME_EXCHANGE: for a moment there is no folder of this name.
        old = _sibling(path)
        path.rename(old)
        try:
            fresh.rename(path)
        except BaseException:
            old.rename(path)
            raise
        shutil.rmtree(old, ignore_errors=True)
    _sync(path.parent)


def _exchange(left: Path, right: Path) -> bool:
    """Swap two names in one step; False where the system or the file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(AT_FDCWD, os.fsencode(left), AT_FDCWD, os.fsencode(right), RENAME_EXCHANGE) == 0)


def _sync_tree(folder: Path) -> None:
    for place, _, names in os.walk(folder):
        for name in names:
            if not (Path(place) / name).is_symlink():
                _sync(Path(place) / name)
        _sync(Path(place))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
