"""Which space pixels are in: inferred with a warning, or asked for."""

import pytest
import torch

from geodm_lightning.data.normalise import normalise
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.types import InputError

WHOLE = Declaration(factor=1)


def said(imported, start):
    return [line for line in imported.warnings if line.startswith(start)]


def test_unit_pixels_are_recognised(keep, made, spec):
    imported = read_set(keep(*made()[:2]), spec=spec, declared=WHOLE)
    assert imported.distilled.manifest["source"]["space"] == "unit"
    assert len(said(imported, "inferred space=unit")) == 1


def test_normalised_pixels_are_recognised(keep, made, spec):
    images, labels = made()[:2]
    imported = read_set(keep(normalise(images, spec), labels), spec=spec, declared=WHOLE)
    assert imported.distilled.manifest["source"]["space"] == "normalised"
    assert len(said(imported, "inferred space=normalised")) == 1
    torch.testing.assert_close(imported.distilled.images, images, rtol=0, atol=1e-6)


def test_pixels_of_no_known_space_are_asked_about(keep, made, spec):
    with pytest.raises(InputError, match="in neither unit nor normalised range"):
        read_set(keep(made().images * 9 - 4, made().labels), spec=spec, declared=WHOLE)


def test_pixels_from_minus_one_to_one_are_asked_about(keep, made, spec):
    """With the constants of CIFAR-10 they would be grey: 0.25 to 0.69."""
    path = keep(made().images * 2 - 1, made().labels)
    with pytest.raises(InputError, match=r"end at -1 and 1.*mean= and std= of 0.5"):
        read_set(path, spec=spec, declared=WHOLE)
    halves = (0.5, 0.5, 0.5)
    declared = WHOLE._replace(space="normalised", mean=halves, std=halves)
    imported = read_set(path, spec=spec, declared=declared)
    torch.testing.assert_close(imported.distilled.images, made().images, rtol=0, atol=1e-6)


def test_bytes_kept_as_floats_are_told_how_to_declare_them(keep, made, spec):
    path = keep(made(eight_bits=True).images.float(), made().labels)
    with pytest.raises(InputError, match="declare space=unit, space=normalised, space=uint8, or"):
        read_set(path, spec=spec, declared=WHOLE)


def test_pixels_that_could_be_of_two_spaces_are_asked_about(keep, made, spec):
    """Learned in unit range without clamping, they would also pass for normalised ones."""
    images = made().images * 1.1 - 0.05
    with pytest.raises(InputError, match="could be in either unit or normalised range"):
        read_set(keep(images, made().labels), spec=spec, declared=WHOLE)
    declared = WHOLE._replace(space="unit")
    imported = read_set(keep(images, made().labels), spec=spec, declared=declared)
    assert torch.equal(imported.distilled.images, images)
    assert len(said(imported, "pixels are not clamped: -0.05 to 1.05, 9% outside")) == 1


@pytest.mark.parametrize(
    ("space", "scale"), [("unit", 255), ("normalised", 255), ("uint8", 1.5), ("uint8", -255)]
)
def test_pixels_outside_the_declared_range_are_refused(keep, made, spec, space, scale):
    declared = WHOLE._replace(space=space)
    with pytest.raises(InputError, match=f"space={space} is declared, but "):
        read_set(keep(made().images * scale, made().labels), spec=spec, declared=declared)


def test_clean_normalised_pixels_are_not_taken_for_unit(keep, made, spec):
    path = keep(normalise(made().images, spec), made().labels)
    with pytest.raises(InputError, match=r"space=unit is declared, but .*: space=normalised"):
        read_set(path, spec=spec, declared=WHOLE._replace(space="unit"))


def test_bytes_kept_as_floats_are_bytes_when_declared(keep, made, spec):
    images = made(eight_bits=True).images
    declared = WHOLE._replace(space="uint8")
    imported = read_set(keep(images.float(), made().labels), spec=spec, declared=declared)
    assert torch.equal(imported.distilled.images, images)


def test_a_doubtful_declaration_is_warned_of(keep, made, spec):
    declared = WHOLE._replace(space="normalised")
    imported = read_set(keep(*made()[:2]), spec=spec, declared=declared)
    assert len(said(imported, "space=normalised is declared, but")) == 1


def test_declared_constants_replace_those_of_the_catalog(keep, made, spec):
    theirs = spec._replace(mean=(0.5,) * 3, std=(0.25,) * 3)
    path = keep(normalise(made().images, theirs), made().labels)
    declared = WHOLE._replace(space="normalised", mean=theirs.mean, std=theirs.std)
    imported = read_set(path, spec=spec, declared=declared)
    torch.testing.assert_close(imported.distilled.images, made().images, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="do not fit the 3 channels"):
        read_set(path, spec=spec, declared=declared._replace(mean=(0.5,)))


def test_a_pixel_that_is_not_finite_is_refused(keep, made, spec):
    made_set = made()
    made_set.images[3, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="pixels that are not finite"):
        read_set(keep(*made_set[:2]), spec=spec, declared=WHOLE)
