"""The page of a run: well-formed, self-contained, and safe from what it shows."""

import base64
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.evaluation.supervision import Supervision
from geodm_lightning.reporting.gallery import gallery, strip_png
from geodm_lightning.reporting.page import element
from geodm_lightning.reporting.report import Report, StageCost, write_figures, write_report
from geodm_lightning.reporting.tracking import Curve

VOID = {"meta", "img", "source"}
HOSTILE = '</pre><script>alert("1")</script><img src="http://example.org/x.png">'


class Page(HTMLParser):
    """Collects what a browser would act on, and insists on balanced tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "srcset", "href", "data", "action")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def report(make_result) -> Report:
    labels = torch.arange(2).repeat_interleave(3)
    distilled = DistilledSet(torch.rand(6, 3, 8, 8), labels, {})
    curves = {
        "distill/loss": Curve([0, 10], [2.0, 1.0]),
        "distill/loss/transport": Curve([0, 10], [0.5, 0.4]),
        "distill/curvature/hyperbolic": Curve([0, 10], [-1.0, -1.1]),
        "distill/weight/hyperbolic": Curve([0, 10], [0.3, 0.4]),
    }
    return Report(
        title="digits_ipc10",
        class_names=("zero", "one"),
        results=[make_result("DM", 0.5, 0.6), make_result("GeoDM", 0.7, 0.9, schedule_share=0.1)],
        sets={"GeoDM": distilled, "DM": distilled},
        metrics={"distill": {"geodm": curves}},
        costs=[StageCost("distil GeoDM", 63.25, 2000, 3 * 2**20), StageCost("read", 1.0)],
        configuration="name: digits_ipc10\n",
        environment={"torch": "2.6"},
    )


def render(tmp_path, report: Report) -> Page:
    return Page(write_report(tmp_path / "report.html", report).read_text(encoding="utf-8"))


def test_page_is_well_formed_and_needs_nothing_from_elsewhere(tmp_path, report):
    page = render(tmp_path, report)
    assert page.addresses
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    style = (tmp_path / "report.html").read_text().split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_page_shows_what_it_was_given(tmp_path, report):
    text = render(tmp_path, report).text
    for shown in (
        "55.0 ± 7.1", "80.0 ± 14.1", "GeoDM: 10 % of the published iterations", "2.5 % of the",
        "zero", "63.2", "31.6", "3", "name: digits_ipc10", "torch", "Protocol A: convnet",
    ):  # fmt: skip
        assert shown in text


def test_hostile_values_stay_text(tmp_path, report):
    fields = ("title", "configuration", "environment", "class", "stage")
    title, configuration, environment, name, stage = values = [HOSTILE + it for it in fields]
    hostile = replace(
        report,
        title=title,
        configuration=f"name: {configuration}",
        environment={environment: environment},
        class_names=(name, "one"),
        costs=[StageCost(stage, 1.0)],
    )
    page = render(tmp_path, hostile)
    assert "script" not in page.tags
    assert not any("example.org" in address for address in page.addresses)
    assert [value for value in values if value not in page.text] == []


def test_hostile_label_and_series_stay_text(tmp_path, report, make_result):
    curves = report.metrics["distill"]["geodm"]
    page = render(
        tmp_path,
        replace(
            report,
            results=[make_result(HOSTILE, 0.5, 0.6)],
            sets={HOSTILE: report.sets["DM"]},
            metrics={"distill": {HOSTILE: curves}},
        ),
    )
    assert "script" not in page.tags
    assert page.text.count(HOSTILE) >= 4


def test_empty_parts_are_left_out(tmp_path):
    page = render(tmp_path, Report(title="empty"))
    assert "h2" not in page.tags
    assert page.addresses == []


def test_dark_and_light_pictures_differ(tmp_path, report):
    text = write_report(tmp_path / "report.html", report).read_text()
    pairs = re.findall(r'<source srcset="([^"]+)" media="[^"]*dark[^"]*"><img src="([^"]+)"', text)
    assert len(pairs) == 3
    assert all(dark != light for dark, light in pairs)


def test_grid_has_its_columns_and_every_student_its_supervision(tmp_path, report, make_result):
    soft = Supervision("lia", "LIA", mse=1.0, teachers="all")
    costs = {"0": {"seconds_per_iteration": 2.0, "component_seconds_per_iteration": {"network": 1},
                   "component_peak_bytes": {}}}  # fmt: skip
    geometries = {"0": {"weight/hyperbolic": 0.5}}
    results = [
        make_result("GeoDM", 0.5, costs=costs, geometries=geometries),
        make_result("GeoDM", 0.75, costs=costs, geometries=geometries, supervision=soft),
    ]
    page = render(tmp_path, replace(report, results=results))
    for shown in ("Hard labels, %", "LIA, %", "GeoDM · LIA, seed 0, 1", "75.0"):
        assert shown in page.text
    assert page.text.count("2000.0") == 1  # the set was made once: one line in the ledger


def test_gallery_shows_pixels_of_eight_bits_as_their_floats(report):
    distilled = report.sets["DM"]
    coarse = distilled._replace(images=(distilled.images * 255).round().to(torch.uint8))
    fine = coarse._replace(images=coarse.images / 255)
    assert gallery({"DM": coarse}, ("a", "b")) == gallery({"DM": fine}, ("a", "b"))


def test_strip_holds_the_pixels_with_transparent_gaps():
    images = torch.tensor([0.0, 1.0, 0.5])[:, None, None, None].expand(3, 1, 48, 48)
    strip = Image.open(io.BytesIO(strip_png(images)))
    assert strip.mode == "RGBA"
    assert strip.size == (3 * 48 + 2 * 4, 48)
    assert strip.getpixel((24, 24)) == (0, 0, 0, 255)
    assert strip.getpixel((49, 24))[3] == 0
    assert strip.getpixel((76, 24)) == (255, 255, 255, 255)
    assert strip.getpixel((128, 24)) == (128, 128, 128, 255)


def test_small_images_grow_by_whole_pixels_and_large_ones_shrink():
    small, large = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 224, 224)
    assert Image.open(io.BytesIO(strip_png(small))).size[1] == 48
    assert Image.open(io.BytesIO(strip_png(large))).size[1] == 96


def test_figures_of_a_run_are_files(tmp_path, report):
    names = {path.name for path in write_figures(tmp_path, report)}
    assert names == {
        "accuracy.png", "images_geodm.png", "images_dm.png", "loss_geodm.png", "geometry_geodm.png",
    }  # fmt: skip
    assert names == {path.name for path in tmp_path.iterdir()}


def test_attributes_and_children_are_escaped():
    assert element("p", '"<&', title='"<&') == '<p title="&quot;&lt;&amp;">&quot;&lt;&amp;</p>'
    assert element("p", element("b", "x")) == "<p><b>x</b></p>"


def test_pictures_are_svg_and_png(tmp_path, report):
    for address in render(tmp_path, report).addresses:
        kind, content = re.fullmatch(r"data:image/([a-z+]+);base64,(.*)", address).groups()
        start = base64.b64decode(content)[:8]
        assert start == (b"\x89PNG\r\n\x1a\n" if kind == "png" else b"<?xml ve")
