"""Colours of models: the same model has the same colour in every picture of one report."""

from __future__ import annotations

from collections import Counter

from planner.domain.plan import Plan

# (light, ink on it), (dark, ink on it). Neighbours in this order are told apart with any colour vision.
_HUES = (
    ("#2470c9", "#ffffff", "#3987e5", "#0b0b0b"),
    ("#1baf7a", "#0b0b0b", "#199e70", "#0b0b0b"),
    ("#eda100", "#0b0b0b", "#c98500", "#0b0b0b"),
    ("#008300", "#ffffff", "#008300", "#ffffff"),
    ("#4a3aa7", "#ffffff", "#9085e9", "#0b0b0b"),
    ("#e34948", "#0b0b0b", "#e66767", "#0b0b0b"),
    ("#e87ba4", "#0b0b0b", "#d55181", "#0b0b0b"),
    ("#eb6834", "#0b0b0b", "#d95926", "#0b0b0b"),
)
OTHER = "other"

_ROLES_LIGHT = (
    "--paper:#fcfcfb;--ink:#0b0b0b;--ink2:#52514e;--ink3:#6b6a66;--line:#e1e0d9;--track:#eeede8;--once:#c9c7bf;"
    "--other:#a3a199;--other-ink:#0b0b0b;--limit:#b3261e;--good:#006300;--bad:#b3261e;--warn:#8a5a00"
)
_ROLES_DARK = (
    "--paper:#1a1a19;--ink:#ffffff;--ink2:#c3c2b7;--ink3:#96948b;--line:#33322f;--track:#2c2c2a;--once:#5c5a54;"
    "--other:#76746c;--other-ink:#ffffff;--limit:#ff8a80;--good:#4cc27e;--bad:#ff8a80;--warn:#f0b64a"
)


def model_classes(plan: Plan) -> dict[str, str]:
    """A CSS class per model: a hue for the eight that take the most memory in all, "other" for the rest."""
    memory: Counter[str] = Counter()
    for replica in plan.replicas:
        memory[replica.model] += replica.memory_bytes
    largest = sorted(memory, key=lambda name: (-memory[name], name))
    return {name: f"hue{place}" if place < len(_HUES) else OTHER for place, name in enumerate(largest)}


def variables(root: str) -> str:
    """CSS variables for light and dark; printing is always light."""
    light = _ROLES_LIGHT + "".join(f";--hue{i}:{h[0]};--hue{i}-ink:{h[1]}" for i, h in enumerate(_HUES))
    dark = _ROLES_DARK + "".join(f";--hue{i}:{h[2]};--hue{i}-ink:{h[3]}" for i, h in enumerate(_HUES))
    return f"{root}{{{light}}}\n@media screen and (prefers-color-scheme:dark){{{root}{{{dark}}}}}"


def fills() -> str:
    names = [*(f"hue{i}" for i in range(len(_HUES))), OTHER]
    return "".join(f".{n}{{fill:var(--{n});background:var(--{n})}}.on-{n}{{fill:var(--{n}-ink)}}" for n in names)
