"""Parts of the report by themselves: what is chosen, what is counted, what is drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from tasks.report_page.cautions import scanner_shortcut
from tasks.report_page.counts import groups
from tasks.report_page.pictures import film_picture, loss_curve
from tasks.report_page.selection import HighestTiles, ShownFilms
from tasks.report_page.tiles import Tile, fate_title, shortened, style_of
from tasks.words import duration, share_text


def rows(values: list[tuple[int, float]]) -> pa.Table:
    """One row a (film, value)."""
    return pa.table(
        {
            "tile_id": [f"m{film}-{i}" for i, (film, _) in enumerate(values)],
            "mammogram_id": [f"m{film}" for film, _ in values],
            "value": pa.array([value for _, value in values], pa.float64()),
        }
    )


def chosen(parts: list[pa.Table], size: int) -> list[str]:
    best = HighestTiles(size, columns=["tile_id", "mammogram_id"])
    for part in parts:
        best.add(part, np.ones(len(part), bool), part["value"].to_numpy())
    return [row["tile_id"] for row in best.rows()]


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.integers(0, 4), st.sampled_from([0.2, 0.5, 0.9, 1.0])), min_size=1, max_size=40
    ),
    size=st.integers(1, 8),
    data=st.data(),
)
def test_the_choice_is_the_same_however_the_tiles_come(
    values: list[tuple[int, float]], size: int, data: st.DataObject
) -> None:
    everything = rows(values)
    order = data.draw(st.permutations(range(len(values))))
    cut = data.draw(st.integers(0, len(values)))
    shuffled = everything.take(order)
    parts = [shuffled.slice(0, cut), shuffled.slice(cut)]
    assert chosen(parts, size) == chosen([everything], size)
    assert len(chosen(parts, size)) == min(size, len(values))


def test_a_long_stream_of_small_parts_gives_the_choice_of_the_whole() -> None:
    rng = np.random.default_rng(3)
    values = [(int(rng.integers(0, 30)), round(float(rng.random()), 1)) for _ in range(3000)]
    everything = rows(values)
    parts = [everything.slice(i, 50) for i in range(0, 3000, 50)]
    assert chosen(parts, 12) == chosen([everything], 12)


def test_two_tiles_a_film_go_before_better_ones_of_the_same_film() -> None:
    values = [(0, 1.0), (0, 0.9), (0, 0.8), (1, 0.3), (2, 0.2)]
    assert chosen([rows(values)], 4) == ["m0-0", "m0-1", "m1-3", "m2-4"]
    assert chosen([rows(values)], 5) == ["m0-0", "m0-1", "m0-2", "m1-3", "m2-4"]


def films(counts: dict[str, tuple[int, int, int]]) -> pd.DataFrame:
    table = pd.DataFrame.from_dict(counts, orient="index", columns=["tiles", "flagged", "stored"])
    return table.rename_axis("mammogram_id").reset_index()


def test_films_with_the_largest_flagged_share_come_first_and_then_any() -> None:
    shown = ShownFilms(4, flagged=2)
    shown.add(films({"a": (10, 0, 9), "b": (10, 5, 9), "c": (100, 20, 99)}))
    shown.add(films({"d": (10, 9, 9), "e": (10, 10, 0), "f": (10, 0, 3)}))
    assert shown.film_ids() == ["d", "b", "a", "c"]


def test_no_films_no_choice() -> None:
    assert ShownFilms(4, flagged=2).film_ids() == []


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["dba", "howtek", "lumisys", "other"]),
        st.tuples(st.integers(0, 20), st.integers(0, 20)),
        min_size=2,
    )
)
def test_the_area_under_the_curve_is_that_of_the_shares_of_the_scanners(
    counts: dict[str, tuple[int, int]],
) -> None:
    labels = {name: {"normal": p, "cancer": n} for name, (p, n) in counts.items()}
    found = scanner_shortcut(labels)
    films = [
        (p / (p + n), label) for p, n in counts.values() if p + n for label in [1] * p + [0] * n
    ]
    truth = [label for _, label in films]
    known = [name for name, (p, n) in counts.items() if p + n]
    if len(films) < 20 or len(known) < 2 or len(set(truth)) < 2:
        assert found is None
        return
    assert found is not None
    assert found.auc == pytest.approx(roc_auc_score(truth, [share for share, _ in films]))
    assert found.films == len(films)


def test_without_normal_films_malignant_is_told_from_the_others() -> None:
    found = scanner_shortcut({"a": {"malignant": 15, "benign": 5}, "b": {"benign": 10}})
    assert found is not None
    assert found.label == "malignant"
    assert found.rows == (("a", 15, 20), ("b", 0, 10))
    assert found.auc == (10 + 5 / 2) / 15


def test_values_beyond_the_longest_list_are_summed_up() -> None:
    counts = {f"s{i:02}": {"keep": 100 - i} for i in range(40)} | {None: {"keep": 1}}
    lines = groups(counts, ["keep"])
    assert len(lines) == 31
    assert lines[-1].title == "11 others"
    assert sum(line.total for line in lines) == sum(c["keep"] for c in counts.values())
    assert groups({None: {"keep": 5}}, ["keep"]) == ()


def test_a_fate_of_unknown_reason_is_put_into_words() -> None:
    assert fate_title("drop/near_duplicate") == "Dropped: near duplicate"
    assert style_of("drop/near_duplicate").letter == "D"
    assert style_of("review/whatever").letter == "R"
    assert style_of("keep/reviewer").letter == "K"


def test_long_paths_keep_their_end() -> None:
    assert shortened("a/" * 100 + "film.dcm", 20) == "…/a/a/a/a/a/film.dcm"
    assert shortened("film.dcm", 20) == "film.dcm"


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0 %"), (0.0004, "< 0.1 %"), (0.5, "50.0 %"), (0.99999, "> 99.9 %"), (1, "100.0 %")],
)
def test_shares_do_not_round_to_none_or_all(share: float, text: str) -> None:
    assert share_text(share) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (103.2, "1 min 43 s"), (7260, "2 h 1 min")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_loss_curve_marks_the_best_epoch() -> None:
    curve = loss_curve([0.7, 0.5, 0.4], [0.8, 0.6, 0.7], best_epoch=2)
    assert curve is not None
    points = [tuple(map(float, p.split(","))) for p in curve.validation.split()]
    assert curve.best == points[1]
    assert points[1][1] > points[2][1] > points[0][1]  # lower loss, further down
    assert [text for _, text in curve.x_ticks] == ["1", "2", "3"]


def test_the_loss_curve_bears_gaps_and_long_trainings() -> None:
    losses = [float("nan"), *np.linspace(1, 0, 4999).tolist()]
    curve = loss_curve(losses, [None] * 5000, best_epoch=None)
    assert curve is not None
    assert len(curve.training.split()) <= 400
    assert (curve.validation, curve.best) == ("", None)
    assert loss_curve([], [], best_epoch=None) is None
    assert loss_curve([float("nan")], [None], best_epoch=1) is None


def test_a_single_epoch_is_a_dot() -> None:
    curve = loss_curve([0.5], [0.5], best_epoch=1)
    assert curve is not None
    assert len(curve.dots) == 1


def test_boxes_are_scaled_to_the_small_picture_of_the_film() -> None:
    import cv2

    png = cv2.imencode(".png", np.zeros((100, 50), np.uint8))[1].tobytes()
    tile = Tile("m-x200", "m", "a.png", (200, 0, 100, 50), "review/mixed", 0.6, 1, 0.1, None, None)
    picture = film_picture(png, [tile], rows=1000, columns=500)
    box = picture.boxes[0]
    assert (box.x, box.y, box.width, box.height) == (20, 0, 10, 5)
    assert box.title == "m-x200: a.png; x 200, y 0, 100 x 50 px; In review: mixed; score 0.600"
    assert (picture.width, picture.height, picture.left_out) == (50, 100, 0)
