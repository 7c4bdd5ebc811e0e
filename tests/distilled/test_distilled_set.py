import pytest
import torch

from geodm_lightning.distilled.distilled_set import (
    DistilledSet,
    class_major_labels,
    decode_mosaic,
)


def test_decoding_cuts_tiles_in_reading_order():
    tiles = torch.arange(4.0).reshape(2, 2)
    mosaic = tiles.repeat_interleave(4, 0).repeat_interleave(4, 1)[None, None]
    decoded = decode_mosaic(mosaic, factor=2)
    expected = torch.arange(4.0)[:, None, None, None].expand(4, 1, 8, 8)
    torch.testing.assert_close(decoded, expected)


@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_decoding_keeps_leading_axes(leading):
    images = torch.rand(*leading, 5, 3, 8, 8)
    decoded = decode_mosaic(images, factor=2)
    assert decoded.shape == (*leading, 20, 3, 8, 8)
    one = decode_mosaic(images[(0,) * len(leading)][3:4], factor=2)
    torch.testing.assert_close(decoded[(0,) * len(leading)][12:16], one)


def test_decoding_passes_gradients():
    images = torch.rand(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decode_mosaic(x, factor=2), (images,))


def test_factor_must_divide_the_image():
    with pytest.raises(ValueError, match="factor 3 does not divide an image of 8×8"):
        decode_mosaic(torch.zeros(1, 1, 8, 8), factor=3)


def test_decoded_set_repeats_labels_and_is_its_own_decoding():
    manifest = {"factor": 2}
    distilled = DistilledSet(torch.rand(6, 1, 8, 8), class_major_labels(3, 2), manifest)
    decoded = distilled.decode()
    assert decoded.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    torch.testing.assert_close(decoded.decode().images, decoded.images)
    assert manifest == {"factor": 2}


def test_digest_tells_sets_apart():
    images, labels = torch.rand(4, 1, 8, 8), class_major_labels(2, 2)
    digest = DistilledSet(images, labels, {"factor": 1}).digest()
    assert digest == DistilledSet(images.clone(), labels.clone(), {"factor": 1}).digest()
    other = images.clone()
    other[0, 0, 0, 0] += 1e-6
    assert digest != DistilledSet(other, labels, {"factor": 1}).digest()
    assert digest != DistilledSet(images, labels.flip(0), {"factor": 1}).digest()
    assert digest != DistilledSet(images, labels, {"factor": 2}).digest()


def test_eight_bits_and_unit_range_are_the_same_pictures():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    distilled = DistilledSet(pixels, torch.zeros(3, dtype=torch.int64), {"factor": 1})
    chosen = distilled.unit_images(torch.tensor([2, 1]))
    torch.testing.assert_close(chosen.flatten(), torch.tensor([1.0, 0.2]))
    assert distilled.decode().images.dtype == torch.uint8
    unit = distilled._replace(images=distilled.unit_images())
    assert torch.equal(unit.unit_images(), unit.images)


def test_a_mosaic_of_eight_bits_decodes_as_its_unit_pixels():
    pixels = torch.arange(16, dtype=torch.uint8).reshape(1, 1, 4, 4)
    distilled = DistilledSet(pixels, torch.zeros(1, dtype=torch.int64), {"factor": 2})
    expected = decode_mosaic(pixels.float() / 255, factor=2)
    assert torch.equal(distilled.decode().images, expected)


def test_tiles_have_the_soft_labels_of_their_mosaic():
    soft = torch.arange(6.0).reshape(3, 2)
    distilled = DistilledSet(torch.rand(3, 1, 8, 8), torch.zeros(3).long(), {"factor": 2}, soft)
    decoded = distilled.decode().soft_labels
    assert torch.equal(decoded[4:8], soft[1].expand(4, 2))
    assert torch.equal(decoded[::4], soft)


def test_digests_of_sets_without_soft_labels_are_as_before():
    """Results of earlier versions are known by these digests."""
    distilled = DistilledSet(torch.zeros(1, 1, 2, 2), torch.zeros(1).long(), {"factor": 1})
    assert distilled.digest().startswith("3975e5ae04e0d7cd")
    assert distilled._replace(soft_labels=torch.zeros(1, 2)).digest() != distilled.digest()
