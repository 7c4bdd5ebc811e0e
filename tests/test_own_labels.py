"""Labels that came with a set: asked for before anything is made of it."""

import pytest
import torch

from geodm_lightning.distilled.storage import load_set
from geodm_lightning.exchange.writing import write_set
from geodm_lightning.pipeline import prepare
from geodm_lightning.stages.arguments import overrides_of
from geodm_lightning.types import InputError
from tests.experiment import compose_config
from tests.native_set import make_set


@pytest.fixture
def labelled(tmp_path):
    """Pictures of digits with one epoch of FKD labels in batches of 16."""
    distilled = load_set(make_set(tmp_path / "set"))
    eight_bits = distilled._replace(images=(distilled.images * 255).round().to(torch.uint8))
    write_set(tmp_path / "fkd" / "images", eight_bits, format="images")
    folder = tmp_path / "fkd" / "labels" / "epoch_0"
    folder.mkdir(parents=True)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(42))
    for number, indices in enumerate(order.split(16)):
        crops = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(len(indices), 1)
        logits = 9 * torch.eye(10)[distilled.labels[indices]].half()
        content = [crops, torch.zeros(len(indices)) > 0, None, None, None, logits]
        torch.save(content, folder / f"batch_{number}.tar")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "overrides", "message"),
    [
        ("set", ("supervision=own",), "came without soft labels, which supervision own"),
        ("fkd", ("supervision=own_kl",), "protocol A has no views"),
        (
            "fkd",
            ("supervision=own_kl", "evaluation=protocol_sre2l"),
            "in 2 batches of 16, protocol SRe2L makes 1 of 1024",
        ),
        (
            "fkd",
            (
                "supervision=own_kl",
                "evaluation=protocol_sre2l",
                "evaluation.protocol.batch_size=16",
            ),
            "are of 1 epochs, protocol SRe2L makes 300",
        ),
    ],
)
def test_labels_that_do_not_fit_are_refused_before_a_folder_is_made(
    labelled, path, overrides, message
):
    arguments = overrides_of([f"distilled={labelled / path}", "data=digits", *overrides])
    views = "evaluation.protocol.resolution=null"
    words = [*arguments, views] if "evaluation=protocol_sre2l" in overrides else arguments
    with pytest.raises(InputError, match=message):
        prepare(compose_config(*words, f"run_dir={labelled}/runs"))
