"""Which teachers are asked, and where what they say is kept."""

import pytest
import torch

from geodm_lightning import assembly
from geodm_lightning.site import Site
from geodm_lightning.types import InputError
from tests.experiment import compose_settings, generative_overrides

CPU = torch.device("cpu")
POOL = "teachers.pool=[{source: trained, name: convnet, depth: 3, width: 4}, "
POOL += "{source: trained, name: convnet, depth: 3, width: 8}]"


def settings_of(folder, *more):
    return compose_settings(*generative_overrides(folder), POOL, *more)


@pytest.mark.parametrize(("ipc", "count"), [(1, 1), (9, 1), (10, 2), (50, 2), (100, 2)])
def test_an_aligned_prefix_grows_with_the_images_and_ends_with_the_pool(ipc, count):
    settings = settings_of("x", f"ipc={ipc}")
    settings["teachers"]["aligned"] = {1: 1, 10: 2, 100: 7}
    assert assembly.wanted_teachers(settings) == {"aligned": count}


def test_hard_labels_ask_nobody_and_all_means_all():
    assert assembly.wanted_teachers(settings_of("x", "supervision=hard")) == {}
    ablation = settings_of("x", "supervision=ablation", "ipc=1")
    assert assembly.wanted_teachers(ablation) == {"aligned": 1, "all": 2}
    ablation["teachers"]["aligned"] = {5: 1}
    with pytest.raises(InputError, match="no number of teachers is listed for 1 images"):
        assembly.wanted_teachers(ablation)


def test_teachers_are_trained_once_and_a_prefix_is_the_same_teachers(tmp_path):
    settings = settings_of(tmp_path)
    data = assembly.build_data(settings, CPU)
    both = assembly.build_teachers(settings, data, Site(CPU), count=2)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.ckpt")}
    first = assembly.build_teachers(settings, data, Site(CPU), count=1)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.ckpt")} == times
    assert len(times) == 2
    assert both.prefix(1).digest() == first.digest() != both.digest()
    images = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(both.prefix(1).logits(images), first.logits(images))


def test_teachers_of_one_architecture_differ(tmp_path):
    same = "{source: trained, name: convnet, depth: 3, width: 4}"
    settings = settings_of(tmp_path, f"teachers.pool=[{same}, {same}]")
    data = assembly.build_data(settings, CPU)
    pool = assembly.build_teachers(settings, data, Site(CPU), count=2)
    one, two = (teacher.state_dict() for teacher in pool.teachers)
    assert any(not torch.equal(one[key], two[key]) for key in one)


def test_a_supervision_that_does_not_fit_is_one_line():
    with pytest.raises(InputError, match=r"supervision\.lia does not fit \(.*'warmth'") as caught:
        assembly.build_supervisions(settings_of("x", "+supervision.lia.warmth=1"))
    assert "\n" not in str(caught.value)
