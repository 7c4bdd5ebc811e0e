"""A set written in a format and read again is the set."""

import pytest
import torch
from safetensors.torch import save_file

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.formats import FORMATS, format_of
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.exchange.spaces import from_unit
from geodm_lightning.exchange.whitening import load_whitening
from geodm_lightning.exchange.writing import losses, write_set
from geodm_lightning.types import InputError

UNIT_ROUNDING = 2**-23  # of pixels that were normalised and are not any more
NAMES = {"dc": "res.pt", "idc": "data.pt", "idm": "acc.pkl", "ddranking": "dd.pt"}
FLOAT = ("native", "dc", "idc", "idm", "mtt", "datm", "ddranking")
EXACT = ("native", "idc")
MOSAICS = ("native", "idc", "idm")
SOFT = ("native", "mtt", "datm", "ddranking", "hf")


def round_trip(folder, distilled, format, spec, *, factor=1):
    target = write_set(folder / NAMES.get(format, format), distilled, format=format)
    knows = format in ("idc", "idm")
    return read_set(target, spec=spec, declared=Declaration(factor=factor if knows else None))


@pytest.mark.parametrize("format", FLOAT)
@pytest.mark.parametrize("factor", [1, 2])
def test_float_pixels_come_back(tmp_path, made, spec, format, factor):
    distilled = made(factor=factor)
    read = round_trip(tmp_path, distilled, format, spec, factor=factor).distilled
    expected = distilled if format in MOSAICS else distilled.decode()
    bound = 0 if format in EXACT else UNIT_ROUNDING
    assert (read.images - expected.images).abs().max() <= bound
    assert torch.equal(read.labels, expected.labels)
    assert read.manifest["factor"] == expected.manifest["factor"]
    assert read.manifest["ipc"] == len(expected.labels) // spec.num_classes


@pytest.mark.parametrize("format", FLOAT)
def test_pixels_that_were_learned_without_clamping_come_back(tmp_path, made, spec, format):
    """As far out as sets of few images were measured to be, with the space declared."""
    distilled = made()
    distilled = distilled._replace(images=distilled.images * 16 - 7.5)
    target = write_set(tmp_path / NAMES.get(format, format), distilled, format=format)
    space = None if format == "native" else "unit" if format in EXACT else "normalised"
    declared = Declaration(space=space, factor=1 if format in ("idc", "idm") else None)
    imported = read_set(target, spec=spec, declared=declared)
    bound = 0 if format in EXACT else UNIT_ROUNDING * (1 + distilled.images.abs().max())
    assert (imported.distilled.images - distilled.images).abs().max() <= bound
    assert format == "native" or any("not clamped" in line for line in imported.warnings)


def test_what_a_format_loses_is_told(made):
    assert losses(made(), "idc") == losses(made(eight_bits=True), "images") == ()
    wild = made(factor=2, learned=0.1)
    wild.images[0] = 3
    bits, mosaics, rate = losses(wild, "hf")
    assert bits.startswith("hf keeps 8 bits: pixels moved by up to 2 of unit range, 5% of them")
    assert mosaics == "hf knows no mosaics: each is cut into 4 images"
    assert rate == "hf has no place for the learned rate"
    assert losses(wild, "native") == ()


@pytest.mark.parametrize("format", ["native", "idc", "images", "hf"])
def test_eight_bits_come_back_exactly(tmp_path, made, spec, format):
    distilled = made(eight_bits=True)
    read = round_trip(tmp_path, distilled, format, spec).distilled
    assert torch.equal(read.unit_images(), distilled.unit_images())
    assert torch.equal(read.labels, distilled.labels)


@pytest.mark.parametrize("format", ["images", "hf"])
def test_pictures_move_floats_by_half_a_grey_level(tmp_path, made, spec, format):
    distilled = made()
    read = round_trip(tmp_path, distilled, format, spec).distilled
    assert read.images.dtype == torch.uint8
    moved = (read.unit_images() - distilled.images).abs().max()
    assert 0 < moved <= 1 / 510 + 1e-7


@pytest.mark.parametrize("format", SOFT)
def test_soft_labels_come_back_exactly(tmp_path, made, spec, format):
    distilled = made(soft=True)
    read = round_trip(tmp_path, distilled, format, spec).distilled
    assert torch.equal(read.soft_labels, distilled.soft_labels)
    assert torch.equal(read.labels, distilled.labels)
    assert read.manifest["soft_labels"]["kind"] == "logits"


@pytest.mark.parametrize("format", sorted(set(FORMATS) - set(SOFT) - {"fkd"}))
def test_soft_labels_are_not_dropped_silently(tmp_path, made, format):
    with pytest.raises(InputError, match=f"{format} has no place for the soft labels"):
        write_set(tmp_path / "out", made(soft=True), format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["datm", "ddranking"])
def test_a_learned_rate_comes_back(tmp_path, made, spec, format):
    read = round_trip(tmp_path, made(learned=0.025), format, spec).distilled
    assert read.manifest["learned"]["lr"] == pytest.approx(0.025, rel=2**-23)


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"fkd"}))
def test_the_format_is_told_by_its_structure(tmp_path, made, format):
    distilled = made(learned=0.1 if format == "datm" else None)
    target = write_set(tmp_path / NAMES.get(format, format), distilled, format=format)
    assert format_of(target) == format


@pytest.mark.parametrize("format", ["mtt", "datm", "ddranking"])
def test_imagewoof_is_numbered_as_mtt_does(tmp_path, made, format):
    """Label 0 of MTT's ImageWoof is ImageNet's 193, its sixth folder: class 5 here."""
    spec = dataset_spec("imagewoof")._replace(resolution=8)
    distilled = made(of=spec, soft=True)
    imported = round_trip(tmp_path, distilled, format, spec)
    assert (imported.distilled.images - distilled.images).abs().max() <= UNIT_ROUNDING
    assert torch.equal(imported.distilled.soft_labels, distilled.soft_labels)
    assert any("number the classes of imagewoof as" in line for line in imported.warnings)
    path = tmp_path / ("dd.pt" if format == "ddranking" else f"{format}/images_best.pt")
    content = torch.load(path, weights_only=True)
    first = content["image_tensor"][0] if format == "ddranking" else content[0]
    expected = from_unit(distilled.images[distilled.labels == 5][:1], spec)[0]
    torch.testing.assert_close(first, expected, rtol=0, atol=1e-6)


def whitening(folder, size):
    """A ZCA of random images, as kornia and MTT make them: eps 0.1."""
    generator = torch.Generator().manual_seed(3)
    rows = torch.rand(400, size, generator=generator, dtype=torch.float64)
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    matrix = vectors @ torch.diag((values + 0.1).rsqrt()) @ vectors.T
    save_file({"mean": mean, "matrix": matrix}, folder / "zca.safetensors")
    return folder / "zca.safetensors"


def test_whitened_pixels_come_back(tmp_path, made, spec):
    distilled = made()
    zca = whitening(tmp_path, distilled.images[0].numel())
    target = write_set(tmp_path / "mtt", distilled, format="mtt", zca=zca)
    read = read_set(target, spec=spec, declared=Declaration(space="zca", zca=zca)).distilled
    matrix = load_whitening(zca).matrix
    largest = torch.load(target / "images_best.pt", weights_only=True).abs().max()
    bound = 2**-24 * largest * torch.linalg.inv(matrix).abs().sum(1).max() + 2**-24
    assert (read.images - distilled.images).abs().max() <= bound < 1e-5
    assert read.manifest["source"]["space"] == "zca"


def test_whitened_pixels_need_their_matrix(tmp_path, made, spec):
    zca = whitening(tmp_path, 192)
    target = write_set(tmp_path / "mtt", made(), format="mtt", zca=zca)
    with pytest.raises(InputError, match=r"need their matrix: zca=FILE"):
        read_set(target, spec=spec, declared=Declaration(space="zca"))
    wrong = whitening(tmp_path, 12)
    with pytest.raises(InputError, match="matrix for images of 12 values, these have 192"):
        read_set(target, spec=spec, declared=Declaration(zca=wrong))


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"fkd"}))
def test_nothing_is_overwritten_unasked(tmp_path, made, spec, format):
    target = write_set(tmp_path / NAMES.get(format, format), made(), format=format)
    with pytest.raises(InputError, match=r"exists; choose another place or overwrite=true"):
        write_set(target, made(), format=format)
    other = made()
    other.images[3] = 0.25
    write_set(target, other, format=format, overwrite=True)
    read = read_set(target, spec=spec, declared=Declaration(factor=1 if format in NAMES else None))
    assert (read.distilled.unit_images()[3] - 0.25).abs().max() < 1 / 500
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


@pytest.mark.parametrize("format", ["native", "mtt", "images", "hf"])
def test_a_folder_with_other_things_in_it_is_never_replaced(tmp_path, made, format):
    target = write_set(tmp_path / "set", made(), format=format)
    (target / "deep").mkdir()
    (target / "deep/thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds deep/thesis.tex, so it is more than a distilled"):
        write_set(target, made(), format=format, overwrite=True)
    assert (target / "deep/thesis.tex").read_text() == "years of work"


def test_a_file_is_not_replaced_by_a_folder(tmp_path, made):
    target = write_set(tmp_path / "data.pt", made(), format="idc")
    with pytest.raises(InputError, match="is not a folder, which hf is; choose another place"):
        write_set(target, made(), format="hf", overwrite=True)


def test_a_set_out_of_order_is_written_and_read_class_by_class(tmp_path, made, spec):
    distilled = made()
    mixed = torch.randperm(len(distilled.labels), generator=torch.Generator().manual_seed(1))
    shuffled = distilled._replace(images=distilled.images[mixed], labels=distilled.labels[mixed])
    order = shuffled.labels.sort(stable=True).indices
    written = round_trip(tmp_path, shuffled, "idc", spec).distilled
    assert torch.equal(written.images, shuffled.images[order])
    torch.save([shuffled.images, shuffled.labels], tmp_path / "mixed.pt")
    imported = read_set(tmp_path / "mixed.pt", spec=spec, declared=Declaration(factor=1))
    assert torch.equal(imported.distilled.images, shuffled.images[order])
    assert "images were not listed class by class; they are now" in imported.warnings


def test_what_is_no_format_is_named(tmp_path, made):
    with pytest.raises(InputError, match="unknown format jpeg; choose one of native, dc"):
        write_set(tmp_path / "out", made(), format="jpeg")
    with pytest.raises(InputError, match="only mtt and datm are whitened"):
        write_set(tmp_path / "out", made(), format="dc", zca=tmp_path)
    with pytest.raises(InputError, match="fkd needs views="):
        write_set(tmp_path / "out", made(), format="fkd")
