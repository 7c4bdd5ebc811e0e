"""Teachers of the digits that scikit-learn has fitted, and the digits themselves."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from geodm_lightning.data.batches import fetch_from_table
from geodm_lightning.data.datamodule import RealDataModule
from geodm_lightning.labels.pool import TeacherPool
from geodm_lightning.labels.teachers import Teacher


@pytest.fixture(scope="session")
def tables():
    data = RealDataModule("digits")
    data.setup()
    return data


@pytest.fixture(scope="session")
def digits(tables):
    """Normalised training images and labels, then those of the test split."""
    splits = []
    for table in (tables.train, tables.test):
        splits += [fetch_from_table(table)(torch.arange(len(table))), table.labels]
    return splits


def fitted(images, labels, *, inverse_penalty=1.0):
    """Logistic regression on normalised pixels, as a network."""
    model = LogisticRegression(C=inverse_penalty, max_iter=200, tol=1e-2)
    model.fit(images.flatten(1).numpy(), labels.numpy())
    linear = nn.Linear(images[0].numel(), 10)
    linear.load_state_dict(
        {
            "weight": torch.tensor(model.coef_, dtype=torch.float32),
            "bias": torch.tensor(model.intercept_, dtype=torch.float32),
        }
    )
    return nn.Sequential(nn.Flatten(), linear)


@pytest.fixture(scope="session")
def networks(digits):
    images, labels, *_ = digits
    return [fitted(images, labels), fitted(images[::2], labels[::2], inverse_penalty=0.01)]


@pytest.fixture
def pool(networks, tables):
    names = ("fitted", "shrunk")
    return TeacherPool(
        [Teacher(n, tables.spec, name=name) for n, name in zip(networks, names, strict=True)]
    )
