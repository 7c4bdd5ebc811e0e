"""How cost grows: what a process owns and sends, and the tables that tell it."""

import json
import runpy
from pathlib import Path

import pytest
import torch

from geodm_lightning.probes.probe import Alone
from geodm_lightning.types import InputError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "scaling_cpu.json"


@pytest.fixture(scope="module")
def scaling():
    return runpy.run_path(str(ROOT / "benchmarks" / "scaling.py"))


@pytest.fixture(scope="module")
def figure():
    return runpy.run_path(str(ROOT / "benchmarks" / "scaling_figure.py"))


def test_memory_falls_with_processes_and_what_is_sent_knows_no_images(scaling):
    """A process owns its share of the classes; the geometry alone is summed."""

    class Counting(Alone):
        sent: list[int]

        def sum_(self, tensor):
            self.sent.append(tensor.numel() * tensor.element_size())
            return tensor

    def found(classes, ipc, processes):
        place = Counting(processes - 1, processes)
        place.sent = []
        distiller = scaling["build"](scaling["Case"](classes, ipc, processes), place)
        distiller.training_step(0)
        return distiller.synthetic.pixels.numel(), sum(place.sent)

    cases = {(4, 1, 1): 4, (4, 1, 2): 2, (4, 3, 4): 3, (8, 1, 2): 4}
    measured = {case: found(*case) for case in cases}
    assert {case: pixels for case, (pixels, _) in measured.items()} == {
        case: images * 3 * 32 * 32 for case, images in cases.items()
    }
    curvatures_and_weights = (2 + 3) * torch.float32.itemsize
    assert {sent for _, sent in measured.values()} == {curvatures_and_weights}


def test_the_page_tells_what_was_measured(figure):
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert figure["filled"](page, content) == page, (
        "run python benchmarks/scaling_figure.py benchmarks/results/scaling_cpu.json "
        "--docs docs/scaling.md"
    )


def test_tables_are_of_the_file_and_take_the_place_of_older_ones(figure):
    content = json.loads(RESULTS.read_text(encoding="utf-8"))
    content["by classes"][0]["processor seconds"] = 123.456
    row = content["extrapolated"]["rows"]["ImageNet-21K, IPC 10"]
    row["bytes of pictures at 224 px"] = 7.2e12
    marks = [
        figure["MARK"].format(side, name)
        for name in ("measured", "on paper")
        for side in ("begin", "end")
    ]
    page = "\n".join(["First.", marks[0], "of yesterday", marks[1], "Then.", *marks[2:], "Last."])
    filled = figure["filled"](page, content)
    assert "| 123.46 |" in filled
    assert "| 7.20 TB |" in filled
    assert "of yesterday" not in filled
    assert all(filled.count(text) == 1 for text in ("First.", "Then.", "Last.", *marks))
    assert figure["filled"](filled, content) == filled
    with pytest.raises(InputError, match=r"no lines <!-- begin of .*: on paper"):
        figure["filled"]("\n".join(marks[:2]), content)
