"""Arc-flow: VPSolver's compressed graph (Brandao and Pedroso, 2016), its integer flow solved by HiGHS.

Needs highspy (before 1.15, which cannot be loaded beside ortools 9.15) and `pip install --no-deps pyvpsolver`: only
its graph builder is used, and of the packages that it asks for one, pympl, does not build with setuptools of today.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path

import highspy
import numpy as np
from items import Items, Row
from numpy.typing import NDArray

# VPSolver's own script, without the packages that its Python front wants.
BUILD = "import sys; from _vbp2afg import swig_main; sys.exit(swig_main(3, [a.encode() for a in sys.argv]))"


class NoGraphError(Exception):
    """Why there is no arc-flow graph."""


@dataclass(frozen=True)
class Graph:
    """Arcs (tail, head, kind); `no_kind` marks arcs that carry nothing, one of them from the sink to the source."""

    source: int
    sink: int
    no_kind: int
    nodes: int
    arcs: NDArray[np.int64]


@dataclass(frozen=True)
class Flow:
    """`rows` is None where HiGHS found no whole flow in time; `bound` in bins."""

    rows: list[Row] | None
    bound: int | None
    note: str


def solve(items: Items, seconds: float) -> Flow:
    """NoGraphError where building the graph takes all the time."""
    started = time.monotonic()
    if items.fragile:
        raise NoGraphError("arc-flow does not know tolerances")
    graph = _graph(items, seconds)
    took = time.monotonic() - started
    note = f"{len(graph.arcs):,} arcs in {took:.1f} s"
    return _flow(items, graph, max(1.0, seconds - took), note)


def _graph(items: Items, seconds: float) -> Graph:
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.vbp"), Path(folder, "out.afg")
        source.write_text(_vbp(items))
        command = [sys.executable, "-c", BUILD, str(source), str(target)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise NoGraphError(f"no graph in {seconds:g} s") from None
        if done.returncode:
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
            raise NoGraphError(f"no graph: {lines[-1]}")
        return _parsed(target.read_text())


def _vbp(items: Items) -> str:
    """Each dimension over what all its numbers share: the graph grows with the numbers."""
    shared = [gcd(int(whole), *map(int, column)) for whole, column in zip(items.capacity, items.need.T, strict=True)]
    lines = [[len(shared)], items.capacity // shared, [len(items.count)]]
    lines += [[*need, count] for need, count in zip(items.need // shared, items.count, strict=True)]
    return "\n".join(" ".join(map(str, line)) for line in lines) + "\n"


def _parsed(text: str) -> Graph:
    fields = dict(re.findall(r"\$(\w+)\{([^}]*)\}", text))
    return Graph(
        source=int(fields["S"]),
        sink=int(fields["Ts"]),
        no_kind=int(fields["LOSS"]),
        nodes=int(fields["NV"]),
        arcs=np.array(fields["ARCS"].split(), dtype=np.int64).reshape(-1, 3),
    )


def _flow(items: Items, graph: Graph, seconds: float, note: str) -> Flow:
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("time_limit", seconds)
    solver.passModel(_program(items, graph))
    solver.run()
    info = solver.getInfo()
    bound = info.mip_dual_bound
    rows = None
    if info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible:
        values = np.rint(solver.getSolution().col_value).astype(np.int64)
        rows = _bins(items, graph, values)
    return Flow(rows, ceil(bound - 1e-6) if 0 < bound < highspy.kHighsInf else None, note)


def _program(items: Items, graph: Graph) -> highspy.HighsLp:
    """Bins are the flow from sink to source; what enters a node leaves it; every kind is carried often enough."""
    tail, head, kind = graph.arcs.T
    arcs, nodes, kinds = len(tail), graph.nodes, len(items.count)
    back = (tail == graph.sink) & (head == graph.source)
    carries = kind != graph.no_kind
    lp = highspy.HighsLp()
    lp.num_col_, lp.num_row_ = arcs, nodes + kinds
    lp.col_cost_ = back.astype(float)
    lp.col_lower_, lp.col_upper_ = np.zeros(arcs), np.full(arcs, float(items.count.sum()))
    lp.row_lower_ = np.concatenate([np.zeros(nodes), items.count.astype(float)])
    lp.row_upper_ = np.concatenate([np.zeros(nodes), np.full(kinds, highspy.kHighsInf)])
    lp.integrality_ = [highspy.HighsVarType.kInteger] * arcs
    index = np.stack([tail, head, np.where(carries, nodes + kind, -1)], axis=1)
    value = np.broadcast_to([-1.0, 1.0, 1.0], index.shape)
    kept = index >= 0
    lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    lp.a_matrix_.start_ = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    lp.a_matrix_.index_ = index[kept]
    lp.a_matrix_.value_ = value[kept]
    return lp


def _bins(items: Items, graph: Graph, values: NDArray[np.int64]) -> list[Row]:
    """The flow as paths from source to sink; of a kind that is carried too often the rest is left out."""
    leaving: dict[int, list[int]] = {}
    for arc in np.flatnonzero(values).tolist():
        leaving.setdefault(int(graph.arcs[arc, 0]), []).append(arc)
    flow, left = values.tolist(), items.count.tolist()
    rows: list[Row] = []
    back = int(np.flatnonzero((graph.arcs[:, 0] == graph.sink) & (graph.arcs[:, 1] == graph.source))[0])
    for place in range(flow[back]):
        content: Counter[int] = Counter()
        node = graph.source
        while node != graph.sink:
            arc = next(a for a in leaving[node] if flow[a])
            flow[arc] -= 1
            _, node, kind = graph.arcs[arc].tolist()
            if kind != graph.no_kind and left[kind]:
                left[kind] -= 1
                content[kind] += 1
        rows += [(kind, place, number) for kind, number in content.items()]
    return rows
