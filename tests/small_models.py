"""Small Python models for load generators, and loads for them."""

from __future__ import annotations

from pathlib import Path

from planner.domain.serving import LoadMode, LoadSpec

MODEL = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            tensors = [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in {names}]
            time.sleep({seconds})
            {check}
            answers.append(pb_utils.InferenceResponse([pb_utils.Tensor("y", {answer})]))
        return answers
"""
WIDE = 5000  # more values than perf_analyzer is asked to export
OUTPUT = 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]\ninstance_group [ { kind: KIND_CPU count: 1 } ]\n'
ONE_INPUT = 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]\n'
TYPES = {
    "bool": ("TYPE_BOOL", "set(np.unique(t)) <= {False, True}"),
    "int8": ("TYPE_INT8", "t.min() >= 0"),
    "int64": ("TYPE_INT64", "0 <= t.min() <= t.max() <= 255"),
    "uint16": ("TYPE_UINT16", "t.max() <= 255"),
    "fp16": ("TYPE_FP16", "0 <= t.min() <= t.max() <= 1"),
    "fp64": ("TYPE_FP64", "0 <= t.min() <= t.max() < 1"),
    "text": ("TYPE_STRING", "all(s.startswith(b'text') for s in t.flatten())"),
}
ALL_TYPES = "".join(f'input [ {{ name: "{n}" data_type: {t} dims: [ 2, 3 ] }} ]\n' for n, (t, _) in TYPES.items())
CHECKS = "; ".join(f"t = tensors[{i}]; assert {check}, repr(t)" for i, (_, check) in enumerate(TYPES.values()))


def write_model(
    repository: Path,
    name: str,
    config: str,
    *,
    names: tuple[str, ...] = ("x",),
    seconds: float = 0.0,
    check: str = "",
    answer: str = "np.zeros((1, 1), np.float32)",
) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(f'name: "{name}"\nbackend: "python"\n{config}{OUTPUT}')
    code = MODEL.format(names=names, seconds=seconds, check=check or "pass", answer=answer)
    (repository / name / "1" / "model.py").write_text(code)


def write_small_models(path: Path) -> tuple[str, ...]:
    """A repository of all of them; their names."""
    write_model(path, "slow", f"max_batch_size: 4\n{ONE_INPUT}", seconds=0.01)
    write_model(path, "types", f"max_batch_size: 2\n{ALL_TYPES}", names=tuple(TYPES), check=CHECKS)
    open_dims = 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 3, -1 ] } ]\n'
    write_model(path, "open", open_dims, check="assert tensors[0].shape == (3, 5)")
    value = "value { data_type: TYPE_FP32 dims: [3, 7] %s }"
    warmup = f'model_warmup [ {{ name: "w" batch_size: 1 inputs {{ key: "x" {value} }} }} ]'
    write_model(path, "warm", open_dims + warmup % "random_data: true", check="assert tensors[0].shape == (3, 7)")
    write_model(path, "zero", open_dims + warmup % "zero_data: true", check="assert not tensors[0].any()")
    write_model(path, "broken", ONE_INPUT, check="raise ValueError('out of luck')")
    sequence = "max_batch_size: 1\nsequence_batching { max_sequence_idle_microseconds: 60000000 }\n"
    write_model(path, "sequence", sequence + ONE_INPUT)
    write_model(path, "decoupled", ONE_INPUT + "model_transaction_policy { decoupled: true }\n")
    wide = f'max_batch_size: 2\ninput [ {{ name: "x" data_type: TYPE_FP32 dims: [ {WIDE} ] }} ]\n'
    write_model(path, "wide", wide, seconds=0.01)
    one = f"max_batch_size: 1\n{ONE_INPUT}"
    write_model(path, "nan", one, seconds=0.005, answer="np.full((1, 1), np.nan, np.float32)")
    tiring = "self.answered = getattr(self, 'answered', 0) + 1; assert self.answered < 60, 'out of breath'"
    write_model(path, "tiring", one, seconds=0.01, check=tiring)
    return tuple(sorted(folder.name for folder in path.iterdir()))


def closed(model: str, **changes: object) -> LoadSpec:
    values: dict[str, object] = {"seconds": 0.5, "concurrency": 2} | changes
    return LoadSpec(model=model, mode=LoadMode.CLOSED, **values)  # type: ignore[arg-type]


def opened(model: str, rate_rps: float, seconds: float = 2.0, **changes: object) -> LoadSpec:
    return LoadSpec(model=model, mode=LoadMode.OPEN, seconds=seconds, rate_rps=rate_rps, **changes)  # type: ignore[arg-type]
