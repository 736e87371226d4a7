from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from planner.errors import ModelError
from planner.workflow.model_files import ModelFiles
from profiler.points import ModelFacts


@pytest.fixture
def model(tmp_path: Path) -> ModelFacts:
    (tmp_path / "a" / "1").mkdir(parents=True)
    (tmp_path / "a" / "config.pbtxt").write_text("")
    (tmp_path / "a" / "1" / "model.py").write_text("first")
    return ModelFacts(name="a", path=tmp_path / "a", backend="python", max_batch_size=0, queue_delay_us=None, digest="")


def test_a_model_that_only_ran_is_unchanged(model: ModelFacts) -> None:
    files = ModelFiles([model])
    (model.path / "1" / "__pycache__").mkdir()
    (model.path / "1" / "__pycache__" / "model.pyc").write_text("")
    (model.path / "log-of-its-own.txt").write_text("")
    files.require_unchanged(model)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda path: (path / "1" / "model.py").write_text("second one"), "1/model.py"),
        (lambda path: (path / "1" / "model.py").unlink(), "1/model.py"),
        (lambda path: (path / "1" / "weights.bin").write_text(""), "1/weights.bin"),
        (lambda path: path.rename(path.with_name("b")), "1/model.py, config.pbtxt"),
    ],
)
def test_what_changed_is_named(model: ModelFacts, change: Callable[[Path], object], name: str) -> None:
    files = ModelFiles([model])
    change(model.path)
    with pytest.raises(ModelError, match=f"model 'a' changed on disk since the sweep began: {name}$"):
        files.require_unchanged(model)
