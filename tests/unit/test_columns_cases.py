"""Cases of one device's content: none that holds something of worth is left out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from solvers.columns.cases import Cases
from solvers.columns.instance import Instance
from solvers.reduction import Reduction
from tests.problems import kind, model, option, problem


def test_a_backend_that_leaves_no_memory_still_has_replicas_that_need_none() -> None:
    device = kind(memory_bytes=8, backend_overhead_bytes={"onnxruntime": 8, "python": 1})
    options = [
        option("a", memory_bytes=0, busy_ppm=(300_000,)),
        option("b", memory_bytes=0, busy_ppm=(300_000,)),
        option("c", memory_bytes=1, busy_ppm=(300_000,), backend="python"),
    ]
    (items,) = Instance(Reduction(problem([model(name) for name in "abc"], options, kinds=[device]))).items
    value = np.array([{"a": 1.0, "b": 1.0, "c": 1.5}[choice.option.model] for choice in items.choices])
    cases, most = Cases(items, 1), np.ones(3, np.int64)
    root = cases.root(np.arange(3), value, most, 1.5)
    assert root is not None
    open_backend = int(items.backend[list(value).index(1.0)])
    paid = cases.relaxed(replace(root, present=(open_backend,), open=()), value, most, 1.5)
    assert paid is not None
    assert paid.bound >= 2.0
