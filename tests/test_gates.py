"""Each gate against a set of digits that is broken in that very way."""

import pytest
import torch
from torch.nn.functional import one_hot

from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.data.normalise import denormalise, normalise
from geodm_lightning.distilled.distilled_set import DistilledSet, class_major_labels
from geodm_lightning.distilled.storage import load_set, save_set
from geodm_lightning.distillers.selection import random_selection
from geodm_lightning.pipeline import folder_of
from geodm_lightning.site import Site
from geodm_lightning.stages.class_order import order_problem
from geodm_lightning.stages.gates import check_gates, problems_of
from geodm_lightning.stages.run import Run
from geodm_lightning.types import InputError
from tests.experiment import compose_settings, tiny_overrides

IPC = 20


@pytest.fixture(scope="module")
def data():
    module = RealDataModule("digits")
    module.setup()
    return module


@pytest.fixture(scope="module")
def sound(data):
    chosen = random_selection(
        data.train, ipc=IPC, generator=torch.Generator().manual_seed(0)
    ).flatten()
    manifest = {
        "method": "random",
        "label": "Random real images",
        "ipc": IPC,
        "factor": 1,
        "dataset": data.spec._asdict(),
    }
    return DistilledSet(data.train.gather(chosen), class_major_labels(10, IPC), manifest)


def told(distilled, spec, *, fatal=True):
    return [p.text for p in problems_of(distilled, spec) if p.fatal == fatal]


def named(distilled, names):
    return distilled._replace(manifest={**distilled.manifest, "classes": {"names": names}})


def test_real_images_have_no_problem(sound, data):
    assert told(sound, data.spec) == []
    assert told(sound, data.spec, fatal=False) == []
    assert order_problem(sound, data.train) is None


def test_pixels_of_every_other_space_are_told_apart(sound, data):
    normalised = sound._replace(images=normalise(sound.images, data.spec))
    assert "they look normalised; declare space=normalised" in told(normalised, data.spec)[0]
    bytes_ = sound._replace(images=sound.images * 255)
    assert "declare space=uint8" in told(bytes_, data.spec)[0]
    twice = sound._replace(images=denormalise(sound.images, data.spec))
    assert "scaled back twice; declare space=unit" in told(twice, data.spec)[0]
    generator = torch.Generator().manual_seed(0)
    white = sound._replace(images=torch.randn(sound.images.shape, generator=generator))
    assert "whitened; declare space=zca" in told(white, data.spec)[0]


def test_learned_pixels_may_leave_their_range(sound, data):
    stretched = sound._replace(images=(sound.images - 0.3) * 1.4)
    assert told(stretched, data.spec) == []
    (warning,) = told(stretched, data.spec, fatal=False)
    assert "lie outside [0, 1], from -0.42 to 0.98" in warning


def test_rounding_leaves_no_range(sound, data):
    """Normalised pixels come back a little off; half of the black ones are below 0 then."""
    noise = torch.rand(sound.images.shape, generator=torch.Generator().manual_seed(0)) - 0.5
    assert told(sound._replace(images=sound.images + 1e-6 * noise), data.spec, fatal=False) == []


def test_pixels_that_show_nothing_are_refused(sound, data):
    blank = sound.images.clone()
    blank[::4] = 0.5
    assert "25.0% of its images show a single colour" in told(
        sound._replace(images=blank), data.spec
    )
    blank[0, 0, 0, 0] = torch.nan
    problems = told(sound._replace(images=blank), data.spec)
    assert "it holds pixels that are not finite" in problems


def test_class_names_in_another_order_name_the_cause(sound, data):
    names = data.spec.class_names
    (problem,) = told(named(sound, [*names[1:], names[0]]), data.spec)
    assert "class 0 is '1' there and '0' in digits" in problem
    assert "the same classes in another order" in problem
    spec = data.spec._replace(class_names=tuple(reversed(names)))
    (problem,) = told(named(sound, sorted(names)), spec)
    assert "the order of sorted folders" in problem
    (problem,) = told(named(sound, [f"n0{i:07d}" for i in range(10)]), data.spec)
    assert "WordNet folders on one side" in problem
    (problem,) = told(named(sound, names[:9]), data.spec)
    assert "9 classes, digits has 10" in problem


def test_labels_in_another_order_show_without_any_names(sound, data):
    turned = sound._replace(labels=(sound.labels + 3) % 10)
    assert told(turned, data.spec) == []
    problem = order_problem(turned, data.train)
    assert "wrong class order" in problem
    assert "declare the order of its classes" in problem


def test_no_order_is_found_where_labels_mean_nothing(sound, data):
    generator = torch.Generator().manual_seed(0)
    mixed = sound._replace(
        labels=sound.labels[torch.randperm(len(sound.labels), generator=generator)]
    )
    assert order_problem(mixed, data.train) is None


def test_copies_under_two_labels_are_refused_and_others_told(sound, data):
    images = sound.images.clone()
    images[IPC : IPC + 5] = images[:5]  # five images of class 0 again as class 1
    copied = sound._replace(images=images)
    assert told(copied, data.spec)[0].startswith("10 of 200 images are there under several labels")
    images = sound.images.clone()
    images[1] = images[0]
    once = sound._replace(images=images)
    assert told(once, data.spec) == []
    assert told(once, data.spec, fatal=False) == ["1 of 200 images are exact copies of others"]
    images[:150] = images[0]
    assert any("149 of 200" in text for text in told(sound._replace(images=images), data.spec))


def test_classes_without_images_are_refused_and_uneven_ones_told(sound, data):
    some = sound._replace(images=sound.images[IPC:], labels=sound.labels[IPC:])
    assert told(some, data.spec) == ["1 classes have no image, the first is 0 (0)"]
    fewer = sound._replace(images=sound.images[1:], labels=sound.labels[1:])
    assert told(fewer, data.spec, fatal=False) == ["classes have between 19 and 20 images"]


def test_soft_labels_of_another_kind_or_order_are_refused(sound, data):
    logits = 5.0 * one_hot(sound.labels, 10).float()
    assert told(sound._replace(soft_labels=logits), data.spec) == []
    (problem,) = told(sound._replace(soft_labels=logits.softmax(1)), data.spec)
    assert "declare labels=probabilities" in problem
    (problem,) = told(sound._replace(soft_labels=logits.roll(1, dims=1)), data.spec)
    assert "agree with the class of only 0.0% of the images" in problem
    (problem,) = told(sound._replace(soft_labels=logits[:, :9]), data.spec)
    assert "shape (200, 9), not (200, 10)" in problem
    (problem,) = told(sound._replace(soft_labels=torch.full((200, 10), 2.0)), data.spec)
    assert "the same for every image" in problem


@pytest.fixture
def run_of_a_turned_set(tmp_path, sound, data):
    settings = compose_settings(*tiny_overrides(tmp_path), "baselines=[random]", "ipc=20")
    run = Run(settings, folder_of(settings, 0), data, Site(torch.device("cpu")))
    turned = sound._replace(labels=(sound.labels + 3) % 10)
    save_set(run.folder.distilled("random", is_main=False), turned)
    return run


def test_a_run_refuses_what_would_waste_hours(run_of_a_turned_set):
    with pytest.raises(InputError, match=r"the set of Random real images: .*gates=warn goes on"):
        check_gates(run_of_a_turned_set)


def test_a_run_goes_on_where_one_insists(run_of_a_turned_set, capsys):
    run = run_of_a_turned_set
    check_gates(run._replace(settings={**run.settings, "gates": "warn"}))
    assert "warning: the set of Random real images: " in capsys.readouterr().out
    folder = run.folder.distilled("random", is_main=False)
    assert load_set(folder).labels[0] == 3
