"""The commented files that `planner init` writes; planner.inputs reads each of them back without an error."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

EXAMPLE_MODEL = "my_model"

_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})  # also what YAML 1.1 takes for them

_WORKLOAD_HEAD = """\
# What must be served. Replace rates and latency bounds with your own; planner schema workload has every key.
schema_version: 1

# Plan for (1 + headroom) x rate; a model may have its own headroom.
defaults: {headroom: 0.2}

models:
"""
_WORKLOAD_FIRST = """\
  - name: {name}
    rate_rps: 10                # requests per second; or by time of day: rates_rps: {{day: 10, night: 1}}
    latency_p99_ms: 100         # or latency_p95_ms; or latency: {{percentile: 95, bound_ms: 100}}; or leave it out
    # replicas: {{min: 2, max: 8}}
    # allowed_gpu: [A100-80, L4]
    # spread: {{over: node, at_least: 2}}                 # or rack, zone; at_most_each: 1
    # host: {{memory: 4GiB, cpu: 2}}                      # what each replica takes of its node
    # priority: 1               # larger first where not all demand fits (planner solve --allow-unserved)
"""
_WORKLOAD_NEXT = """\
  - name: {name}
    rate_rps: 10
    latency_p99_ms: 100
"""

_WORKLOAD_ENSEMBLES = """
# Graphs of models that serve one request together; their bound from end to end is split among calls by the planner.
# ensembles:
#   - name: pipeline
#     rate_rps: 5
#     latency_p95_ms: 300
#     serve: client             # clients call the members, wherever they are; triton: all members in each server
#     members: [{{name: {first}}}, {{name: {second}, calls: 3, parallel: 3}}]
#     graph: [[{first}, {second}]]

# rules:
#   - conflict: [{first}, {second}]     # never on one GPU; together: always
"""
_WORKLOAD_SURVIVES = """
# survives: [{domain: gpu, share: 1.0, models: all}]       # without any one gpu (node, rack, zone) this share is served
"""

_FLEET = """\
# What there is to serve on. planner schema fleet has every key.
schema_version: 1

nodes:
{nodes}
# Several equal nodes at once, with what they cost:
#  - name: dgx-[01-04]
#    gpus: 8xA100-80            # or [{{type: A100-80, count: 8, cordoned: false, reserve: 2GiB}}]; a GPU that is
#                               # split into MIG slices: {{type: A100-80, mig_layout: [4g.40gb, 2g.20gb, 1g.10gb]}}
#    host: {{memory: 1TiB, cpu: 128}}
#    rack: r1
#    zone: z1
#    usd_per_hour: 27.4         # of the whole node

# Prices per GPU, types that the catalogue does not know, and corrections to it:
# gpu_types:
#   A100-80: {{memory: 79.25GiB, usd_per_hour: 3.43, price_source: my contract, price_date: 2026-05-01}}
#   cpu-1: {{kind: cpu, cores: 1, memory: 4GiB}}
"""

_MEASURE = """\
# What planner measure sweeps. planner schema measure has every key.
schema_version: 1

{models}
search: auto                    # or grid: every configuration, not only what a plan may need
instances: [1, 2]               # execution instances of one replica
max_batch_sizes: [1, 4]         # capped at each model's own limit
# queue_delays_us: [null, 0]    # null: dynamic batching off; left out: each model's own

closed_loop: {{concurrency: null}}  # finds the capacity; null: the search chooses, or a list such as [1, 2, 4, 8]
open_loop:                      # Poisson arrivals: the tail latency that users see
  of: capacity                  # levels are shares of the measured capacity; planned: multiples of the workload's rate
  levels: [0.2, 0.4, 0.6, 0.8]

budget: 10m                     # for the whole sweep; what was finished is kept
window: {{min_seconds: 2, max_seconds: 30}}
deadlines: {{start: 60s, load: 2m, answer: 10s}}    # of a server, a model, a request; later they count as hung
stability: {{rate: 0.05, latency: 0.25, max_windows: 3}}    # windows repeat until half a 95 % interval is that narrow

# What no plan would use is not measured further; a latency bound is else the workload's:
# constraints: {{default: {{max_memory: 4GiB}}, models: {{{example}: {{latency_p99_ms: 50, min_rate_rps: 10}}}}}}

# Configurations by hand, with any field of config.pbtxt; every combination is measured:
# manual: {{{example}: [{{instances: [1, 2], queue_delays_us: [0, 500], config: {{parameters.threads: [1, 2]}}}}]}}

# Dimensions that a model's configuration leaves open (-1), without the batch dimension:
# shapes: {{{example}: {{INPUT: [3, 224, 224]}}}}
# Real inputs instead of random ones, in perf_analyzer's JSON format:
# input_data: {{{example}: requests.json}}
# How a stateful model is called:
# sequences: {{{example}: {{length: 20}}}}
# How many inferences a request of the client carries:
# request_batch_sizes: [1, 4]
"""


def workload(models: Sequence[str]) -> str:
    """workload.yaml for these models, each with a rate and a bound to be replaced."""
    first, *others = models or [EXAMPLE_MODEL]
    parts = [_WORKLOAD_FIRST.format(name=_scalar(first)), *(_WORKLOAD_NEXT.format(name=_scalar(n)) for n in others)]
    pair = _WORKLOAD_ENSEMBLES.format(first=_scalar(first), second=_scalar(others[0])) if others else ""
    return _WORKLOAD_HEAD + "\n".join(parts) + pair + _WORKLOAD_SURVIVES


def fleet(counts: Sequence[tuple[str, int]]) -> str:
    """fleet.yaml with one node that holds `counts` devices of each type."""
    kinds = list(counts) or [("A100-80", 8)]
    if len(kinds) == 1:
        gpus = f"{kinds[0][1]}x{kinds[0][0]}"
    else:
        gpus = "[" + ", ".join(f"{{type: {_scalar(name)}, count: {count}}}" for name, count in kinds) + "]"
    return _FLEET.format(nodes=f"  - name: node1\n    gpus: {gpus}\n")


def measure(models: Sequence[str]) -> str:
    """measure.yaml for these models; without names it leaves the choice to the model repository."""
    names = ", ".join(map(_scalar, models))
    line = (
        f"models: [{names}]" if models else f"# models: [{EXAMPLE_MODEL}]           # left out: all of the repository"
    )
    return _MEASURE.format(models=line, example=_scalar(models[0]) if models else EXAMPLE_MODEL)


def _scalar(text: str) -> str:
    """A YAML scalar that is read back as this very text."""
    plain = _PLAIN.fullmatch(text) is not None and text.lower() not in _WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)
