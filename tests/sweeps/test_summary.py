"""What is said of a sweep: the best, the noise, importance, maps; each against a known answer."""

import numpy as np
import pytest

from geodm_lightning.reporting.theme import LIGHT
from geodm_lightning.sweeps.heatmap import CELLS, local_mean, position, ticks
from geodm_lightning.sweeps.importance import importances
from geodm_lightning.sweeps.page import figures_of, to_html, to_markdown
from geodm_lightning.sweeps.space import Axis, Space, overrides_of
from geodm_lightning.sweeps.summary import summarised
from geodm_lightning.sweeps.trials import open_trials

AXES = (Axis("a.x", low=0.1, high=10.0, is_log=True), Axis("a.y", low=0.0, high=1.0))
SPACE = Space("s", "random", True, AXES, fixed=(), run_cap=None)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Twelve trials in which x decides nearly all, one of them failed."""
    settings = {"data": {"validation": 0.25}}
    overrides = ["ipc=2", "data.validation=0.25", "name=x", "baselines=[]"]
    folder = tmp_path_factory.mktemp("study")
    options = {"num_trials": 12, "seed": 0, "settings": settings, "overrides": overrides}
    with open_trials(folder / "s.sqlite", SPACE, **options) as trials:
        for trial in trials.take(12):
            if trial.number == 7:
                trials.fail(trial, "out of | memory")
                continue
            x, y = (position(trial.point[axis.key], axis) for axis in AXES)
            trials.finish(trial, 0.5 + 0.3 * x + 0.01 * y)
        for seed, value in enumerate((0.60, 0.62, 0.64)):
            trials.keep_repeat(seed, value)
        yield trials.study


@pytest.fixture(scope="module")
def summary(study):
    return summarised(study)._replace(importances=importances(study))


def test_the_best_is_the_best(summary):
    assert summary.best.accuracy == max(trial.accuracy for trial in summary.complete)
    assert len(summary.ranked) == 11
    worst = summary._replace(maximise=False).best
    assert worst.accuracy == min(trial.accuracy for trial in summary.complete)


def test_noise_is_the_spread_of_the_seeds(summary):
    assert summary.noise == pytest.approx(0.02)
    assert summary._replace(repeats={0: 0.5}).noise is None
    assert "62.00 ± 2.00 % over 3 seeds" in to_markdown(summary)


def test_what_decides_is_what_matters(summary):
    assert list(summary.importances) == ["fANOVA", "PED-ANOVA"]
    for shares in summary.importances.values():
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["a.x"] > 0.8


def test_importance_is_not_told_of_few_trials(study, tmp_path):
    with open_trials(
        tmp_path / "few.sqlite", SPACE, num_trials=7, seed=0, settings={"data": {}}
    ) as trials:
        for trial in trials.take(7):
            trials.finish(trial, 0.1 * trial.number)
        assert importances(trials.study) == {}


def test_commands_repeat_the_best_and_judge_it_on_test_images(summary):
    again = summary.command(summary.best, run_dir="runs", name="b")
    final = summary.command(summary.best, run_dir="runs", name="b", final=True)
    point = " ".join(overrides_of(summary.best.point))
    start = "python experiments/run.py ipc=2"
    assert again == f"{start} data.validation=0.25 'baselines=[]' {point} run_dir=runs name=b"
    assert final == f"{start} 'baselines=[]' {point} run_dir=runs name=b"


def test_pages_say_what_accuracies_are_of(summary):
    for text in (to_markdown(summary), to_html(summary)):
        assert "25 % of the training images, held out" in text
        assert "11 of 12 trials finished, 1 failed" in text
        assert "compared on the test images" not in text
        assert "out of " in text
    settings = {"data": {}}
    assert "no estimate" in to_markdown(summary._replace(settings=settings))


def test_maps_show_every_trial_where_it_lies(summary):
    figure = figures_of(summary)["heatmap"](LIGHT)
    dots = figure.axes[0].collections[0]
    expected = [[position(t.point[axis.key], axis) for axis in AXES] for t in summary.complete]
    np.testing.assert_allclose(dots.get_offsets(), expected)
    np.testing.assert_allclose(dots.get_array(), [100 * t.accuracy for t in summary.complete])


def test_a_local_mean_keeps_constants_and_leaves_empty_what_no_trial_is_near():
    x, y = np.array([0.2, 0.25, 0.3]), np.array([0.2, 0.3, 0.25])
    field = local_mean(x, y, np.full(3, 7.0))
    known = ~np.isnan(field)
    np.testing.assert_allclose(field[known], 7.0)
    row, column = (int(CELLS * share) for share in (0.2, 0.9))
    assert known[row, row]
    assert not known[column, column]
    values = local_mean(np.array([0.2, 0.8]), np.array([0.5, 0.5]), np.array([0.0, 1.0]))
    middle = values[CELLS // 2]
    assert middle[int(0.2 * CELLS)] < 0.01 < 0.99 < middle[int(0.8 * CELLS)]


def test_axes_are_labelled_where_their_values_lie():
    assert ticks(AXES[0]) == (
        [0.0, *ticks(AXES[0])[0][1:-1], 1.0],
        ["0.1", "0.2", "0.5", "1", "2", "5", "10"],
    )
    choices = Axis("c", choices=("a", True, 3))
    assert ticks(choices) == ([1 / 6, 0.5, 5 / 6], ["a", "true", "3"])
