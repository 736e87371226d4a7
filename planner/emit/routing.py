"""routing.json: for whoever spreads the traffic, each model's endpoints and their shares."""

from __future__ import annotations

from typing import Any

from planner.domain.codec import to_json
from planner.domain.plan import Plan
from planner.emit.places import Place

SCHEMA_VERSION = 1
WRITTEN_BY = "planner emit"


def routing(plan: Plan, places: list[Place]) -> dict[str, Any]:
    """`models` maps a name to its replicas; the weights of one model sum to 1. A host is a node's name.

    `ensembles` has those that a server serves as a whole, in the same way.
    """
    models: dict[str, list[dict[str, Any]]] = {}
    for place in places:
        endpoint = {"host": place.node, **to_json(place.device.endpoint)}
        for replica in place.replicas:
            models.setdefault(replica.model, []).append(
                {"device": place.device.device, "endpoint": endpoint, "weight": replica.weight}
            )
    endpoints = {p.device.device: {"host": p.node, **to_json(p.device.endpoint)} for p in places}
    ensembles = {
        ensemble.name: [
            {"device": server.device, "endpoint": endpoints[server.device], "weight": server.weight}
            for server in ensemble.servers
        ]
        for ensemble in plan.ensembles
        if ensemble.servers
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "written_by": WRITTEN_BY,
        "problem_digest": plan.problem_digest,
        "models": {name: models[name] for name in sorted(models)},
        **({"ensembles": ensembles} if ensembles else {}),
    }


def is_routing(value: object) -> bool:
    """Whether this parsed JSON is a routing.json that we wrote."""
    return isinstance(value, dict) and value.get("written_by") == WRITTEN_BY and "schema_version" in value
