"""Configurations listed in measure.yaml against a model's config.pbtxt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.inputs.measure_config import Product
from planner.workflow.manual import listed_configurations
from profiler.points import Configuration, ModelFacts


@pytest.fixture
def model(tmp_path: Path) -> ModelFacts:
    (tmp_path / "config.pbtxt").write_text('backend: "python"\nmax_batch_size: 8\ndynamic_batching { }\n')
    return ModelFacts(name="m", path=tmp_path, backend="python", max_batch_size=8, queue_delay_us=0, digest="d")


def test_every_combination_is_listed_once(model: ModelFacts) -> None:
    one = Product(instances=(1, 2), max_batch_sizes=(1, 8), config={"parameters.threads": (1, 2)})
    found = listed_configurations(model, [one, one], "measure.yaml: manual.m")
    assert len(found) == 8
    assert found[0] == Configuration(1, 1, None, overrides=(("parameters.threads", "1"),))
    assert found[-1].variant == "parameters.threads=2"
    assert str(found[-1]) == "2 instances, max batch 8, queue delay 0 us, parameters.threads=2"


def test_without_a_word_they_are_the_model_s_own(model: ModelFacts) -> None:
    assert listed_configurations(model, [Product()], "x") == (Configuration(1, 8, 0),)
    unbatched = replace(model, max_batch_size=0, queue_delay_us=None)
    assert listed_configurations(unbatched, [Product(instances=(3,))], "x") == (Configuration(3, 0, None),)


def test_what_cannot_be_configured_is_not_listed(model: ModelFacts) -> None:
    fixed = replace(model, fixed=Configuration(1, 8, 0))
    with pytest.raises(InputError, match=r"manual\.m: 'm' is measured as its server has loaded it"):
        listed_configurations(fixed, [Product()], "manual.m")
    ensemble = replace(model, members=(model,))
    assert listed_configurations(ensemble, [Product()], "manual.m") == (Configuration(1, 8, 0),)
    with pytest.raises(InputError, match=r"manual.m\[0\]: config: 'm' is an ensemble"):
        listed_configurations(ensemble, [Product(config={"parameters.threads": (1,)})], "manual.m")


@pytest.mark.parametrize(
    ("one", "text"),
    [
        (Product(max_batch_sizes=(16,)), r"manual.m\[0\]: max_batch_sizes: 'm' takes batches of at most 8, got 16"),
        (Product(config={"no.such": (1,)}), r"manual.m\[0\]: config: no.such: 1 does not fit"),
        (
            Product(queue_delays_us=(None,), config={"dynamic_batching.preserve_ordering": (True,)}),
            "dynamic_batching is off where the queue delay is null",
        ),
    ],
)
def test_what_the_model_cannot_do_is_named(model: ModelFacts, one: Product, text: str) -> None:
    with pytest.raises(InputError, match=text):
        listed_configurations(model, [one], "measure.yaml: manual.m")
