"""The rules on where replicas stand to each other, to failure domains and to single GPUs, as violations.

A model that `allow_unserved` leaves out as a whole breaks none of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from planner.domain.layout import Layout, LoadedDevice
from planner.domain.problem import Model
from planner.domain.topology import Domain
from planner.domain.units import counted
from planner.domain.violation import Rule, Violation


def _asked_for(layout: Layout, model: Model) -> bool:
    return bool(layout.by_model[model.name]) or not layout.problem.allow_unserved


def replicas_by_domain(layout: Layout, model: str, domain: Domain) -> Counter[str]:
    return Counter(name for placed in layout.by_model[model] for name in layout.domains_of(placed, domain))


def spread(layout: Layout) -> Iterator[Violation]:
    for model in layout.problem.models:
        for asked in model.spread if _asked_for(layout, model) else ():
            counts = replicas_by_domain(layout, model.name, asked.over)
            if len(counts) < asked.at_least > 1:
                over = counted(len(counts), asked.over)
                yield Violation(Rule.SPREAD, model.name, f"on {over}, at least {asked.at_least} are asked for")
            for name, count in counts.items():
                if asked.at_most_each is not None and count > asked.at_most_each:
                    text = f"{counted(count, 'replica')} on {asked.over} {name}, at most {asked.at_most_each}"
                    yield Violation(Rule.SPREAD, model.name, text)


def survives(layout: Layout) -> Iterator[Violation]:
    for asked in layout.problem.survives:
        for name in asked.models:
            model = layout.problem.model_by_name[name]
            if not _asked_for(layout, model):
                continue
            needed = layout.problem.survival_mrps(asked, model)
            for domain, left in left_without(layout, name, asked.domain).items():
                if left < needed:
                    where = f"without {asked.domain} {domain}" if domain else "with everything"
                    text = f"{left / 1000:.3f} req/s are left {where}, {needed / 1000:.3f} are asked for"
                    yield Violation(Rule.SURVIVES, name, f"{text}: short by {(needed - left) / 1000:.3f}")


def left_without(layout: Layout, model: str, domain: Domain) -> dict[str, int]:
    """Per domain that carries the model, its capacity in mrps elsewhere; "" where none carries it."""
    total = layout.capacity_mrps(model)
    inside: Counter[str] = Counter()
    for placed in layout.by_model[model]:
        for name in layout.domains_of(placed, domain):
            inside[name] += placed.option.capacity_mrps
    return {name: total - lost for name, lost in inside.items()} or {"": 0}


def _models_on(loaded: LoadedDevice) -> set[str]:
    return {placed.option.model for placed in loaded.replicas}


def conflict(layout: Layout) -> Iterator[Violation]:
    for loaded in layout.devices if layout.problem.conflict else ():
        here = _models_on(loaded)
        for one, other in layout.problem.conflict:
            if one in here and other in here:
                yield Violation(Rule.CONFLICT, loaded.device.id, f"carries both {one!r} and {other!r}")


def together(layout: Layout) -> Iterator[Violation]:
    for loaded in layout.devices if layout.problem.together else ():
        here = _models_on(loaded)
        for pair in layout.problem.together:
            present = [name for name in pair if name in here]
            if len(present) == 1:
                (missing,) = set(pair) - set(present)
                yield Violation(Rule.TOGETHER, loaded.device.id, f"carries {present[0]!r}, but not {missing!r}")


def pinned(layout: Layout) -> Iterator[Violation]:
    for pin in layout.problem.pinned:
        placed = layout.by_model[pin.model]
        if not placed and layout.problem.allow_unserved:
            continue
        if not any(pin.gpu in layout.domains_of(one, Domain.GPU) for one in placed):
            yield Violation(Rule.PINNED, pin.model, f"no replica of it stands on {pin.gpu}")
