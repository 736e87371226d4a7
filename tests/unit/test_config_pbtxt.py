from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from planner.emit import config_pbtxt
from planner.errors import InputError, NotFoundError

CONFIG = """
# a comment
name: "ranker"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 2 ] } ]
instance_group [ { name: "first" count: 3 kind: KIND_GPU gpus: [ 0, 1 ] host_policy: "near" },
  { count: 1 kind: KIND_CPU } ]
dynamic_batching { preferred_batch_size: [ 2, 4, 8 ] max_queue_delay_microseconds: 100 preserve_ordering: true }
model_warmup [ { name: "w" batch_size: 8
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 16 ] random_data: true } } } ]
parameters { key: "k" value { string_value: "v" } }
"""
SEQUENCE = """
name: "speech"
platform: "onnxruntime_onnx"
max_batch_size: 4
sequence_batching { max_sequence_idle_microseconds: 5000
  oldest { max_candidate_sequences: 8 preferred_batch_size: [ 4 ] } }
"""
ENSEMBLE = """
name: "ocr"
platform: "ensemble"
max_batch_size: 4
ensemble_scheduling {
  step [
    { model_name: "detect" model_version: -1 input_map { key: "x" value: "x" } },
    { model_name: "read" model_version: -1 },
    { model_name: "detect" model_version: -1 }
  ]
}
"""


def read(tmp_path: Path, text: str, name: str = "ranker"):  # noqa: ANN201 - a protobuf message
    path = tmp_path / name / "config.pbtxt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return config_pbtxt.read_config(path)


def test_reading_takes_the_name_of_the_folder_where_the_file_has_none(tmp_path: Path) -> None:
    assert read(tmp_path, "max_batch_size: 1", "nameless").name == "nameless"


@pytest.mark.parametrize(
    ("text", "where", "hint"),
    [
        ('name: "x"\nmax_batch: 4\n', "line 2, column 1", "did you mean max_batch_size"),
        ("instance_group [ { kind: KIND_TPU } ]", "line 1, column 26", "did you mean KIND_"),
        ("input [ { data_type: FLOAT } ]", "line 1, column 22", "TYPE_FP32"),
        ('max_batch_size: "a"', "line 1, column 17", None),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_is_allowed(
    tmp_path: Path, text: str, where: str, hint: str | None
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert str(tmp_path / "ranker" / "config.pbtxt") in caught.value.message
    assert where in caught.value.message
    if hint is None:
        assert caught.value.hint is None
    else:
        assert caught.value.hint is not None
        assert hint in caught.value.hint


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="does not exist"):
        config_pbtxt.read_config(tmp_path / "config.pbtxt")
    (tmp_path / "config.pbtxt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="not a text file"):
        config_pbtxt.read_config(tmp_path / "config.pbtxt")
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        config_pbtxt.read_config(tmp_path)


def test_only_what_the_plan_decides_is_changed(tmp_path: Path) -> None:
    before = read(tmp_path, CONFIG)
    after = config_pbtxt.configure(before, instances=2, max_batch_size=4, queue_delay_us=0, kind="KIND_CPU")
    [group] = after.instance_group
    assert (group.count, group.kind, list(group.gpus)) == (2, 2, [])
    assert (group.name, group.host_policy) == ("first", "near")
    assert after.max_batch_size == 4
    assert list(after.dynamic_batching.preferred_batch_size) == [2, 4]
    assert after.dynamic_batching.max_queue_delay_microseconds == 0
    assert after.dynamic_batching.preserve_ordering
    assert after.model_warmup[0].batch_size == 4
    for field in ("instance_group", "max_batch_size", "dynamic_batching", "model_warmup"):
        before.ClearField(field)
        after.ClearField(field)
    assert before == after


def test_the_message_given_is_not_changed(tmp_path: Path) -> None:
    config = read(tmp_path, CONFIG)
    config_pbtxt.configure(config, instances=1, max_batch_size=1, queue_delay_us=None, kind="KIND_CPU")
    assert config == read(tmp_path, CONFIG)


def test_a_gpu_instance_group_always_names_its_gpu(tmp_path: Path) -> None:
    config = read(tmp_path, CONFIG)
    after = config_pbtxt.configure(
        config, instances=2, max_batch_size=8, queue_delay_us=None, kind="KIND_GPU", gpus=(0,)
    )
    assert list(after.instance_group[0].gpus) == [0]
    with pytest.raises(InputError, match="KIND_GPU with gpus"):
        config_pbtxt.configure(config, instances=2, max_batch_size=8, queue_delay_us=None, kind="KIND_GPU")
    with pytest.raises(InputError, match="KIND_CPU with gpus"):
        config_pbtxt.configure(config, instances=2, max_batch_size=8, queue_delay_us=None, kind="KIND_CPU", gpus=(0,))


def test_a_model_that_chooses_its_device_goes_on_doing_so_on_a_gpu(tmp_path: Path) -> None:
    config = read(tmp_path, CONFIG.replace("kind: KIND_GPU gpus: [ 0, 1 ]", "kind: KIND_MODEL"))
    on_gpu = config_pbtxt.configure(
        config, instances=2, max_batch_size=8, queue_delay_us=None, kind="KIND_GPU", gpus=(0,)
    )
    [group] = on_gpu.instance_group
    assert (type(group).Kind.Name(group.kind), list(group.gpus), group.count) == ("KIND_MODEL", [], 2)
    on_cpu = config_pbtxt.configure(config, instances=2, max_batch_size=8, queue_delay_us=None, kind="KIND_CPU")
    assert type(group).Kind.Name(on_cpu.instance_group[0].kind) == "KIND_CPU"


@pytest.mark.parametrize(("own", "kind", "gpus"), [
    ("", "KIND_MODEL", []),
    ("instance_group [ { kind: KIND_GPU gpus: [ 0 ] } ]", "KIND_MODEL", []),
    ("instance_group [ { kind: KIND_MODEL } ]", "KIND_MODEL", []),
    ("instance_group [ { kind: KIND_CPU } ]", "KIND_CPU", []),
    ("instance_group [ { kind: KIND_GPU gpus: [ 0, 1, 2, 3 ] } ]", "KIND_GPU", [0, 1]),
])  # fmt: skip
def test_over_several_gpus_the_model_chooses_unless_its_file_says_otherwise(
    tmp_path: Path, own: str, kind: str, gpus: list[int]
) -> None:
    config = read(tmp_path, f'name: "ranker" backend: "vllm" {own}')
    after = config_pbtxt.configure(
        config, instances=1, max_batch_size=0, queue_delay_us=None, kind="KIND_GPU", gpus=(0, 1)
    )
    [group] = after.instance_group
    assert (type(group).Kind.Name(group.kind), list(group.gpus), group.count) == (kind, gpus, 1)


def test_no_queue_delay_turns_dynamic_batching_off_and_zero_turns_it_on(tmp_path: Path) -> None:
    off = config_pbtxt.configure(
        read(tmp_path, CONFIG), instances=1, max_batch_size=8, queue_delay_us=None, kind="KIND_CPU"
    )
    assert not off.HasField("dynamic_batching")
    assert config_pbtxt.queue_delay_us(off) is None
    on = config_pbtxt.configure(off, instances=1, max_batch_size=8, queue_delay_us=0, kind="KIND_CPU")
    assert on.HasField("dynamic_batching")
    assert config_pbtxt.queue_delay_us(on) == 0


def test_a_model_without_batching_stays_so(tmp_path: Path) -> None:
    config = read(tmp_path, 'name: "ranker" backend: "python"')
    after = config_pbtxt.configure(config, instances=3, max_batch_size=8, queue_delay_us=5, kind="KIND_CPU")
    assert after.max_batch_size == 0
    assert not after.HasField("dynamic_batching")
    assert after.instance_group[0].count == 3


def test_a_model_with_batching_cannot_lose_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="would change the shape"):
        config_pbtxt.configure(
            read(tmp_path, CONFIG), instances=1, max_batch_size=0, queue_delay_us=None, kind="KIND_CPU"
        )


def test_sequence_batching_stays_word_for_word(tmp_path: Path) -> None:
    config = read(tmp_path, SEQUENCE, "speech")
    after = config_pbtxt.configure(config, instances=2, max_batch_size=2, queue_delay_us=100, kind="KIND_CPU")
    assert after.sequence_batching == config.sequence_batching
    assert not after.HasField("dynamic_batching")
    assert after.instance_group[0].count == 2


def test_an_ensemble_keeps_its_steps_and_gets_no_instances(tmp_path: Path) -> None:
    config = read(tmp_path, ENSEMBLE, "ocr")
    after = config_pbtxt.configure(config, instances=2, max_batch_size=2, queue_delay_us=100, kind="KIND_CPU")
    assert after.ensemble_scheduling == config.ensemble_scheduling
    assert not after.instance_group
    assert not after.HasField("dynamic_batching")
    assert config_pbtxt.ensemble_members(after) == ("detect", "read")


def test_backend_names(tmp_path: Path) -> None:
    names = [config_pbtxt.backend_name(read(tmp_path, text)) for text in (CONFIG, SEQUENCE, ENSEMBLE)]
    assert names == ["onnxruntime", "onnxruntime", "ensemble"]


def test_a_written_model_links_its_versions_and_reads_back(tmp_path: Path) -> None:
    config = read(tmp_path, CONFIG)
    (tmp_path / "ranker" / "1").mkdir()
    (tmp_path / "ranker" / "1" / "model.onnx").write_text("weights")
    changed = config_pbtxt.configure(config, instances=2, max_batch_size=2, queue_delay_us=7, kind="KIND_CPU")
    target = tmp_path / "new" / "ranker"
    config_pbtxt.write_model(tmp_path / "ranker", target, changed)
    assert sorted(entry.name for entry in target.iterdir()) == ["1", "config.pbtxt"]
    assert (target / "1" / "model.onnx").read_text() == "weights"
    assert config_pbtxt.read_config(target / "config.pbtxt") == changed


OVERRIDDEN = """
name: "m"
backend: "python"
max_batch_size: 8
dynamic_batching { }
parameters { key: "a" value { string_value: "1" } }
"""


def overridden(path: str, value: object) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    return config_pbtxt.override(text_format.Parse(OVERRIDDEN, ModelConfig()), path, value)


def test_any_field_can_be_set_by_its_path() -> None:
    assert list(overridden("dynamic_batching.preferred_batch_size", [4, 8]).dynamic_batching.preferred_batch_size) == [
        4,
        8,
    ]
    assert overridden("response_cache.enable", True).response_cache.enable
    assert overridden("optimization.graph.level", 1).optimization.graph.level == 1
    parameters = overridden("parameters.threads", 2).parameters
    assert {key: parameter.string_value for key, parameter in parameters.items()} == {"a": "1", "threads": "2"}
    assert overridden("parameters.session.use_arena", False).parameters["session.use_arena"].string_value == "false"


@pytest.mark.parametrize(
    ("path", "value", "text"),
    [
        (
            "dynamic_batchin.x",
            1,
            'dynamic_batchin.x: 1 does not fit: Message type "inference.ModelConfig" has no field',
        ),
        ("dynamic_batching.preferred_batch_size", "many", "dynamic_batching.preferred_batch_size: 'many' does not fit"),
        ("instance_group", [], "instance_group is not set here, instances is what sets it"),
        ("dynamic_batching.max_queue_delay_microseconds", 5, "queue_delays_us is what sets it"),
        ("parameters", {}, "parameters: write parameters.NAME and a text or a number"),
        ("parameters.a", [1], "parameters.a: write parameters.NAME and a text or a number, got [1]"),
    ],
)
def test_a_field_that_cannot_be_set_is_named(path: str, value: object, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        overridden(path, value)
