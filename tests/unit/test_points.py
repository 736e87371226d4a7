from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from planner.domain.serving import Sequences
from planner.errors import InputError
from profiler.budget import Budget
from profiler.points import (
    Configuration,
    InputFile,
    MeasureRequest,
    ModelFacts,
    closed_ladder,
    closed_point,
    closed_points,
    configurations,
    midway,
    model_digest,
    open_points,
    point_key,
    saturating_points,
)

RANKER = ModelFacts(
    name="ranker", path=Path("ranker"), backend="python", max_batch_size=4, queue_delay_us=100, digest="d1"
)
REQUEST = MeasureRequest(models=[RANKER], device="cpu-1", server_version="2.51")


def sizes(request: MeasureRequest, model: ModelFacts) -> list[tuple[int, int, int | None]]:
    return [(c.instances, c.max_batch_size, c.queue_delay_us) for c in configurations(request, model)]


def test_the_grid_is_capped_at_the_models_batch_size_and_starts_with_the_most_telling() -> None:
    assert sizes(REQUEST, RANKER) == [(1, 4, 100), (1, 1, None), (1, 2, 100), (2, 4, 100), (2, 1, None), (2, 2, 100)]


def test_a_model_without_batching_is_measured_as_it_is() -> None:
    assert sizes(REQUEST, replace(RANKER, max_batch_size=0, queue_delay_us=None)) == [(1, 0, None), (2, 0, None)]


def test_without_dynamic_batching_only_the_own_batch_size_is_measured() -> None:
    assert sizes(REQUEST, replace(RANKER, queue_delay_us=None)) == [(1, 4, None), (2, 4, None)]


def test_given_queue_delays_replace_the_models_own() -> None:
    request = replace(REQUEST, instances=(1,), queue_delays_us=(None, 0, 500), max_batch_sizes=(1, 2))
    assert set(sizes(request, RANKER)) == {(1, 1, None), (1, 2, None), (1, 2, 0), (1, 2, 500)}


def test_batches_smaller_than_a_request_are_left_out() -> None:
    assert {size for _, size, _ in sizes(replace(REQUEST, request_batch_sizes=(3,)), RANKER)} == {4}


def test_closed_levels_keep_every_instance_busy_with_a_full_batch() -> None:
    assert [point.concurrency for point in closed_points(REQUEST, Configuration(2, 4, 0))] == [1, 16]
    assert [point.concurrency for point in closed_points(REQUEST, Configuration(1, 0, None))] == [1, 2]


def test_given_concurrencies_replace_the_searchs_own() -> None:
    request = replace(REQUEST, concurrency=(8, 1, 8))
    assert [point.concurrency for point in closed_points(request, Configuration(2, 4, 0))] == [1, 8]


def rates(request: MeasureRequest, capacity_rps: float) -> list[float]:
    return [round(point.rate_rps or 0.0, 3) for point in open_points(request, "ranker", capacity_rps)]


@pytest.mark.parametrize(
    ("planned_rps", "expected"),
    [
        (None, [20, 40, 60, 80]),
        (10, [10, 20, 30]),
        (40, [40, 80, 90]),  # 120 is above 0.9 of the capacity
        (60, [60, 90]),
        (500, [20, 40, 60, 80, 90]),  # nothing but the limit is left: then the fractions too
    ],
)
def test_open_loop_rates(planned_rps: float | None, expected: list[float]) -> None:
    planned = {} if planned_rps is None else {"ranker": planned_rps}
    assert rates(replace(REQUEST, planned_rps=planned), 100.0) == expected


def test_a_rate_between_two_is_named_by_how_they_were_chosen() -> None:
    low, high = open_points(REQUEST, "ranker", 100.0)[:2]
    middle = midway(low, high)
    assert (middle.rate_rps, middle.name) == (30, "midway from 0.2 of capacity to 0.4 of capacity")
    assert midway(None, low).rate_rps == 10
    assert midway(None, midway(None, low)).name == "half of half of 0.2 of capacity"


def test_closed_points_go_on_by_doubling_but_not_past_the_request_s_own() -> None:
    sure, more = closed_ladder(REQUEST, Configuration(1, 4, 0))
    assert [point.concurrency for point in (*sure, *more)] == [1, 8, 16, 32]
    own = replace(REQUEST, concurrency=(1, 2, 4, 64))
    assert closed_ladder(own, Configuration(1, 4, 0))[1] == []
    assert [point.concurrency for point in saturating_points(own, Configuration(1, 4, 0))] == [64]
    assert [point.concurrency for point in saturating_points(own, Configuration(4, 16, 0))] == [64]


def test_further_fields_make_another_point_and_none_leave_keys_as_they_were() -> None:
    one = point_key(REQUEST, RANKER, Configuration(1, 4, 100), closed_point(1))
    assert one == point_key(REQUEST, RANKER, Configuration(1, 4, 100, overrides=()), closed_point(1))
    assert one != point_key(
        REQUEST, RANKER, Configuration(1, 4, 100, overrides=(("parameters.a", "1"),)), closed_point(1)
    )


def test_configurations_and_constraints_of_models_that_are_not_there_are_refused() -> None:
    with pytest.raises(InputError, match="'other' is not among the models ranker"):
        replace(REQUEST, manual={"other": ()})


def test_a_key_tells_points_apart_but_not_measured_capacities() -> None:
    configuration = Configuration(1, 4, 100)
    one, other = (open_points(REQUEST, "ranker", capacity_rps)[0] for capacity_rps in (100.0, 101.0))
    assert one != other
    assert point_key(REQUEST, RANKER, configuration, one) == point_key(REQUEST, RANKER, configuration, other)
    different = {
        point_key(REQUEST, RANKER, configuration, one),
        point_key(REQUEST, RANKER, configuration, closed_point(1)),
        point_key(REQUEST, RANKER, Configuration(1, 4, None), one),
        point_key(REQUEST, replace(RANKER, digest="d2"), configuration, one),
        point_key(replace(REQUEST, device="cpu-2"), RANKER, configuration, one),
        point_key(replace(REQUEST, server_version="2.52"), RANKER, configuration, one),
        point_key(replace(REQUEST, shapes={"ranker": {"x": [3]}}), RANKER, configuration, one),
    }
    assert len(different) == 7


def test_a_digest_changes_with_what_triton_loads_and_only_then(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "config.pbtxt").write_text("max_batch_size: 1")
    (tmp_path / "1" / "model.onnx").write_text("weights")
    before = model_digest(tmp_path)
    (tmp_path / "1" / "__pycache__").mkdir()
    (tmp_path / "1" / "__pycache__" / "model.pyc").write_text("cache")
    (tmp_path / "README.md").write_text("text")
    assert model_digest(tmp_path) == before
    (tmp_path / "1" / "model.onnx").write_text("weightz")
    assert model_digest(tmp_path) != before


@pytest.mark.parametrize("changes", [{"min_window_s": 0.0}, {"min_window_s": 40.0}])
def test_a_request_that_cannot_be_measured_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(InputError):
        replace(REQUEST, **changes)  # type: ignore[arg-type]


def test_a_budget_learns_what_a_point_costs() -> None:
    now = [0.0]
    budget = Budget(20.0, lambda: now[0])
    assert budget.has_room(18.0)  # 2 s are the first guess of the cost
    assert not budget.has_room(18.5)
    now[0] = 10.0
    budget.spent(5.0, 10.0)
    assert budget.has_room(5.0)
    assert not budget.has_room(5.5)
    assert Budget(None, lambda: now[0]).has_room(1e9)


def test_each_model_gets_the_request_sizes_that_it_takes() -> None:
    request = replace(REQUEST, instances=(1,), max_batch_sizes=(4,), request_batch_sizes=(1, 4, 8))
    assert [(c.max_batch_size, c.request_batch_size) for c in configurations(request, RANKER)] == [(4, 1), (4, 4)]
    stateful = replace(RANKER, is_stateful=True)
    assert {c.request_batch_size for c in configurations(request, stateful)} == {1}
    assert [point.concurrency for point in closed_points(request, Configuration(1, 4, 0, 4))] == [1, 2]
    assert str(Configuration(1, 4, None, 4)) == "1 instance, max batch 4, requests of 4"


def test_listed_configurations_get_the_request_sizes_that_fit_into_their_batch() -> None:
    listed = (Configuration(1, 1, None), Configuration(2, 4, 0, overrides=(("parameters.a", "1"),)))
    request = replace(REQUEST, manual={"ranker": listed}, request_batch_sizes=(2, 1))
    found = configurations(request, RANKER)
    assert [(c.instances, c.max_batch_size, c.request_batch_size) for c in found] == [(1, 1, 1), (2, 4, 1), (2, 4, 2)]
    assert str(found[-1]) == "2 instances, max batch 4, queue delay 0 us, requests of 2, parameters.a=1"
    with pytest.raises(InputError, match="requests of 2 inferences do not fit into a batch of any listed"):
        replace(REQUEST, manual={"ranker": listed[:1]}, request_batch_sizes=(2,))


def test_a_request_size_that_a_model_cannot_take_is_refused() -> None:
    with pytest.raises(InputError, match="'ranker' takes no requests of 8 inferences: max_batch_size is 4"):
        replace(REQUEST, request_batch_sizes=(8,))
    with pytest.raises(InputError, match="'ranker' takes no requests of 2 inferences: it is stateful"):
        replace(REQUEST, models=[replace(RANKER, is_stateful=True)], request_batch_sizes=(2,))


def test_what_nobody_may_load_in_another_way_is_measured_as_it_is() -> None:
    fixed = replace(RANKER, fixed=Configuration(3, 4, 50))
    assert configurations(replace(REQUEST, request_batch_sizes=(1, 2)), fixed) == [
        Configuration(3, 4, 50, 1),
        Configuration(3, 4, 50, 2),
    ]


def test_what_is_sent_is_told_and_part_of_the_key() -> None:
    stateful = replace(RANKER, is_stateful=True)
    file = InputFile(Path("calls.json"), "0123456789abcdef", is_uniform=True)
    plain = replace(REQUEST, models=[RANKER, stateful])
    told = replace(plain, shapes={"ranker": {"x": (2, 3)}}, input_files={"ranker": file})
    assert plain.requests_of(RANKER) == ""
    assert plain.requests_of(stateful) == "sequences of 20"
    assert told.requests_of(RANKER) == "x 2x3, calls.json 01234567"
    assert told.requests_of(stateful) == "x 2x3, calls.json 01234567"
    with_length = replace(told, sequences={"ranker": Sequences(5, 2)})
    assert with_length.requests_of(stateful).endswith(", sequences of 5, 2 live")
    point, configuration = closed_point(1), Configuration(1, 4, 100)
    asked = [(plain, RANKER), (told, RANKER), (plain, stateful), (with_length, stateful)]
    assert len({point_key(request, model, configuration, point) for request, model in asked}) == 4
    other = replace(told, input_files={"ranker": replace(file, digest="f")})
    assert point_key(told, RANKER, configuration, point) != point_key(other, RANKER, configuration, point)


def test_keys_of_older_stores_stay() -> None:
    key = point_key(REQUEST, RANKER, Configuration(2, 4, 100), closed_point(8))
    assert key == "d6605dca4433506a1572b280878482cb"


def test_an_ensemble_s_variant_names_its_members() -> None:
    members = (replace(RANKER, name="a"), replace(RANKER, name="b"))
    whole = replace(RANKER, backend="ensemble", members=members)
    assert whole.variant(Configuration(2, 4, None)) == "a 2, b 2"
