"""An estimate against the run it is of, and what is said where memory will not do."""

import gc
import json
import time
import weakref
from pathlib import Path

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.distilled.storage import load_set
from geodm_lightning.estimates.estimate import LOADED, estimate, mirrored
from geodm_lightning.estimates.page import print_estimate
from geodm_lightning.evaluation.result import load_results
from geodm_lightning.memory import (
    Room,
    Slope,
    available_bytes,
    explained,
    fitting_batch,
    slope_of,
    traced,
)
from geodm_lightning.methods import methods_of
from geodm_lightning.pipeline import run
from geodm_lightning.probes.probe import Alone
from geodm_lightning.probes.sets import fit_to_memory, matching_slope
from geodm_lightning.processes import Processes
from geodm_lightning.site import Site
from geodm_lightning.types import InputError
from tests.experiment import (
    compose_config,
    compose_settings,
    generative_overrides,
    tiny_overrides,
)

ROOT = Path(__file__).resolve().parent.parent.parent
CPU = torch.device("cpu")
FEW = ("baselines=[random,base,whole]",)


def works_of(found, stage):
    return [work for work in found.works if work.stage == stage]


def test_an_estimate_counts_the_steps_that_the_run_then_makes(tmp_path):
    config = compose_config(*tiny_overrides(tmp_path), *FEW)
    before = estimate(config)
    assert list(tmp_path.iterdir()) == []
    (learning,) = [work for work in works_of(before, "distill") if work.steps]
    assert (learning.what, learning.steps, learning.done) == ("learn DM, GeoDM", 6, 0)
    run(config)
    results = load_results(tmp_path / "runs" / "tiny" / "0" / "results.json")
    made = sum(student.num_steps for result in results for student in result.students)
    assert sum(work.steps for work in works_of(before, "evaluate")) == made
    files = sorted(tmp_path.rglob("*"))
    after = estimate(config)
    assert sorted(tmp_path.rglob("*")) == files
    assert works_of(after, "distill") == []
    assert sum(work.steps for work in works_of(after, "evaluate")) == 0
    assert sum(work.done for work in works_of(after, "evaluate")) == made
    assert after.disk == 0 < before.disk


def test_what_is_shared_out_is_counted_once_and_seeds_each(tmp_path):
    options = (*tiny_overrides(tmp_path), "baselines=[random]", "stages=[distill,evaluate]")
    one = estimate(compose_config(*options))
    began = time.monotonic()
    two = estimate(compose_config(*options, "trainer.devices=2", "num_seeds=3"))
    loading = works_of(two, "start")[0].seconds - LOADED
    assert 0 < loading < time.monotonic() - began  # not what was done before, as for a table
    assert (one.processes, two.processes) == (1, 2)
    for stage, factor in (("distill", 3), ("evaluate", 1.5)):
        steps = [sum(work.steps for work in works_of(found, stage)) for found in (one, two)]
        assert steps[1] == factor * steps[0]  # students are dealt out, iterations are not
    assert two.disk == 3 * one.disk


def test_an_estimate_is_printed_and_written_where_asked(tmp_path, capsys):
    path = tmp_path / "cost.json"
    options = (*tiny_overrides(tmp_path), "stages=[distill]", "baselines=[]")
    found = print_estimate(compose_config(*options, f"estimate={path}"))
    content = json.loads(path.read_text())
    assert content["hours"] == found.seconds / 3600
    assert sum(work["seconds"] for work in content["works"]) == pytest.approx(found.seconds)
    assert [p.name for p in tmp_path.iterdir()] == ["cost.json"]
    assert "learn GeoDM" in capsys.readouterr().out


def test_a_value_that_says_neither_yes_nor_where_is_refused(tmp_path):
    config = compose_config(*tiny_overrides(tmp_path), "estimate=maybe")
    with pytest.raises(InputError, match=r"true, false or a file PATH.json, got 'maybe'"):
        print_estimate(config)


def test_a_copied_cache_is_left_alone(tmp_path):
    cache = tmp_path / "cache"
    for name in ("teachers/a.ckpt", "latents/x/latents.bin"):
        (cache / name).parent.mkdir(parents=True)
        (cache / name).write_text("kept")
    copy = mirrored(cache, tmp_path / "copy")
    with (copy / "latents/x/latents.bin").open("r+") as file:  # as latents are written
        file.write("lost")
    (copy / "teachers/b").write_text("new")
    (copy / "teachers/b").replace(copy / "teachers/a.ckpt")  # as everything else is
    assert {p.read_text() for p in cache.rglob("*") if p.is_file()} == {"kept"}
    assert {p.read_text() for p in copy.rglob("*") if p.is_file()} == {"lost", "new"}


def test_a_process_alone_owns_what_it_would_among_others():
    alone, real = Alone(1, 3), Processes(1, 3)
    assert alone.shard(10) == real.shard(10)
    owned = torch.ones(3, 2)
    whole = alone.gather(owned, 10)
    assert whole.shape == (10, 2)
    assert whole.sum() == 6
    assert torch.equal(whole[alone.shard(10)], owned)


def test_a_line_through_two_sizes_tells_the_largest_that_fits():
    line = slope_of(lambda value: 100 + 7 * value, 2, 4)
    assert line == Slope(100.0, 7.0)
    assert (line.at(10), line.largest(170), line.largest(169), line.largest(50)) == (170, 10, 9, 0)
    room = Room(10**9, 7 * 10**8)
    fit = fitting_batch(lambda n: 10**8 * n, 64, setting="teachers.batch_size", room=room)
    assert (fit.batch, fit.memory) == (7, 7 * 10**8)
    assert fit.advice.endswith(
        "0.70 GB of the 1.00 GB that are free may be used: lower teachers.batch_size to 7"
    )
    assert fitting_batch(lambda n: n, 64, setting="any", room=room).advice == ""


@pytest.fixture
def distiller(tmp_path):
    settings = compose_settings(
        *tiny_overrides(tmp_path), "distiller.classes_per_step=10", "network.width=16"
    )
    site = Site(CPU)
    data = assembly.build_data(settings, CPU)
    row = methods_of(settings)[-2]
    real = assembly.build_real_features(row.settings, data, site)
    return settings, assembly.build_distiller(row.settings, data, site, real)


def test_memory_grows_by_the_class_and_the_advice_fits(distiller):
    settings, module = distiller
    slope = matching_slope(module, CPU)
    module.manual_backward = torch.Tensor.backward
    with traced(CPU) as peak:
        module.match(slice(0, 8), 0)
    assert peak() == pytest.approx(slope.at(8), rel=0.15)
    room = Room(slope.at(9), slope.at(4) + 1)
    advice = fit_to_memory([module], settings, slope=slope, room=room)
    chosen = module.sizes.classes_per_step
    assert advice.endswith(f"lower distiller.classes_per_step to {chosen}")
    assert chosen == 4
    assert "lower distiller.real_batch to" in fit_to_memory(
        [module], settings, slope=slope, room=Room(slope.at(1), slope.at(1) // 2)
    )


def test_running_out_of_memory_frees_everything_before_it_is_explained():
    held = []

    class Large:
        pass

    def work():
        large = Large()
        held.append(weakref.ref(large))
        raise MemoryError

    def advise():
        assert held[0]() is None
        return "lower distiller.real_batch to 3"

    with pytest.raises(InputError, match=r"in stage distill: lower distiller.real_batch to 3"):
        explained("distill", work, advise)
    with pytest.raises(RuntimeError, match=r"^other$"):
        explained("distill", lambda: (_ for _ in ()).throw(RuntimeError("other")), advise)


def test_memory_in_use_is_no_longer_free():
    gc.collect()
    before = available_bytes(CPU)
    block = torch.ones(2**27)  # half a gigabyte, every page of it
    assert available_bytes(CPU) < before - 2**27
    assert len(block)


@pytest.mark.slow
def test_the_students_of_scores_are_counted(tmp_path):
    scores = ("scores=robust", "scores.rates=[0.5,1.0]", "stages=[distill,score]", "baselines=[]")
    config = compose_config(*tiny_overrides(tmp_path), *scores)
    before = estimate(config)
    run(config)
    (row,) = json.loads((tmp_path / "runs" / "tiny" / "0" / "scores.json").read_text())["rows"]
    made = sum(len(c["accuracies"]) + len(c["chosen_on"]) for c in row["cells"])
    told = [int(work.what.split()[0]) for work in works_of(before, "score")]
    assert sum(told) == made
    assert works_of(estimate(config), "score") == []


@pytest.mark.slow
def test_views_and_samples_are_counted_as_they_will_be_made(tmp_path):
    config = compose_config(*generative_overrides(tmp_path), "baselines=[random,base]")
    found = estimate(config)
    assert list(tmp_path.iterdir()) == []
    steps = {work.what: work.steps for work in found.works if work.steps}
    run(config)
    path = tmp_path / "runs" / "tiny" / "0"
    epochs = list((path / "labels").rglob("epoch_*"))
    images = load_set(path / "distilled").images
    assert steps["label by 1 teachers (aligned)"] == len(images) * len(epochs)
    assert steps["train the generator"] == 6
    assert steps["sample Diffusion, unguided"] == len(images)
    results = load_results(path / "results.json")
    made = sum(student.num_steps for result in results for student in result.students)
    assert sum(work.steps for work in works_of(found, "evaluate")) == made
    stored = sum(part.stat().st_size for part in epochs)
    assert next(w.disk for w in works_of(found, "relabel") if w.disk) <= stored
