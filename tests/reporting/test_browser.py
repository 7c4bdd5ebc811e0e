"""The pages in a real browser: readable on a phone, whole, silent and on their own."""

from pathlib import Path

import pytest
import torch

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.files import write_text
from geodm_lightning.reporting.page import element, page, section, void_element
from geodm_lightning.reporting.report import Report, StageCost, write_report
from geodm_lightning.reporting.study import (
    Cost,
    Measured,
    Reported,
    Study,
    StudyCell,
    StudyColumn,
    StudyGroup,
    StudyRow,
)
from geodm_lightning.reporting.study_page import write_study
from geodm_lightning.reporting.theme import DARK, LIGHT
from geodm_lightning.reporting.tracking import Curve
from geodm_lightning.sweeps.page import to_html
from geodm_lightning.sweeps.space import Axis
from geodm_lightning.sweeps.summary import Summary, Tried
from tests.reporting.chromium import Browser, View, find_chromium
from tests.tables.small_tables import result

CHROMIUM = find_chromium()
PHONE, DESK = 390, 1280  # pixels
LONG = "a_very_long_name_without_any_place_to_break_it_" * 3
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    running = Browser(str(CHROMIUM), tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


def pictures(num_classes: int = 3) -> DistilledSet:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(num_classes).repeat_interleave(4)
    images = torch.rand(len(labels), 3, 16, 16, generator=generator)
    return DistilledSet(images, labels, {})


def run_page(folder: Path) -> Path:
    steps = list(range(0, 100, 10))
    losses = Curve(steps, [1.0 / (1 + step) for step in steps])
    curvature = Curve(steps, [-1.0 - step / 100 for step in steps])
    curves = {"distill/loss": losses, "distill/curvature/hyperbolic": curvature}
    report = Report(
        title=LONG,
        class_names=("zero", "one", LONG),
        results=[
            result("DM", 0.5, 0.6),
            result("GeoDM without any of its regularisers", 0.7, 0.9, schedule_share=0.1),
        ],
        sets={"GeoDM": pictures(), "DM": pictures()},
        metrics={"distill": {"geodm": curves}},
        costs=[StageCost("distil GeoDM", 63.25, 2000, 3 * 2**20)],
        configuration=f"name: {LONG}\n" * 40,
        environment={"torch": "2.6", LONG: LONG},
    )
    return write_report(folder / "run.html", report)


def table_page(folder: Path) -> Path:
    cost = Cost(0.12, 60.0, 2e9, 30.0, f"Processor {LONG}")
    ours = Measured(48.9, 0.6, (47.4, 50.4), 3, 9, 0.015, 0.2, "A", "0" * 16, "test", cost)
    told = Reported(48.9, 0.6, "A paper, Table 1", "best epoch")
    columns = tuple(
        StudyColumn(f"data_{k}", f"IPC {k}", "Fashion-MNIST", "accuracy") for k in range(5)
    )
    rows = tuple(
        StudyRow(label, label, "", {c.key: StudyCell(ours, told, is_best=True) for c in columns})
        for label in ("Random", "DM", "GeoDM (DM) with a long name")
    )
    study = Study("small", LONG, (LONG,), columns, (StudyGroup("dm", "DM, protocol A", rows),))
    return write_study(
        folder / "table.html",
        study,
        sets={"Fashion-MNIST IPC 10": {"DM": pictures(), LONG: pictures(10)}},
        configurations={"run": f"name: {LONG}\n" * 40},
    )


def sweep_page(folder: Path) -> Path:
    axes = (
        Axis("geometry.curvature.hyperbolic", low=0.1, high=5.0, is_log=True),
        Axis("geometry.curvature.spherical", low=0.1, high=5.0, is_log=True),
    )
    trials = tuple(
        Tried(k, "complete", 0.5 + 0.02 * k,
              {axes[0].key: 0.1 + 0.5 * k, axes[1].key: 5.0 / (1 + k)}, "")
        for k in range(8)
    )  # fmt: skip
    summary = Summary(
        name=LONG,
        method="bayes",
        maximise=True,
        axes=axes,
        trials=trials,
        repeats={0: 0.6, 1: 0.62},
        overrides=(f"name={LONG}",),
        settings={"data": {}},
        importances={},
    )
    return write_text(folder / "sweep.html", to_html(summary))


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    return {"run": run_page(folder), "table": table_page(folder), "sweep": sweep_page(folder)}


def complaints(view: View) -> list[str]:
    """What a reader could hold against a page."""
    found = []
    if view.overflow > 0 or view.wide:
        found.append(f"wider than the window by {view.overflow} px: {view.wide}")
    if 0 in view.images:
        found.append(f"{view.images.count(0)} images do not load")
    found += [f"error: {error}" for error in view.errors]
    return [*found, *(f"asks for {address}" for address in view.requests)]


def rgb(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgb({red}, {green}, {blue})"


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_pages_fit_the_window_and_need_nothing_from_elsewhere(browser, paths, width):
    for name, path in paths.items():
        view = browser.look(path, width=width)
        assert complaints(view) == [], name
        assert view.images, name
        assert view.background == rgb(LIGHT.background)


def test_pages_are_dark_for_readers_who_want_them_so(browser, paths):
    for path in paths.values():
        view = browser.look(path, width=PHONE, dark=True)
        assert complaints(view) == []
        assert view.background == rgb(DARK.background)


def test_the_page_of_a_table_shows_ours_the_published_and_where_it_is_from(browser, paths):
    text = browser.look(paths["table"], width=PHONE).text
    for shown in ("48.9 ± 0.6", "47.4 to 50.4", "[1] A paper, Table 1; best epoch.", "3 × 3"):
        assert shown in text


@pytest.mark.parametrize(
    ("part", "complaint"),
    [
        (element("div", "wide", style="width:2000px"), "wider than the window"),
        (void_element("img", src="data:image/png;base64,AAAA", alt="broken"), "do not load"),
        (element("script", "undefined_name()"), "error: "),
        (element("script", "console.error('no')"), "error: "),
        (void_element("img", src="http://localhost:9/x.png", alt="elsewhere"), "asks for http"),
    ],
)
def test_what_is_wrong_with_a_page_is_seen(browser, tmp_path, part, complaint):
    path = write_text(tmp_path / "bad.html", page("bad", section("bad", part)))
    assert any(found.startswith(complaint) or complaint in found
               for found in complaints(browser.look(path, width=PHONE)))  # fmt: skip
