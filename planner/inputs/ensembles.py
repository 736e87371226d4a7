"""The ensembles of workload.yaml: their entries, and their graphs, checked with networkx."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Annotated, Literal

import networkx as nx
from pydantic import Field

from planner.domain.ensemble import Serve
from planner.domain.workload import EnsembleDemand, MemberCalls
from planner.inputs.record import Count, Record, Text
from planner.inputs.yaml_file import YamlFile, nearest

# Beyond this the size of a graph is a mistake, and its paths are never counted anyway.
_MOST_CALLS = 1000


class MemberEntry(Record):
    name: Text
    calls: Annotated[int, Field(ge=1, le=_MOST_CALLS)] = 1
    parallel: Count = 1


class EnsembleShape(Record):
    """What an ensemble is made of; its rate and its bound are those of a model's entry."""

    serve: Literal["client", "triton"] = "client"
    members: Annotated[list[MemberEntry], Field(min_length=1)]
    graph: list[Annotated[list[Text], Field(min_length=2, max_length=2)]] = Field(default_factory=list)


def ensemble(
    name: str,
    shape: EnsembleShape,
    rates: dict[str, float],
    percentile: int,
    bound_ms: float | None,
    models: Collection[str],
    file: YamlFile,
    i: int,
) -> EnsembleDemand:
    """InputError with its line for a member that is no model, an edge to no member, a cycle."""
    seen: set[str] = set()
    for j, member in enumerate(shape.members):
        if member.name in seen:
            raise file.error(("ensembles", i, "members", j, "name"), f"member {member.name!r} is given twice")
        seen.add(member.name)
        _known(member.name, models, "model of this file", file, ("ensembles", i, "members", j, "name"))
    graph = nx.DiGraph()
    graph.add_nodes_from(member.name for member in shape.members)
    for j, (before, after) in enumerate(shape.graph):
        for place, end in enumerate((before, after)):
            _known(end, seen, "member", file, ("ensembles", i, "graph", j, place))
        graph.add_edge(before, after)
    for cycle in _cycles(graph):
        raise file.error(("ensembles", i, "graph"), f"has a cycle: {' -> '.join((*cycle, cycle[0]))}")
    return EnsembleDemand(
        name=name,
        rates_rps=rates,
        percentile=percentile,
        latency_bound_ms=bound_ms,
        serve=Serve(shape.serve),
        members=tuple(MemberCalls(name=m.name, calls=m.calls, parallel=m.parallel) for m in shape.members),
        graph=tuple((str(before), str(after)) for before, after in graph.edges),
    )


def _cycles(graph: nx.DiGraph) -> Iterator[list[str]]:
    """One cycle, where there is any."""
    try:
        yield [edge[0] for edge in nx.find_cycle(graph)]
    except nx.NetworkXNoCycle:
        return


def _known(name: str, known: Collection[str], what: str, file: YamlFile, steps: tuple[str | int, ...]) -> None:
    if name not in known:
        guess = nearest(name, known)
        maybe = f"; did you mean {guess[0]}?" if guess else ""
        raise file.error(steps, f"{name!r} is no {what}; there are {', '.join(sorted(known))}{maybe}")
