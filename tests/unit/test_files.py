"""Files and folders appear whole or not at all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from planner import files
from planner.errors import InputError, SetupError
from planner.files import whole_folder, write_all

TMPFS_BYTES = 256 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB that nobody else fills or empties."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode != 0:
        pytest.skip(f"a small disk may not be mounted here: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def all_names(folder: Path) -> list[str]:
    return sorted(str(entry.relative_to(folder)) for entry in folder.rglob("*"))


def ours(folder: Path) -> bool:
    return (folder / "ours").exists()


def fill(target: Path, text: str, *, fails: type[BaseException] | None = None) -> None:
    with whole_folder(target, is_ours=ours) as folder:
        (folder / "ours").write_text(text)
        if fails is not None:
            raise fails


def test_files_are_written_with_their_folders(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "b" / "one", tmp_path / "two"
    write_all({first: "1", second: "2ä"})
    assert first.read_text() == "1"
    assert second.read_text(encoding="utf-8") == "2ä"
    assert all_names(tmp_path) == ["a", "a/b", "a/b/one", "two"]


def test_files_that_were_there_are_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    for text in ("old", "new"):
        write_all({tmp_path / "one": text, tmp_path / "two": text})
    assert {path.read_text() for path in tmp_path.iterdir()} == {"new"}
    assert names(tmp_path) == ["one", "two"]


def test_a_folder_in_the_place_of_one_file_leaves_all_as_they_were(tmp_path: Path) -> None:
    write_all({tmp_path / "one": "old"})
    (tmp_path / "two").mkdir()
    with pytest.raises(InputError, match="two is a folder; name a file"):
        write_all({tmp_path / "one": "new", tmp_path / "two": "new"})
    assert (tmp_path / "one").read_text() == "old"
    assert names(tmp_path) == ["one", "two"]


@pytest.mark.parametrize("there_before", [True, False])
def test_a_rename_that_fails_undoes_those_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_before: bool
) -> None:
    if there_before:
        write_all({tmp_path / "one": "old", tmp_path / "two": "old"})
    rename = Path.replace

    def refuse_two(self: Path, target: Path) -> Path:
        if target.name == "two" and ".new" in self.name and self.read_text() == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", refuse_two)
    with pytest.raises(SetupError, match=r"cannot write .*two: Input/output error"):
        write_all({tmp_path / "one": "new", tmp_path / "two": "new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == (
        {"one": "old", "two": "old"} if there_before else {}
    )


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("old")
    (tmp_path / "link").symlink_to("elsewhere")
    write_all({tmp_path / "link": "new"})
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "elsewhere").read_text() == "new"


def test_a_device_is_written_directly() -> None:
    write_all({Path("/dev/null"): "anything"})
    assert Path("/dev/null").is_char_device()


def test_a_pipe_is_written_directly() -> None:
    reading, writing = os.pipe()
    write_all({Path(f"/dev/fd/{writing}"): "through"})
    os.close(writing)
    assert os.read(reading, 100) == b"through"
    os.close(reading)


def test_one_file_under_two_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is named twice"):
        write_all({Path("page"): "1", tmp_path / "page": "2"})
    assert names(tmp_path) == []


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"cannot write .*file/one"):
        write_all({tmp_path / "file" / "one": "1"})


def test_a_full_disk_leaves_the_old_files(small_disk: Path) -> None:
    one, two = small_disk / "one", small_disk / "two"
    write_all({one: "old", two: "old"})
    with pytest.raises(SetupError, match="No space left") as caught:
        write_all({one: "new", two: "x" * 2 * TMPFS_BYTES})
    assert caught.value.exit_code == 2
    assert caught.value.hint is not None
    assert "make room" in caught.value.hint
    assert (one.read_text(), two.read_text()) == ("old", "old")
    assert names(small_disk) == ["one", "two"]


def test_a_full_disk_leaves_the_old_folder(small_disk: Path) -> None:
    target = small_disk / "out"
    fill(target, "old")
    with pytest.raises(SetupError, match="No space left"):
        fill(target, "new" * TMPFS_BYTES)
    assert all_names(small_disk) == ["out", "out/ours"]
    assert (target / "ours").read_text() == "old"


def test_a_folder_appears_at_the_end_of_its_block(tmp_path: Path) -> None:
    target = tmp_path / "a" / "out"
    with whole_folder(target, is_ours=ours) as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("1")
        assert not target.exists()
    assert all_names(tmp_path) == ["a", "a/out", "a/out/sub", "a/out/sub/file"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_of_ours_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda left, right: False)
    for name in ("before", "after"):
        with whole_folder(tmp_path / "out", is_ours=ours) as folder:
            (folder / "ours").write_text("")
            (folder / name).write_text("")
    assert all_names(tmp_path) == ["out", "out/after", "out/ours"]


def test_an_old_folder_comes_back_where_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "out", "old")
    rename = Path.rename

    def refuse_the_new_one(self: Path, target: Path) -> Path:
        if (self / "ours").read_text() == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(files, "_exchange", lambda left, right: False)
    monkeypatch.setattr(Path, "rename", refuse_the_new_one)
    with pytest.raises(SetupError, match="Input/output error"):
        fill(tmp_path / "out", "new")
    assert all_names(tmp_path) == ["out", "out/ours"]
    assert (tmp_path / "out" / "ours").read_text() == "old"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_folder(tmp_path: Path, error: type[BaseException]) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(error):
        fill(tmp_path / "out", "new", fails=error)
    assert all_names(tmp_path) == ["out", "out/ours"]
    assert (tmp_path / "out" / "ours").read_text() == "old"


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", "")
    assert all_names(tmp_path) == ["out", "out/ours"]


def test_foreign_folders_and_files_are_refused_and_stay(tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis").write_text("")
    with pytest.raises(InputError, match="foreign is not empty"), whole_folder(tmp_path / "foreign", is_ours=ours):
        pytest.fail("the block must not run")
    with pytest.raises(InputError, match="thesis is a file; name a folder"):
        whole_folder(tmp_path / "foreign" / "thesis", is_ours=ours).__enter__()
    assert all_names(tmp_path) == ["foreign", "foreign/thesis"]


def test_what_could_not_be_read_is_named_as_such(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"cannot read .*weights: No such file or directory"),
        whole_folder(tmp_path / "out", is_ours=ours),
    ):
        (tmp_path / "weights").read_text()
    assert names(tmp_path) == []
