"""Folders of MTT and its heirs: which files belong together, and which are taken."""

import pytest
import torch

from geodm_lightning.data.normalise import normalise
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.types import InputError


@pytest.fixture
def folder(tmp_path, made, spec):
    """Iterations 10 and 500."""
    distilled = made()
    for iteration in (10, 500):
        images = distilled.images.clone()
        images[5] = iteration / 1000
        torch.save(normalise(images, spec), tmp_path / f"images_{iteration}.pt")
        torch.save(distilled.labels, tmp_path / f"labels_{iteration}.pt")
    return tmp_path


@pytest.fixture
def whitened(folder, made):
    """The same, iteration 500 whitened, and with its whitening undone beside it."""
    images = 0.2 * (2 * made().images - 1)
    images[:, :, 0, 0] *= 5  # edges stick out
    torch.save(images, folder / "images_500.pt")
    torch.save(made().images, folder / "images_zca_500.pt")
    return folder


def test_the_last_iteration_is_taken_and_said(folder, spec):
    imported = read_set(folder, spec=spec)
    torch.testing.assert_close(imported.distilled.images[5], torch.full((3, 8, 8), 0.5))
    assert any(line.startswith("took images_500.pt of images_10.pt") for line in imported.warnings)


def test_the_best_is_taken_before_the_last(folder, spec, made):
    torch.save(made().images, folder / "images_best.pt")
    torch.save(made().labels, folder / "labels_best.pt")
    assert torch.equal(read_set(folder, spec=spec).distilled.images, made().images)


def test_a_file_chooses_its_iteration(folder, spec):
    imported = read_set(folder / "images_10.pt", spec=spec)
    torch.testing.assert_close(imported.distilled.images[5], torch.full((3, 8, 8), 0.01))
    assert not any(line.startswith("took") for line in imported.warnings)


@pytest.mark.parametrize("name", ["", "images_zca_500.pt"])
def test_images_with_their_whitening_undone_are_taken(whitened, spec, made, name):
    imported = read_set(whitened / name, spec=spec)
    assert imported.distilled.manifest["source"]["space"] == "unit"
    assert torch.equal(imported.distilled.images, made().images)
    assert any("images_500.pt beside it is the same, whitened" in w for w in imported.warnings) == (
        name == ""
    )


def test_whitened_images_are_not_taken_for_normalised_ones(whitened, spec):
    """Their range would do for both, their name for nothing else."""
    with pytest.raises(InputError, match=r"images_500.pt is whitened, as images_zca_500.pt beside"):
        read_set(whitened / "images_500.pt", spec=spec)
    (whitened / "images_zca_500.pt").unlink()
    with pytest.raises(InputError, match=r"by about 1: whitened\? declare space=zca"):
        read_set(whitened / "images_500.pt", spec=spec)


def test_labels_of_the_same_iteration_are_needed(folder, spec):
    (folder / "labels_500.pt").unlink()
    with pytest.raises(InputError, match=r"images_500.pt has no labels_500.pt beside it"):
        read_set(folder, spec=spec)


def test_soft_labels_without_their_rate_are_warned_of(folder, spec, made):
    torch.save(made(soft=True).soft_labels, folder / "labels_500.pt")
    assert any("no lr_500.pt" in line for line in read_set(folder, spec=spec).warnings)
    torch.save(torch.tensor(0.02), folder / "lr_500.pt")
    imported = read_set(folder, spec=spec)
    assert not any("lr_500" in line for line in imported.warnings)
    assert imported.distilled.manifest["learned"]["lr"] == pytest.approx(0.02)
    assert set(imported.distilled.manifest["source"]["sha256"]) == {
        "images_500.pt",
        "labels_500.pt",
        "lr_500.pt",
    }


@pytest.mark.parametrize("rate", [torch.tensor(float("nan")), torch.zeros(2)])
def test_a_rate_that_is_none_is_refused(folder, spec, rate):
    torch.save(rate, folder / "lr_500.pt")
    with pytest.raises(InputError, match=r"the rate in .*lr_500.pt is (nan|no number)"):
        read_set(folder, spec=spec)


def test_a_folder_without_iterations_is_refused(tmp_path, spec):
    torch.save(torch.zeros(1), tmp_path / "images_last.pt")
    with pytest.raises(InputError, match=r"has no images_best.pt nor images_NUMBER.pt"):
        read_set(tmp_path, spec=spec)
