"""The rules between devices while replicas are put down: what one more would break, and where one is needed."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from planner.domain.problem import Device, Model, Problem
from planner.domain.topology import Domain, FleetLimit
from solvers.reduction import Choice, Reduction

Where = Callable[[Device], bool]


def anywhere(device: Device) -> bool:
    return True


class Sites:
    """Sums per domain of what stands there."""

    def __init__(self, reduction: Reduction) -> None:
        self._reduction = reduction
        self._problem: Problem = reduction.problem
        self._nodes = self._problem.node_by_name
        # By model and domain: replicas, and their capacity, per name of a domain.
        self._counts: dict[tuple[str, Domain], Counter[str]] = defaultdict(Counter)
        self._capacity: dict[tuple[str, Domain], Counter[str]] = defaultdict(Counter)
        self._served: Counter[str] = Counter()
        self._on_gpu: Counter[str] = Counter()
        self._host_memory: Counter[str] = Counter()
        self._host_cpu: Counter[str] = Counter()
        self._power: Counter[tuple[int, str]] = Counter()
        self._cost: Counter[tuple[int, str]] = Counter()
        self._pins: dict[str, list[str]] = {}
        for pin in self._problem.pinned:
            self._pins.setdefault(pin.model, []).append(pin.gpu)
        self._survivals = {
            m.name: [
                (survival.domain, self._problem.survival_mrps(survival, m)) for survival in reduction.survivals[m.name]
            ]
            for m in self._problem.models
        }
        self._watched = {
            m.name: {Domain.GPU, *(s.over for s in m.spread), *(d for d, _ in self._survivals[m.name])}
            for m in self._problem.models
        }
        self._enemies: dict[str, set[str]] = {}
        for one, other in self._problem.conflict:
            self._enemies.setdefault(one, set()).add(other)
            self._enemies.setdefault(other, set()).add(one)

    def allow(self, bundle: Sequence[Choice], devices: Sequence[Device], beside: Sequence[Choice]) -> bool:
        """Whether no sum grows too large by this bundle, and nobody beside it is in conflict with it.

        `devices`: one, or all of one node that the only replica of the bundle takes.
        """
        device = devices[0]
        models = [self._problem.model_by_name[choice.option.model] for choice in bundle]
        return (
            self._conflict(bundle, beside)
            and all(self._spread(model, device) for model in models)
            and self._host(models, device)
            and self._limits(bundle[0], devices)
        )

    def put(self, choice: Choice, devices: Sequence[Device]) -> None:
        model = self._problem.model_by_name[choice.option.model]
        self._served[model.name] += choice.capacity_mrps
        for domain in self._watched[model.name]:
            for name in {self._problem.domain_of(device, domain) for device in devices}:
                self._counts[model.name, domain][name] += 1
                self._capacity[model.name, domain][name] += choice.capacity_mrps
        self._host_memory[devices[0].node] += model.host_memory_bytes
        self._host_cpu[devices[0].node] += model.host_cpu_millis
        for device in devices:
            self._on_gpu[device.gpu] += 1
            if self._on_gpu[device.gpu] == 1:
                self._draw(choice, device, 1)

    def _draw(self, choice: Choice, device: Device, sign: int) -> None:
        """A GPU comes into use, or out of it."""
        for place, _, name in self._limits_of(device):
            self._power[place, name] += sign * (choice.kind.power_milliwatts or 0)
            self._cost[place, name] += sign * (choice.kind.cost_microusd_per_hour or 0)

    def take(self, choice: Choice, devices: Sequence[Device]) -> None:
        """The replica goes."""
        model = self._problem.model_by_name[choice.option.model]
        self._served[model.name] -= choice.capacity_mrps
        for domain in self._watched[model.name]:
            key = model.name, domain
            for name in {self._problem.domain_of(device, domain) for device in devices}:
                self._counts[key][name] -= 1
                self._capacity[key][name] -= choice.capacity_mrps
                if not self._counts[key][name]:
                    del self._counts[key][name], self._capacity[key][name]
        self._host_memory[devices[0].node] -= model.host_memory_bytes
        self._host_cpu[devices[0].node] -= model.host_cpu_millis
        for device in devices:
            self._on_gpu[device.gpu] -= 1
            if not self._on_gpu[device.gpu]:
                self._draw(choice, device, -1)

    def spares(self, choice: Choice, devices: Sequence[Device]) -> bool:
        """Whether its model misses nothing without a replica."""
        self.take(choice, devices)
        missing = self.needed(self._problem.model_by_name[choice.option.model])
        self.put(choice, devices)
        return missing is None

    def misses_pin(self, model: Model) -> bool:
        known = self._counts[model.name, Domain.GPU]
        return any(gpu not in known for gpu in self._pins.get(model.name, ()))

    def needed(self, model: Model) -> tuple[Where, int] | None:
        """Where the next replica of a model helps, and the capacity in mrps that is missing; None where it has all.

        Pins first, then spread, then survival: what serves only there may be all that the demand needs.
        """
        for gpu in self._pins.get(model.name, ()):
            if gpu not in self._counts[model.name, Domain.GPU]:
                return (lambda device, gpu=gpu: device.gpu == gpu), 0
        for spread in model.spread:
            known = self._counts[model.name, spread.over]
            if len(known) < spread.at_least > 1:
                return self._outside(spread.over, set(known)), 0
        for domain, left in self._survivals[model.name]:
            inside = self._capacity[model.name, domain]
            worst = max(inside, key=lambda name: inside[name], default=None)
            outside = self._served[model.name] - (inside[worst] if worst is not None else 0)
            if outside < left:
                return self._outside(domain, set() if worst is None else {worst}), left - outside
        return None

    def uncrowded(self, model: Model, where: Where) -> Where | None:
        """`where`, without domains that hold as much already as may be lost; None where that is the same.

        More in one of them would have to be there elsewhere once more.
        """
        crowded = []
        for domain, left in self._survivals[model.name]:
            inside = self._capacity[model.name, domain]
            may_be_lost = max(model.peak_mrps, self._served[model.name]) - left
            names = {name for name, capacity in inside.items() if capacity >= may_be_lost}
            if names:
                crowded.append(self._outside(domain, names))
        return (lambda device: where(device) and all(other(device) for other in crowded)) if crowded else None

    def _outside(self, domain: Domain, names: set[str]) -> Where:
        return lambda device: self._problem.domain_of(device, domain) not in names

    def _conflict(self, bundle: Sequence[Choice], beside: Sequence[Choice]) -> bool:
        if not self._enemies:
            return True
        every = {choice.option.model for choice in (*bundle, *beside)}
        return not any(self._enemies.get(choice.option.model, set()) & every for choice in bundle)

    def _spread(self, model: Model, device: Device) -> bool:
        return all(
            spread.at_most_each is None
            or self._counts[model.name, spread.over][self._problem.domain_of(device, spread.over)] < spread.at_most_each
            for spread in model.spread
        )

    def _host(self, models: Sequence[Model], device: Device) -> bool:
        node = self._nodes.get(device.node)
        if node is None:
            return True
        memory = self._host_memory[device.node] + sum(m.host_memory_bytes for m in models)
        cpu = self._host_cpu[device.node] + sum(m.host_cpu_millis for m in models)
        return (node.host_memory_bytes is None or memory <= node.host_memory_bytes) and (
            node.host_cpu_millis is None or cpu <= node.host_cpu_millis
        )

    def _limits(self, choice: Choice, devices: Sequence[Device]) -> bool:
        new = sum(not self._on_gpu[device.gpu] for device in devices)
        if not new:
            return True
        power = new * (choice.kind.power_milliwatts or 0)
        cost = new * (choice.kind.cost_microusd_per_hour or 0)
        return all(
            (limit.power_milliwatts is None or self._power[place, name] + power <= limit.power_milliwatts)
            and (limit.cost_microusd_per_hour is None or self._cost[place, name] + cost <= limit.cost_microusd_per_hour)
            for place, limit, name in self._limits_of(devices[0])
        )

    def _limits_of(self, device: Device) -> Iterator[tuple[int, FleetLimit, str]]:
        for place, limit in enumerate(self._problem.limits):
            name = self._problem.domain_of(device, limit.scope)
            if limit.name in (None, name):
                yield place, limit, name
