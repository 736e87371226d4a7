"""What the replicas of a node take of its host, and what the GPUs in use of a domain take in power and money."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from planner.domain.layout import Layout
from planner.domain.topology import Domain
from planner.domain.units import format_bytes
from planner.domain.violation import Rule, Violation


@dataclass(frozen=True, slots=True)
class Total:
    """`used` and `limit` in the unit of the rule: bytes, thousandths of a core, milliwatts, micro-USD per hour."""

    rule: Rule
    subject: str
    used: int
    limit: int
    unit: str

    def text(self, amount: int) -> str:
        return format_bytes(amount) if self.unit == "bytes" else f"{amount / _SCALE[self.unit]:g} {self.unit}"

    @property
    def scale(self) -> int:
        return _SCALE[self.unit]


_SCALE = {"bytes": 1, "cores": 1000, "W": 1000, "USD/h": 1_000_000}


def host_memory_totals(layout: Layout) -> Iterator[Total]:
    asked = {model.name: model.host_memory_bytes for model in layout.problem.models}
    there = {node.name: node.host_memory_bytes for node in layout.problem.nodes}
    return _host_totals(layout, Rule.HOST_MEMORY, asked, there, "bytes")


def host_cpu_totals(layout: Layout) -> Iterator[Total]:
    asked = {model.name: model.host_cpu_millis for model in layout.problem.models}
    there = {node.name: node.host_cpu_millis for node in layout.problem.nodes}
    return _host_totals(layout, Rule.HOST_CPU, asked, there, "cores")


def _host_totals(
    layout: Layout, rule: Rule, asked: Mapping[str, int], there: Mapping[str, int | None], unit: str
) -> Iterator[Total]:
    """What the replicas on a node ask for, by model, beside what the node has."""
    used: Counter[str] = Counter()
    for placed in layout.placed:
        used[placed.device.node] += asked[placed.option.model]
    for node, limit in there.items():
        if limit is not None and node in used:
            yield Total(rule, node, used[node], limit, unit)


def limit_totals(layout: Layout) -> Iterator[Total]:
    for limit in layout.problem.limits:
        power: Counter[str] = Counter()
        cost: Counter[str] = Counter()
        domain_of_gpu = {one.device.gpu: layout.problem.domain_of(one.device, limit.scope) for one in layout.devices}
        for gpu, kind in layout.used_gpus.items():
            if limit.name in (None, domain_of_gpu[gpu]):
                power[domain_of_gpu[gpu]] += kind.power_milliwatts or 0
                cost[domain_of_gpu[gpu]] += kind.cost_microusd_per_hour or 0
        for used, most, unit in (
            (power, limit.power_milliwatts, "W"),
            (cost, limit.cost_microusd_per_hour, "USD/h"),
        ):
            if most is None:
                continue
            for name, amount in used.items():
                subject = f"{limit.scope} {name}" if limit.scope is not Domain.FLEET else "the whole fleet"
                yield Total(Rule.FLEET, subject, amount, most, unit)


def host_memory(layout: Layout) -> Iterator[Violation]:
    return _exceeded(host_memory_totals(layout))


def host_cpu(layout: Layout) -> Iterator[Violation]:
    return _exceeded(host_cpu_totals(layout))


def limits(layout: Layout) -> Iterator[Violation]:
    """A part of the rule `fleet`: budgets and power."""
    return _exceeded(limit_totals(layout))


def _exceeded(totals: Iterator[Total]) -> Iterator[Violation]:
    for total in totals:
        if total.used > total.limit:
            over = total.text(total.used - total.limit)
            text = f"{total.text(total.used)} used of {total.text(total.limit)}, {over} too many"
            yield Violation(total.rule, total.subject, text)
