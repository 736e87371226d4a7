"""The configurations that measure.yaml lists for a model, each checked against the model's config.pbtxt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from typing import Any

from planner.emit import config_pbtxt
from planner.errors import InputError
from planner.inputs.measure_config import Product
from profiler.points import Configuration, ModelFacts


def listed_configurations(model: ModelFacts, products: Sequence[Product], where: str) -> tuple[Configuration, ...]:
    """Every combination of every product, each once. `where` is how errors call the list."""
    if model.fixed is not None:
        raise InputError(f"{where}: {model.name!r} is measured as its server has loaded it, in no other configuration")
    found: dict[Configuration, None] = {}
    for place, one in enumerate(products):
        for configuration in _combinations(model, one):
            _check(model, configuration, f"{where}[{place}]")
            found[configuration] = None
    return tuple(found)


def overridden(config: Any, configuration: Configuration) -> Any:
    """The config with the configuration's further fields."""
    for path, value in configuration.overrides:
        config = config_pbtxt.override(config, path, json.loads(value))
    return config


def _combinations(model: ModelFacts, one: Product) -> list[Configuration]:
    sizes = (model.max_batch_size,) if one.max_batch_sizes is None else one.max_batch_sizes
    delays = (model.queue_delay_us,) if one.queue_delays_us is None else one.queue_delays_us
    values = [[(path, json.dumps(value)) for value in values] for path, values in one.config.items()]
    return [
        Configuration(instances, size, delay if size > 1 else None, overrides=tuple(overrides))
        for instances, size, delay, overrides in product(one.instances, sizes, delays, product(*values))
    ]


def _check(model: ModelFacts, configuration: Configuration, where: str) -> None:
    if model.members and configuration.overrides:
        raise InputError(
            f"{where}: config: {model.name!r} is an ensemble, and each of its members has a config.pbtxt of its own"
        )
    size = configuration.max_batch_size
    if size > model.max_batch_size:
        raise InputError(
            f"{where}: max_batch_sizes: {model.name!r} takes batches of at most {model.max_batch_size}, got {size}"
        )
    if configuration.queue_delay_us is None and any(
        p.startswith("dynamic_batching") for p, _ in configuration.overrides
    ):
        raise InputError(f"{where}: config: dynamic_batching is off where the queue delay is null or the batch is 1")
    try:
        overridden(config_pbtxt.read_config(model.path / config_pbtxt.CONFIG_NAME), configuration)
    except InputError as error:
        raise InputError(f"{where}: config: {error.message}", hint=error.hint) from error
