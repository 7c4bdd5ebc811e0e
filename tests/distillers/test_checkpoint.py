import pickle

import pytest
import torch

from geodm_lightning.distillers.checkpoint import load_checkpoint, save_checkpoint
from geodm_lightning.types import InputError

STATE = {"iteration": 3, "pixels": torch.arange(6.0).reshape(2, 3), "nested": {"a": [1, None]}}


def test_a_state_comes_back_exactly(tmp_path):
    loaded = load_checkpoint(save_checkpoint(tmp_path / "last.ckpt", STATE))
    assert torch.equal(loaded.pop("pixels"), STATE["pixels"])
    assert loaded == {"iteration": 3, "nested": {"a": [1, None]}}


def test_it_is_readable_with_weights_only(tmp_path):
    path = save_checkpoint(tmp_path / "last.ckpt", STATE)
    assert torch.load(path, weights_only=True)["state"]["iteration"] == 3


def test_every_flipped_pixel_is_found(tmp_path):
    path = save_checkpoint(tmp_path / "last.ckpt", STATE)
    content = torch.load(path, weights_only=True)
    content["state"]["pixels"][1, 2] += 1e-6
    torch.save(content, path)
    with pytest.raises(InputError, match=r"damaged checkpoint .*last.ckpt: its content does not"):
        load_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_file_is_refused(tmp_path, share):
    path = save_checkpoint(tmp_path / "last.ckpt", STATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match="damaged checkpoint"):
        load_checkpoint(path)


def test_code_in_a_file_is_not_run(tmp_path):
    class Attack:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").write_text, ("x",))

    path = tmp_path / "last.ckpt"
    path.write_bytes(pickle.dumps(Attack()))
    with pytest.raises(InputError, match="damaged checkpoint"):
        load_checkpoint(path)
    torch.save({"format_version": 1, "state": Attack()}, path)
    with pytest.raises(InputError, match="damaged checkpoint"):
        load_checkpoint(path)
    assert not (tmp_path / "ran").exists()
