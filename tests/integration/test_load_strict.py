"""A window counts only where the server stood by it: a real Triton, models that fail in their own ways."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from planner.domain.serving import LoadMode, LoadResult, LoadSpec, Server
from planner.errors import ServerError, TritonExited, TritonRefused, TritonUnreachable
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.load.strict import StrictLoadGenerator
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton
from tests.small_models import ONE_INPUT, closed, opened, write_model

COUNT = "self.n = getattr(self, 'n', 0) + 1"
MODELS = {
    "well": {},
    "wide": {"answer": "np.zeros((1, 2), np.float32)"},
    "typed": {"answer": "np.zeros((1, 1), np.int32)"},
    "refusing": {"check": "raise ValueError('out of luck')"},
    "moody": {"check": f"{COUNT}; assert self.n != 40, 'out of breath'"},
    "mortal": {"check": f"{COUNT}; self.n < 40 or os._exit(1)"},
    "hanging": {"check": f"{COUNT}; time.sleep(60 if self.n == 60 else 0)"},
}


@pytest.fixture(scope="module")
def server(triton: TritonInstallation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalTriton]:
    folder = tmp_path_factory.mktemp("strict")
    for name, changes in MODELS.items():
        write_model(folder / "models", name, f"max_batch_size: 1\n{ONE_INPUT}", seconds=0.01, **changes)
        model = folder / "models" / name / "1" / "model.py"
        model.write_text(f"import os\n{model.read_text()}")
    with LocalTriton.start(triton, folder / "models", cores=None, log_path=folder / "log", load=list(MODELS)) as server:
        yield server


def strict() -> StrictLoadGenerator:
    return StrictLoadGenerator(BuiltinLoadGenerator(deadline_s=2.0), deadline_s=2.0)


def test_a_model_that_is_well_is_measured(server: LocalTriton) -> None:
    [result] = strict().run(server, [closed("well")])
    assert result.failed == 0
    assert result.latency_s


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (closed("wide"), TritonRefused, r"answers with 'y' of shape \[1, 2\]; config.pbtxt declares \[1, 1\]"),
        (closed("typed"), TritonRefused, "answers with 'y' of type INT32; config.pbtxt declares FP32"),
        (closed("refusing"), TritonRefused, "'refusing' refuses requests: .*out of luck"),
        (closed("moody", seconds=1.0), ServerError, "'moody' failed 1 of .* requests: .*out of breath"),
        (closed("mortal", seconds=1.0), TritonExited, "a process of the model ended under load: .*mortal"),
        (opened("hanging", 50.0), ServerError, r"'hanging' stopped to answer after 1.\d of 2 s: no answer within 2 s"),
    ],
)
def test_what_spoils_a_window_is_named(
    server: LocalTriton, spec: LoadSpec, kind: type[ServerError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        strict().run(server, [spec])
    assert caught.value.log_tail


def test_a_server_that_ended_is_told_by_its_signal(triton: TritonInstallation, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "well", f"max_batch_size: 1\n{ONE_INPUT}")
    with LocalTriton.start(triton, tmp_path / "models", cores=None, log_path=tmp_path / "log", load=["well"]) as server:
        generator = strict()
        generator.run(server, [closed("well")])
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(TritonExited, match="Triton ended by signal SIGKILL"):
            generator.run(server, [closed("well")])


def test_a_frozen_server_is_told(triton: TritonInstallation, tmp_path: Path) -> None:
    write_model(tmp_path / "models", "well", f"max_batch_size: 1\n{ONE_INPUT}")
    with LocalTriton.start(triton, tmp_path / "models", cores=None, log_path=tmp_path / "log", load=["well"]) as server:
        generator = strict()
        generator.run(server, [closed("well")])
        freezer = threading.Timer(1.0, os.kill, [server.pid, signal.SIGSTOP])
        freezer.start()
        with pytest.raises(ServerError, match=r"no answer within 2 s") as caught:
            generator.run(server, [closed("well", seconds=3.0)])
        freezer.join()
        os.kill(server.pid, signal.SIGCONT)
        assert not isinstance(caught.value, (TritonExited, TritonUnreachable))


class Simulated:
    """A generator that answers with what it is given."""

    name = "simulated"

    def __init__(self, result: LoadResult) -> None:
        self._result = result

    def run(self, server: Server, specs: Sequence[LoadSpec]) -> list[LoadResult]:
        return [self._result]


OVERLOADED = LoadResult("well", 1.0, (0.1, 0.9), (0.2, 1.4), 3, 1, "no answer within 2 s", 0.1, False)


def test_an_overloaded_open_loop_counts(server: LocalTriton) -> None:
    generator = StrictLoadGenerator(Simulated(OVERLOADED), deadline_s=2.0)
    assert generator.run(server, [opened("well", 3.0, seconds=1.0)]) == [OVERLOADED]
    with pytest.raises(ServerError, match="stopped to answer"):
        generator.run(server, [replace(closed("well"), mode=LoadMode.CLOSED)])
