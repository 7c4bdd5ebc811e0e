"""Figures: what is drawn is what was given."""

import math

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.reporting.bars import accuracy_bars
from geodm_lightning.reporting.figures import geometry_curves, image_grid, loss_curves
from geodm_lightning.reporting.theme import LIGHT, save_png, to_svg
from geodm_lightning.reporting.tracking import Curve
from geodm_lightning.types import InputError


def test_grid_shows_every_image_in_the_row_of_its_class():
    labels = torch.tensor([1, 0, 1, 0])
    shades = torch.tensor([0.25, 0.5, 0.75, 1.5])
    images = shades[:, None, None, None].expand(4, 1, 64, 64)
    axes = image_grid(images, labels, ["zero", "one"]).axes[0]
    canvas = axes.images[0].get_array()
    gap = 6
    pitch = 64 + gap
    assert canvas.shape == (2 * pitch, 2 * pitch, 3)
    centres = [[canvas[32 + i * pitch, 32 + j * pitch, 0] for j in (0, 1)] for i in (0, 1)]
    assert centres == [[0.5, 1.0], [0.25, 0.75]]  # 1.5 is clamped to white
    assert [text.get_text() for text in axes.texts] == ["zero", "one"]


def test_grid_says_what_it_leaves_out():
    labels = torch.arange(6).repeat_interleave(3)
    figure = image_grid(
        torch.zeros(18, 3, 8, 8), labels, [str(i) for i in range(6)], max_classes=2, max_per_class=1
    )
    assert figure.texts[0].get_text() == "2 of 6 classes, 1 of 3 images per class"
    assert len(figure.axes[0].texts) == 2


def test_loss_axis_is_logarithmic_only_for_positive_values():
    positive = {"total": Curve([0, 1, 2], [3.0, 2.0, math.nan])}
    negative = {"total": Curve([0, 1], [3.0, -0.1])}
    assert loss_curves(positive).axes[0].get_yscale() == "log"
    assert loss_curves(negative).axes[0].get_yscale() == "linear"


def test_running_mean_keeps_a_constant_and_a_line():
    curve = Curve(list(range(200)), [float(i) for i in range(200)])
    bold = loss_curves({"total": curve}).axes[0].lines[1].get_ydata()
    np.testing.assert_allclose(bold[5:-5], np.arange(200)[5:-5])
    flat = loss_curves({"total": Curve([0, 1], [2.0, 2.0])}).axes[0].lines[1].get_ydata()
    np.testing.assert_array_equal(flat, [2.0, 2.0])


def test_geometry_has_a_panel_for_curvatures_and_one_for_weights():
    curves = {
        "distill/loss": Curve([0], [1.0]),
        "distill/curvature/hyperbolic": Curve([0, 1], [-1.0, -1.5]),
        "distill/weight/euclidean": Curve([0, 1], [0.3, 0.4]),
    }
    upper, lower = geometry_curves(curves).axes
    assert list(upper.lines[0].get_ydata()) == [-1.0, -1.5]
    assert list(lower.lines[0].get_ydata()) == [0.3, 0.4]
    assert len(lower.lines) == 1
    assert upper.lines[0].get_color() == LIGHT.colours[1]  # hyperbolic, in every figure


def test_bars_are_means_in_percent_with_every_student(make_result):
    axes = accuracy_bars([make_result("DM", 0.5, 0.7), make_result("GeoDM", 0.9)]).axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([60.0, 90.0])
    dots = [collection.get_offsets()[:, 0].tolist() for collection in axes.collections[-2:]]
    assert dots[0] == pytest.approx([50.0, 70.0])
    assert dots[1] == pytest.approx([90.0])
    assert [text.get_text().strip() for text in axes.texts] == ["60.0 ± 14.1", "90.0"]


def test_bars_of_a_set_stand_together_under_a_legend(make_result):
    soft = Supervision("lia", "LIA", mse=1.0, teachers="all")
    results = [
        make_result("DM", 0.5),
        make_result("OTG", 0.6),
        make_result("DM", 0.7, supervision=soft),
        make_result("OTG", 0.8, supervision=soft),
    ]
    axes = accuracy_bars(results).axes[0]
    by_place = sorted((bar.get_y(), bar.get_width()) for bar in axes.patches)
    assert [width for _, width in by_place] == pytest.approx([50.0, 70.0, 60.0, 80.0])
    assert [text.get_text() for text in axes.get_legend().texts] == ["Hard labels", "LIA"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["DM", "OTG"]
    assert axes.get_yticks().tolist() == pytest.approx([0.5, 3.0])  # 0 and 1, then 2.5 and 3.5
    assert accuracy_bars(results[:2]).axes[0].get_legend() is None


def test_pixels_of_eight_bits_are_drawn_as_their_floats_are():
    pixels = torch.randint(256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1])
    coarse, fine = (
        image_grid(images, labels, ["a", "b"]).axes[0].images[0].get_array()
        for images in (pixels.to(torch.uint8), pixels / 255)
    )
    np.testing.assert_array_equal(coarse, fine)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: image_grid(torch.zeros(0, 3, 8, 8), torch.zeros(0), []),
        lambda: image_grid(torch.zeros(1, 2, 8, 8), torch.zeros(1), ["a"]),
        lambda: loss_curves({}),
        lambda: geometry_curves({"distill/loss": Curve([0], [1.0])}),
        lambda: accuracy_bars([]),
    ],
)
def test_nothing_to_draw_is_refused(draw):
    with pytest.raises(InputError, match=r"nothing to draw|cannot draw|no results"):
        draw()


def test_files_are_written_and_repeatable(tmp_path, make_result):
    results = [make_result("DM", 0.5, 0.7)]
    path = save_png(accuracy_bars(results), tmp_path / "bars.png")
    assert imread(path).std() > 0
    assert to_svg(accuracy_bars(results)) == to_svg(accuracy_bars(results))
