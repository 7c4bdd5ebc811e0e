"""Candidates: what students see of a set, and which sets are refused."""

import pytest
import torch

from geodm_lightning.data.normalise import normalise
from geodm_lightning.evaluation.candidate import candidate_from_set, candidate_from_table
from geodm_lightning.types import InputError

CPU = torch.device("cpu")


def test_students_see_the_normalised_images(digits, make_set, candidate):
    chosen = torch.tensor([99, 0, 37])
    expected = normalise(make_set().images[chosen], digits.spec)
    torch.testing.assert_close(candidate.fetch(chosen), expected, rtol=0, atol=0)
    assert candidate.labels[chosen].tolist() == [9, 0, 3]


def test_pixels_of_eight_bits_are_seen_as_their_floats_are(digits, make_set, candidate):
    plain = make_set()
    coarse = (plain.images * 255).round().to(torch.uint8)
    small = candidate_from_set(plain._replace(images=coarse), spec=digits.spec, device=CPU)
    chosen = torch.tensor([99, 0, 37])
    expected = normalise(coarse[chosen].float() / 255, digits.spec)
    assert torch.equal(small.fetch(chosen), expected)
    assert small.digest != candidate.digest


def test_mosaics_are_cut_and_labelled(digits, make_set):
    candidate = candidate_from_set(make_set(factor=2), spec=digits.spec, device=CPU)
    assert len(candidate.labels) == 400
    assert torch.equal(candidate.labels.bincount(), torch.full((10,), 40))
    # A tile of the first image, enlarged, keeps the tile's corner pixel.
    corner = normalise(make_set().images[:1], digits.spec)[0, 0, 0, 0]
    torch.testing.assert_close(candidate.fetch(torch.tensor([0]))[0, 0, 0, 0], corner)


def test_digest_follows_the_pixels(digits, make_set, candidate):
    changed = make_set()
    changed.images[0, 0, 0, 0] += 0.5
    other = candidate_from_set(changed, spec=digits.spec, device=CPU)
    again = candidate_from_set(make_set(label="X"), spec=digits.spec, device=CPU)
    assert other.digest != candidate.digest
    assert again.digest == candidate.digest


def test_manifest_is_carried_over(digits, make_set):
    distilled = make_set(method="geodm", label="GeoDM", schedule_share=0.025)
    candidate = candidate_from_set(distilled, spec=digits.spec, device=CPU)
    assert candidate[:3] == ("geodm", "GeoDM", 10)
    assert candidate.schedule_share == 0.025


def test_whole_set_is_every_training_image(digits):
    candidate = candidate_from_table(digits.train, method="whole", label="Whole set")
    assert candidate.ipc is None
    assert torch.equal(candidate.labels, digits.train.labels)
    expected = normalise(digits.train.gather(torch.tensor([5])), digits.spec)
    assert torch.equal(candidate.fetch(torch.tensor([5])), expected)
    test = candidate_from_table(digits.test, method="whole", label="Whole set")
    assert test.digest != candidate.digest


def test_set_of_another_data_set_is_refused(digits, make_set):
    distilled = make_set(dataset={**digits.spec._asdict(), "name": "mnist"})
    with pytest.raises(InputError, match="from mnist, not digits"):
        candidate_from_set(distilled, spec=digits.spec, device=CPU)


def test_set_of_another_resolution_is_refused(digits, make_set):
    with pytest.raises(InputError, match=r"\(1, 8, 8\), digits of \(1, 16, 16\)"):
        candidate_from_set(make_set(), spec=digits.spec._replace(resolution=16), device=CPU)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused(digits, make_set, value):
    distilled = make_set()
    distilled.images[3, 0, 1, 1] = value
    with pytest.raises(InputError, match="not finite"):
        candidate_from_set(distilled, spec=digits.spec, device=CPU)
