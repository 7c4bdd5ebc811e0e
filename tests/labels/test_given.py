import json

import pytest
import torch

from geodm_lightning.labels.given import GivenBatch, GivenViews
from geodm_lightning.types import InputError


def batch(size, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return GivenBatch(
        indices=torch.randperm(9, generator=generator)[:size],
        crops=torch.rand(size, 4, generator=generator).double() / 2 + 0.1,
        flips=torch.rand(size, generator=generator) < 0.5,
        partners=torch.randperm(size, generator=generator),
        boxes=torch.randint(0, 9, (size, 4), generator=generator),
        shares=torch.rand(size, generator=generator),
        logits=torch.randn(size, 5, generator=generator).half(),
    )


EPOCHS = [[batch(4), batch(4, seed=1), batch(1, seed=2)], [batch(9, seed=3)]]
OPTIONS = {"num_images": 9, "resolution": 8, "mix": "cutmix", "source": {"format": "test"}}


@pytest.fixture
def given(tmp_path):
    return GivenViews.write(tmp_path / "given", EPOCHS, **OPTIONS)


def test_what_is_written_is_played_back(given):
    assert given.epochs == 2
    for epoch, expected in enumerate(EPOCHS):
        played = list(GivenViews(given.folder).batches(epoch))
        assert len(played) == len(expected)
        for ours, theirs in zip(played, expected, strict=True):
            for name, column in ours._asdict().items():
                expected_column = getattr(theirs, name)
                assert column.dtype == expected_column.dtype
                rounding = 1e-7 if name == "crops" else 0  # kept in single precision
                torch.testing.assert_close(column, expected_column, rtol=0, atol=rounding)


def test_the_digest_is_that_of_the_views(given, tmp_path):
    again = GivenViews.write(tmp_path / "again", EPOCHS, **OPTIONS)
    assert again.digest() == given.digest()
    mixup = GivenViews.write(tmp_path / "mixup", EPOCHS, **{**OPTIONS, "mix": "mixup"})
    swapped = GivenViews.write(tmp_path / "swapped", EPOCHS[::-1], **OPTIONS)
    assert len({given.digest(), mixup.digest(), swapped.digest()}) == 3


def test_an_epoch_there_is_not_is_named(given):
    with pytest.raises(InputError, match="has views of 2 epochs, not of 2"):
        next(given.batches(2))


def test_a_flipped_bit_is_named(given):
    path = given.folder / "epoch_00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    next(given.batches(0))
    with pytest.raises(InputError, match=r"epoch_00001.safetensors does not have the SHA-256"):
        next(given.batches(1))
    path.unlink()
    with pytest.raises(InputError, match=r"epoch_00001.safetensors is missing"):
        next(given.batches(1))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format_version": 2}, "is not of format_version 1"),
        ({"epochs": "2"}, "lacks one of epochs"),
        ({"epochs": 3}, "names 2 parts of 3 epochs"),
        ({"mix": "paste"}, "lacks mix or sha256"),
    ],
)
def test_a_damaged_manifest_is_named(given, changes, reason):
    path = given.folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(InputError, match=reason):
        GivenViews(given.folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"indices": torch.tensor([0, 1, 2, 9])}, "indices from 0 to 9, not below 9"),
        ({"partners": torch.tensor([0, 1, 2, -1])}, "partners from -1 to 2"),
        ({"boxes": torch.full((4, 4), 9)}, "boxes from 9 to 9, not below 9"),
        ({"crops": torch.zeros(4, 4)}, "crops that leave the image"),
        ({"shares": torch.full((4,), -0.1)}, "shares outside"),
        ({"flips": torch.zeros(3, dtype=torch.bool)}, r"columns of \[4, 4, 3,"),
        ({"logits": torch.full((4, 5), float("inf"))}, "not finite"),
    ],
)
def test_batches_that_refer_to_nothing_are_refused(tmp_path, changes, reason):
    with pytest.raises(InputError, match=reason):
        GivenViews.write(tmp_path / "given", [[batch(4)._replace(**changes)]], **OPTIONS)
    with pytest.raises(InputError, match="no given views in"):
        GivenViews(tmp_path / "given")
