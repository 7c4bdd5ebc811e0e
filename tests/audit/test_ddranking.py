"""The export and the formulas beside the installed DD-Ranking 0.2.0, on images made here.

Where the release fails, the test names the very exception, so that a fixed release is noticed.
"""

import importlib.metadata
import inspect

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from geodm_lightning.audit.robustness import augmentation_robust_score, squashed
from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.distilled.distilled_set import DistilledSet
from geodm_lightning.exchange.writing import write_set

ddranking = pytest.importorskip("ddranking")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the package and what it imports

SPEC = dataset_spec("tiny_imagenet")._replace(resolution=16)  # ImageFolder, read at any size
OPTIONS = {
    "dataset": "TinyImageNet",
    "ipc": 1,
    "model_name": "ConvNet-1",
    "data_aug_func": None,
    "lr_scheduler": "cosineannealing",
    "num_eval": 1,
    "im_size": (16, 16),
    "num_epochs": 1,
    "num_workers": 0,
    "device": "cpu",
}


def test_this_is_the_release_whose_faults_are_named_here():
    assert importlib.metadata.version("ddranking") == "0.2.0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """200 classes of one dark or bright picture each, told apart by their brightness."""
    root = tmp_path_factory.mktemp("tiny")
    for split in ("train", "val"):
        for label in range(200):
            path = root / split / f"{label:05d}" / "0.png"
            path.parent.mkdir(parents=True)
            Image.fromarray(np.full((16, 16, 3), label, dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The same pictures as a distilled set, in the layout that the package reads."""
    images = torch.arange(200, dtype=torch.uint8)[:, None, None, None].expand(200, 3, 16, 16)
    manifest = {"method": "m", "label": "M", "ipc": 1, "factor": 1, "dataset": SPEC._asdict()}
    distilled = DistilledSet(
        images.contiguous(), torch.arange(200), manifest, soft_labels=9 * torch.eye(200)
    )
    path = tmp_path_factory.mktemp("set") / "set.pt"
    write_set(path, distilled, format="ddranking")
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def teacher(folder):
    """A network of theirs, untrained, where they look for teachers."""
    network = ddranking.build_model("ConvNet-1", num_classes=200, im_size=(16, 16), device="cpu")
    path = folder / "teachers" / "TinyImageNet" / "ConvNet-1" / "ckpt_best.pt"
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    return network


def evaluator(kind, folder, **options):
    options = {**OPTIONS, "save_path": f"{folder}/scores.csv", **options}
    options |= {"real_data_path": str(folder), "random_data_path": f"{folder}/random"}
    return kind(**options)


def test_their_loader_sees_our_pixels(folder, exported):
    """What they read from the pictures is what we export of them, class by class."""
    _, _, _, _, count, train, *_ = ddranking.get_dataset(
        "TinyImageNet", str(folder), (16, 16), False, None, "cpu"
    )
    read = torch.stack([image for image, _ in train])
    torch.testing.assert_close(read, exported["image_tensor"], rtol=0, atol=1e-6)
    assert [label for _, label in train] == list(range(count))
    assert set(exported) <= set(
        inspect.signature(ddranking.AugmentationRobustScore.compute_metrics).parameters
    )


def soft_scorer(folder, **options):
    scorer = evaluator(
        ddranking.AugmentationRobustScore,
        folder,
        label_type="soft",
        loss_fn_kwargs={"temperature": 1.0},
        teacher_dir=f"{folder}/teachers",
        teacher_model_names=["ConvNet-1"],
        **options,
    )
    scorer.test_interval = 1
    return scorer


@pytest.mark.slow
def test_their_augmentation_robust_score_takes_our_export(folder, exported, teacher):
    """It runs with a teacher, and is our formula on percents instead of fractions."""
    scorer = soft_scorer(
        folder,
        soft_label_mode="M",
        random_data_format="image",
        custom_train_trans=transforms.Compose([transforms.ToTensor()]),
    )
    found = scorer.compute_metrics(**{**exported, "syn_lr": 0.05}, ars_lambda=0.3)
    with_gain, without_gain = found["with_aug_scores_mean"], found["without_aug_scores_mean"]
    mixed = 0.3 * with_gain + 0.7 * without_gain  # percents
    assert found["augmentation_robust_score_mean"] == pytest.approx(squashed(mixed))
    ours = augmentation_robust_score(
        augmented=[0.5 + with_gain / 100],
        random_augmented=[0.5],
        plain=[0.5 + without_gain / 100],
        random_plain=[0.5],
        weight=0.3,
    )
    assert ours.exponent == pytest.approx(mixed / 100)
    assert 0 <= ours.value <= 1


def test_their_own_labels_fail_on_random_tensors(folder, exported, teacher):
    """Students have learned from our soft labels by then; random images are never drawn."""
    scorer = soft_scorer(folder, soft_label_mode="S", random_data_format="tensor")
    with pytest.raises(TypeError, match="'int' object is not subscriptable"):
        scorer.compute_metrics(**{**exported, "syn_lr": 0.05})


def test_their_augmentation_robust_score_fails_on_classes(folder, exported):
    """Without soft labels it has no teachers, which it passes on all the same."""
    scorer = evaluator(
        ddranking.AugmentationRobustScore, folder, label_type="hard", random_data_format="tensor"
    )
    with pytest.raises(AttributeError, match="has no attribute 'teacher_models'"):
        scorer.compute_metrics(image_tensor=exported["image_tensor"], syn_lr=0.05)


def test_their_default_schedule_fails_with_its_step(folder, exported):
    """The augmentation-robust score takes a step size and does not pass it on."""
    scorer = evaluator(
        ddranking.AugmentationRobustScore,
        folder,
        label_type="hard",
        random_data_format="tensor",
        lr_scheduler="step",
        step_size=1,
    )
    with pytest.raises(AssertionError, match="step_size must be provided for step scheduler"):
        scorer.compute_metrics(**{**exported, "syn_lr": 0.05})


def test_percents_leave_the_range_of_a_score():
    """Their expression as it stands, at the accuracies of a good set."""
    full, distilled, random = 84.8, 71.8, 30.0
    alpha = 0.5 * (distilled - random) - 0.5 * (full - distilled)
    assert squashed(alpha) == pytest.approx(763_305, rel=1e-4)
    assert squashed(alpha / 100) == pytest.approx(0.335, abs=5e-4)


@pytest.mark.slow
def test_their_label_robust_score_fails_when_it_saves(folder, exported):
    """It trains everything, then lists the score of a run twice."""
    scorer = evaluator(
        ddranking.LabelRobustScoreHard,
        folder,
        model_name="ConvNet-4-BN",  # of the few that it knows how to train on real images
        random_data_format="tensor",
        eval_full_data=True,
    )
    with pytest.raises(ValueError, match="All arrays must be of the same length"):
        scorer.compute_metrics(image_tensor=exported["image_tensor"], syn_lr=0.05)


def test_their_general_evaluator_cannot_be_made(folder):
    with pytest.raises(NameError, match="name 'use_torchvision' is not defined"):
        ddranking.GeneralEvaluator(
            **OPTIONS, real_data_path=str(folder), save_path=f"{folder}/scores.csv"
        )
