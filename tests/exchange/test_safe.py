"""Nothing in a file of others is run; what cannot be read is one line."""

import os
import pickle
import struct

import numpy as np
import pytest
import torch

from geodm_lightning.exchange.reading import read_set
from geodm_lightning.exchange.safe import load_pickle, load_torch
from geodm_lightning.types import InputError


class Hostile:
    """Pickles as a call of ``function``."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def system(marker):
    return Hostile(os.system, f"touch {marker}")


def evaluated(marker):
    return Hostile(eval, f"open({str(marker)!r}, 'w').close()")


CALLS = {"posix.system": system, "eval": evaluated}


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_hostile_file_is_refused_and_named(tmp_path, spec, name, zipped, wrapped):
    marker, path = tmp_path / "marker", tmp_path / "res.pt"
    call = CALLS[name](marker)
    content = {"data": [[torch.zeros(10, 3, 8, 8), torch.arange(10)]], "accs": call}
    options = {"_use_new_zipfile_serialization": zipped}
    torch.save(content if wrapped else call, path, **options)
    with pytest.raises(InputError) as error:
        read_set(path, spec=spec)
    assert f"asks for {name}," in one_line(error)
    assert not marker.exists()
    torch.load(path, weights_only=False)  # the call is real: without the guard it runs
    assert marker.exists()


@pytest.mark.parametrize("name", CALLS)
def test_a_hostile_pickle_is_refused_and_named(tmp_path, spec, name):
    marker, path = tmp_path / "marker", tmp_path / "acc_0.6.pkl"
    path.write_bytes(pickle.dumps((torch.zeros(10, 3, 8, 8), CALLS[name](marker))))
    with pytest.raises(InputError) as error:
        read_set(path, spec=spec)
    assert name in one_line(error)
    assert "nothing in it was run" in str(error.value)
    assert not marker.exists()


def test_a_hostile_storage_inside_a_pickle_is_not_run(tmp_path):
    """Tensors in a plain pickle carry a file of torch.save, which may be hostile itself."""
    marker, path = tmp_path / "marker", tmp_path / "acc.pkl"
    inner = pickle.dumps(system(marker), protocol=2)
    path.write_bytes(pickle.dumps(Hostile(torch.storage._load_from_bytes, inner)))
    with pytest.raises(InputError, match=r"posix.system"):
        load_pickle(path)
    assert not marker.exists()


def test_values_that_projects_keep_beside_images_are_read(tmp_path):
    """VICO keeps np.float64 accuracies, FKD np.int64 boxes: the default torch.load refuses them."""
    content = {"accs_all_exps": {"ConvNet": [np.float64(0.5)]}, "box": [np.int64(3)] * 4}
    content["curve"] = np.arange(3.0)
    path = tmp_path / "res.pt"
    torch.save(content, path)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    read = load_torch(path)
    assert read["accs_all_exps"] == {"ConvNet": [0.5]}
    assert read["box"] == [3, 3, 3, 3]
    assert read["curve"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_plain_tensors_of_a_pickle_are_read(tmp_path, protocol):
    images, labels = torch.randn(4, 3, 8, 8), torch.arange(4)
    path = tmp_path / "acc.pkl"
    path.write_bytes(pickle.dumps((images, labels, np.float64(0.5)), protocol=protocol))
    read = load_pickle(path)
    assert torch.equal(read[0], images)
    assert torch.equal(read[1], labels)
    assert read[2] == 0.5


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["data.pt", "acc.pkl"])
def test_a_cut_file_is_one_line(tmp_path, spec, share, name):
    content = (torch.rand(10, 3, 8, 8), torch.arange(10))
    path = tmp_path / name
    if name.endswith("pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(list(content), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=rf"{name}.* (is empty|is damaged)") as error:
        read_set(path, spec=spec)
    one_line(error)


@pytest.mark.parametrize("name", ["data.pt", "acc.pkl"])
def test_a_gigantic_header_is_one_line(tmp_path, spec, name):
    path = tmp_path / name
    path.write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a")
    with pytest.raises(InputError, match=f"cannot read .*{name}") as error:
        read_set(path, spec=spec)
    one_line(error)


def test_a_gigantic_header_of_a_native_set_is_one_line(tmp_path, made, spec):
    from geodm_lightning.distilled.storage import save_set
    from geodm_lightning.files import sha256_of

    folder = save_set(tmp_path / "set", made())
    path = folder / "images.safetensors"
    before = sha256_of(path)
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace(before, sha256_of(path)))
    with pytest.raises(InputError, match=r"images.safetensors cannot be read") as error:
        read_set(folder, spec=spec)
    one_line(error)


def test_a_tensor_larger_than_its_file_is_refused(tmp_path, spec):
    images = torch.zeros(1, 1, 1, 1).expand(1_000_000, 3, 1000, 1000)  # twelve terabytes of floats
    torch.save([images, torch.zeros(1, dtype=torch.int64).expand(1_000_000)], tmp_path / "data.pt")
    with pytest.raises(InputError, match=r"a tensor of shape .* bytes; it is damaged or was saved"):
        read_set(tmp_path / "data.pt", spec=spec)


def test_a_list_that_holds_itself_is_no_set(tmp_path, spec):
    content = [torch.zeros(1)]
    content.append(content)
    torch.save(content, tmp_path / "data.pt")
    with pytest.raises(InputError):
        read_set(tmp_path / "data.pt", spec=spec)


def test_sparse_tensors_are_refused(tmp_path):
    torch.save([torch.eye(3).to_sparse(), torch.arange(3)], tmp_path / "data.pt")
    with pytest.raises(InputError, match="a tensor that is not dense"):
        load_torch(tmp_path / "data.pt")


def test_a_missing_file_is_named(tmp_path, spec):
    with pytest.raises(InputError, match="there is no distilled set at"):
        read_set(tmp_path / "nothing", spec=spec)
