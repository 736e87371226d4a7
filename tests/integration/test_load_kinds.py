"""Requests of every kind on a real Triton, by every load generator and transport: what was meant arrives."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from planner.domain.serving import LoadGenerator, LoadResult, LoadSpec, Sequences, Server
from planner.errors import InputError, LoadError
from profiler.load.builtin import BuiltinLoadGenerator
from profiler.load.perf_analyzer import PerfAnalyzerLoadGenerator
from profiler.server.find import TritonInstallation
from profiler.server.local import LocalTriton
from profiler.server.remote import RemoteHost, RemoteTriton, parse_url
from tests.recording_models import TYPES, received, write_recorders
from tests.small_models import closed, opened

WAYS = [
    "builtin-grpc",
    "builtin-http",
    pytest.param("perf_analyzer-grpc", marks=pytest.mark.slow),
    pytest.param("perf_analyzer-http", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def recorders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("models")
    write_recorders(repository)
    return repository


@pytest.fixture(scope="module")
def server(
    triton: TritonInstallation, recorders: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalTriton]:
    log = tmp_path_factory.mktemp("log") / "triton.log"
    models = sorted(folder.name for folder in recorders.iterdir())
    with LocalTriton.start(triton, recorders, cores=None, log_path=log, load=models) as running:
        yield running


Run = Callable[[LoadSpec], LoadResult]


@pytest.fixture(params=WAYS)
def run(server: LocalTriton, request: pytest.FixtureRequest) -> Run:
    """One stream by one generator over one transport."""
    name, transport = request.param.split("-")
    generator: LoadGenerator = BuiltinLoadGenerator()
    if name == "perf_analyzer":
        generator = PerfAnalyzerLoadGenerator(request.getfixturevalue("perf_analyzer"))
    spoken_to: Server = server
    if transport == "http":
        host = RemoteHost(parse_url(f"http://127.0.0.1:{server.endpoint.http_port}"))
        spoken_to = RemoteTriton(host)

    def one(spec: LoadSpec) -> LoadResult:
        [result] = generator.run(spoken_to, [spec])
        assert result.first_error is None
        assert result.answered > 3
        return result

    return one


def write(path: Path, data: object) -> Path:
    path.write_text(json.dumps({"data": data}))
    return path


def texts(*values: bytes) -> str:
    return base64.b64encode(b"".join(struct.pack("<I", len(v)) + v for v in values)).decode()


def forms(requests: list[dict[str, Any]]) -> set[str]:
    return {repr(sorted(request.items())) for request in requests}


def one_of(numbers: list[float], words: list[bytes], flags: list[bool] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "numbers": {"shape": [1, len(numbers)], "values": [float(number) for number in numbers]},
        "texts": {"shape": [1, 2], "values": [word.hex() for word in words]},
    }
    return found if flags is None else found | {"flags": {"shape": [1, 2], "values": flags}}


def test_real_inputs_arrive_as_the_file_has_them(run: Run, recorders: Path, tmp_path: Path) -> None:
    """Listed, shaped and Base64 values; texts that are no UTF-8; an optional input that some requests leave out."""
    raw = base64.b64encode(struct.pack("<2f", 0.5, -3.0)).decode()
    file = write(
        tmp_path / "calls.json",
        [
            {"numbers": [1, 2.5, 4], "texts": ["a", "ü"]},
            {
                "numbers": {"content": [7], "shape": [1]},
                "texts": {"b64": texts(b"\xff\x00", b"")},
                "flags": [True, False],
            },
            {"numbers": {"content": {"b64": raw}, "shape": [2]}, "texts": {"content": ["b", "c"], "shape": [2]}},
        ],
    )
    received(recorders, "several")
    run(closed("several", input_file=file))
    assert forms(received(recorders, "several")) == forms(
        [
            one_of([1, 2.5, 4], [b"a", "ü".encode()]),
            one_of([7.0], [b"\xff\x00", b""], [True, False]),
            one_of([0.5, -3.0], [b"b", b"c"]),
        ]
    )
    run(opened("several", 20.0, input_file=file))
    assert len(forms(received(recorders, "several"))) == 3


def test_a_request_of_several_inferences_takes_the_next_ones_in_turn(run: Run, recorders: Path, tmp_path: Path) -> None:
    file = write(
        tmp_path / "calls.json", [[{"numbers": [n], "texts": ["a", "b"]} for n in part] for part in ((1, 2), (3,))]
    )
    received(recorders, "several")
    run(closed("several", concurrency=1, request_batch_size=2, input_file=file))
    batches = [request["numbers"]["values"] for request in received(recorders, "several")]
    assert {tuple(batch) for batch in batches} == {(1, 2), (3, 1), (2, 3)}


def test_inferences_of_unequal_shape_go_into_no_request_together(server: LocalTriton, tmp_path: Path) -> None:
    file = write(tmp_path / "calls.json", [{"numbers": [0] * n, "texts": ["a", "b"]} for n in (1, 2)])
    with pytest.raises(
        InputError, match=r"calls.json: a request of 2 inferences for 'several' would hold numbers \[1\]"
    ):
        BuiltinLoadGenerator().run(server, [closed("several", request_batch_size=2, input_file=file)])


def test_a_model_without_batching_gets_every_shape_of_the_file(run: Run, recorders: Path, tmp_path: Path) -> None:
    shapes = ([2, 3], [1, 1], [3, 1])
    file = write(tmp_path / "calls.json", [{"image": {"content": [9] * (a * b), "shape": [a, b]}} for a, b in shapes])
    received(recorders, "unbatched")
    run(closed("unbatched", input_file=file))
    got = received(recorders, "unbatched")
    assert {tuple(request["image"]["shape"]) for request in got} == {(2, 3), (1, 1), (3, 1)}
    run(closed("unbatched", shapes={"image": [5, 4]}))
    assert {tuple(request["image"]["shape"]) for request in received(recorders, "unbatched")} == {(5, 4)}


def test_every_type_arrives_with_its_extremes(run: Run, recorders: Path, tmp_path: Path) -> None:
    values: dict[str, list[Any]] = {
        "BOOL": [True, False],
        "FP16": [-65504, 0.5],
        "FP32": [1e30, -1],
        "FP64": [1e300, 2],
    }
    for name in TYPES:
        bits = int("".join(filter(str.isdigit, name)) or 0)
        if name.startswith("UINT"):
            values[name] = [0, 2**bits - 1]
        elif name.startswith("INT"):
            values[name] = [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1]
    received(recorders, "typed")
    run(closed("typed", input_file=write(tmp_path / "calls.json", [values])))
    got = received(recorders, "typed")[0]
    for name in TYPES:
        assert got[name]["values"] == pytest.approx(values[name], rel=1e-6)


def sequences(requests: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Requests by correlation id, in the order of arrival; slots that wait for a request are left out."""
    ready = [request for request in requests if request["READY"]["values"] != [0]]
    by_id = sorted(ready, key=lambda request: str(request["ID"]["values"]))
    return [list(group) for _, group in groupby(by_id, key=lambda request: str(request["ID"]["values"]))]


def check_whole(found: list[list[dict[str, Any]]], lengths: set[int], *, cut_short: bool) -> None:
    """Every sequence starts once and ends once; its last one may end early, with the load."""
    assert len(found) > 2
    for sequence in found:
        starts = [request["START"]["values"][0] for request in sequence]
        ends = [request["END"]["values"][0] for request in sequence]
        assert starts == [1] + [0] * (len(sequence) - 1)
        assert ends == [0] * (len(sequence) - 1) + [1]
    whole = {len(sequence) for sequence in found}
    assert max(whole) == max(lengths)
    assert cut_short or whole <= lengths


@pytest.mark.parametrize("way", ["closed", "open"])
def test_sequences_start_once_end_once_and_have_an_id_of_their_own(run: Run, recorders: Path, way: str) -> None:
    received(recorders, "stateful")
    how = Sequences(length=4, live=2)
    run(closed("stateful", seconds=1.0, sequences=how) if way == "closed" else opened("stateful", 60.0, sequences=how))
    check_whole(sequences(received(recorders, "stateful")), {4}, cut_short=True)


def test_a_stream_of_the_file_is_played_to_one_sequence(run: Run, recorders: Path, tmp_path: Path) -> None:
    streams = [[{"x": [1, n]} for n in range(3)], [{"x": [2, n]} for n in range(5)]]
    received(recorders, "stateful")
    run(closed("stateful", seconds=1.0, input_file=write(tmp_path / "calls.json", streams)))
    found = sequences(received(recorders, "stateful"))
    check_whole(found, {3, 5}, cut_short=True)
    for sequence in found:
        got = [request["x"]["values"] for request in sequence]
        stream = streams[int(got[0][0]) - 1]
        assert got[:-1] == [one["x"] for one in stream][: len(got) - 1]


def test_one_slot_serves_many_sequences_one_after_the_other(server: LocalTriton, recorders: Path) -> None:
    """More live sequences than slots: they wait, and none waits for ever."""
    received(recorders, "stateful")
    [result] = BuiltinLoadGenerator().run(server, [closed("stateful", concurrency=6, sequences=Sequences(length=3))])
    assert (result.first_error, result.failed) == (None, 0)
    check_whole(sequences(received(recorders, "stateful")), {3}, cut_short=True)


@pytest.mark.slow
def test_perf_analyzer_leaves_texts_as_ids_to_the_built_in_generator(
    server: LocalTriton, request: pytest.FixtureRequest
) -> None:
    with pytest.raises(LoadError, match="'named' takes correlation ids as texts"):
        PerfAnalyzerLoadGenerator(request.getfixturevalue("perf_analyzer")).run(server, [closed("named")])


def test_a_request_of_a_sequence_carries_one_inference(server: LocalTriton) -> None:
    with pytest.raises(InputError, match="'stateful' is stateful: a request of a sequence carries 1 inference, not 2"):
        BuiltinLoadGenerator().run(server, [closed("stateful", request_batch_size=2)])
