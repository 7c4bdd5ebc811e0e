"""A fitted geometry is made once and read ever after."""

import pytest

from geodm_lightning.data.augment import Augmentation
from geodm_lightning.distillers.fitting import fitted_geometry
from geodm_lightning.processes import Processes
from geodm_lightning.types import InputError
from tests.distillers.test_fitting import SHORT, PixelPool, flat_table, product


@pytest.fixture(scope="module")
def table():
    return flat_table()


class NoPool:
    def network(self, step):
        raise AssertionError("a cached fit needs no network")


def cached(geometry, table, folder, *, pool=None, processes=None, **identity):
    return fitted_geometry(
        geometry,
        table=table,
        pool=pool or PixelPool(),
        augmentation=Augmentation("none"),
        settings=SHORT,
        folder=folder,
        identity=identity,
        seed=0,
        processes=processes or Processes(),
    )


@pytest.mark.parametrize("processes", [Processes(), Processes(rank=1)], ids=["main", "other"])
def test_second_run_and_other_processes_read_the_first_fit(table, tmp_path, processes):
    first, second = product(), product()
    made = cached(first, table, tmp_path)
    read = cached(second, table, tmp_path, pool=NoPool(), processes=processes)
    assert (made, first.state()) == (read, second.state())
    assert not any(parameter.requires_grad for parameter in second.parameters())


def test_another_identity_is_another_file(table, tmp_path):
    for network in ("small", "large"):
        cached(product(), table, tmp_path, network=network)
    assert len(list(tmp_path.glob("geometry-*.ckpt"))) == 2


def test_damaged_cache_is_refused(table, tmp_path):
    cached(product(), table, tmp_path)
    (path,) = tmp_path.glob("geometry-*.ckpt")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="damaged checkpoint"):
        cached(product(), table, tmp_path)
