"""Sets are read once: kept as long as their files stay and there is room."""

import os

import pytest
import torch

from geodm_lightning.exchange import kept
from geodm_lightning.exchange.declaration import Declaration
from geodm_lightning.exchange.kept import KeptSets, bytes_of
from geodm_lightning.exchange.reading import read_set
from geodm_lightning.types import InputError

WHOLE = Declaration(factor=1, space="unit")
PLENTY = 2**30


@pytest.fixture
def reads(monkeypatch):
    """Count the sets that are read."""
    paths = []

    def counted(path, **declared):
        paths.append(path)
        return read_set(path, **declared)

    monkeypatch.setattr(kept, "read_set", counted)
    return paths


def test_a_set_is_read_once_and_is_what_reading_gives(keep, made, spec, reads):
    path, sets = keep(*made()[:2]), KeptSets(PLENTY)
    first, second = (sets.read(path, spec=spec, declared=WHOLE) for _ in range(2))
    assert len(reads) == 1
    assert second is first
    direct = read_set(path, spec=spec, declared=WHOLE)
    assert first.distilled.digest() == direct.distilled.digest()
    assert first.warnings == direct.warnings


def test_other_content_declarations_and_data_sets_are_read_again(keep, made, spec, reads):
    images, labels = made()[:2]
    path, sets = keep(images, labels), KeptSets(PLENTY)
    before = sets.read(path, spec=spec, declared=WHOLE).distilled
    sets.read(path, spec=spec, declared=WHOLE._replace(factor=2))
    sets.read(path, spec=spec._replace(licence="other"), declared=WHOLE)
    assert len(reads) == 3
    stat = path.stat()
    torch.save([1 - images, labels], path)  # of the same size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    now = sets.read(path, spec=spec, declared=WHOLE).distilled
    assert path.stat().st_size == stat.st_size
    torch.testing.assert_close(now.images, 1 - before.images)
    path.unlink()
    with pytest.raises(InputError, match="there is no distilled set"):
        sets.read(path, spec=spec, declared=WHOLE)


def test_no_more_is_kept_than_there_is_room_for(keep, made, spec, reads, tmp_path):
    first = keep(*made()[:2])
    others = [tmp_path / name for name in ("b.pt", "c.pt")]
    for path in others:
        path.write_bytes(first.read_bytes())
    size = bytes_of(read_set(first, spec=spec, declared=WHOLE))
    two = KeptSets(2 * size)
    for path in (first, others[0], first, others[0], others[1], others[0], first):
        two.read(path, spec=spec, declared=WHOLE)
    assert reads == [first, *others, first]
    reads.clear()
    none = KeptSets(size - 1)
    for _ in range(2):
        none.read(first, spec=spec, declared=WHOLE)
    assert len(reads) == 2


@pytest.mark.parametrize("is_archive", [True, False])
def test_a_file_whose_format_is_inferred_is_loaded_once(
    made, spec, tmp_path, monkeypatch, is_archive
):
    path, loads, load = tmp_path / "data.pt", [], torch.load

    def counted(file, **options):
        loads.append(file)
        return load(file, **options)

    torch.save(list(made()[:2]), path, _use_new_zipfile_serialization=is_archive)
    monkeypatch.setattr(torch, "load", counted)
    imported = read_set(path, spec=spec)
    assert loads == [path]
    assert imported.warnings[0].startswith("inferred format=idc")
