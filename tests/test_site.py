"""A process is prepared as its settings say."""

from pathlib import Path

import pytest
import torch

from geodm_lightning import site
from geodm_lightning.pipeline import prepare
from geodm_lightning.processes import Processes, say_once
from geodm_lightning.run_folder import differences
from geodm_lightning.site import flags_of, multiplies_bf16, open_site, settled_precision
from tests.experiment import compose_config, tiny_overrides

CPU = torch.device("cpu")


@pytest.fixture
def threads():
    """The CPU threads of this process, which are restored afterwards."""
    before = torch.get_num_threads()
    yield before
    torch.set_num_threads(before)


@pytest.fixture
def hardware(monkeypatch):
    """Say whether the hardware multiplies in bfloat16, which no test can change."""
    say_once.cache_clear()
    return lambda able: monkeypatch.setattr(site, "multiplies_bf16", lambda device: able)


def test_a_process_computes_with_the_threads_it_is_given(threads):
    options = {"precision": "32-true", "processes": Processes()}
    open_site("cpu", threads=threads + 1, **options)
    assert torch.get_num_threads() == threads + 1
    open_site("cpu", threads=None, **options)
    assert torch.get_num_threads() == threads + 1


def test_each_process_of_a_machine_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    place = Processes(rank=11, world_size=16, local_rank=3)
    for accelerator, device in (("cuda", torch.device("cuda", 3)), ("cpu", CPU)):
        opened = open_site(accelerator, precision="32-true", threads=None, processes=place)
        assert opened == (device, "32-true", place, False, False, False)


@pytest.mark.parametrize(
    ("asked", "with_bf16", "without"),
    [
        ("auto", "bf16-mixed", "32-true"),
        ("32-true", "32-true", "32-true"),
        ("bf16-mixed", "bf16-mixed", "32-true"),
        ("bf16-emulated", "bf16-mixed", "bf16-mixed"),
    ],
)
def test_the_precision_is_one_that_the_hardware_has(asked, with_bf16, without, hardware, caplog):
    for able, used in ((True, with_bf16), (False, without)):
        hardware(able)
        assert settled_precision(asked, CPU) == used
        for _ in range(2):
            opened = open_site("cpu", precision=asked, threads=None, processes=Processes())
            assert opened.precision == used
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (asked == "bf16-mixed")  # once, and only where something else is used
    assert all("trainer.precision=bf16-mixed, but cpu" in line for line in told)


def test_layouts_are_asked_for_on_a_gpu_alone(caplog):
    options = {"precision": "32-true", "threads": None, "processes": Processes()}
    assert not open_site("cpu", channels_last=True, **options).channels_last
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "trainer.channels_last=true, but on cpu layers choose their own layout"


def test_only_the_first_process_of_a_run_tells(hardware, monkeypatch, caplog):
    hardware(False)
    monkeypatch.setenv("RANK", "1")
    open_site("cpu", precision="bf16-mixed", threads=None, processes=Processes())
    assert not caplog.records


def test_processors_are_known_by_their_flags(monkeypatch):
    listed = "processor\t: 0\n{}\t\t: fpu avx2 {}\n\nprocessor\t: 1\n"
    for key, flag, able in (
        ("flags", "amx_bf16 amx_tile", True),
        ("flags", "avx512_bf16", True),
        ("Features", "asimd bf16", True),
        ("flags", "avx512f avx512_vnni", False),
        ("bugs", "amx_bf16", False),
    ):
        text = listed.format(key, flag)
        monkeypatch.setattr(Path, "read_text", lambda self, text=text, **_: text)
        assert multiplies_bf16(CPU) is able
        assert (set(flag.split()) <= flags_of(text)) is (key != "bugs")


def test_autocast_computes_as_its_precision_says():
    """A product keeps eight bits in bfloat16 and all in float32, whatever the hardware."""

    one = torch.tensor([[1.0 + 2**-10]])
    for asked, expected in (("32-true", 1.0 + 2**-10), ("bf16-emulated", 1.0)):
        opened = open_site("cpu", precision=asked, threads=None, processes=Processes())
        with opened.trainer().precision_plugin.forward_context():
            assert float(one @ torch.ones(1, 1)) == expected


def test_what_is_trained_in_another_precision_lies_elsewhere():
    assert site.Site(CPU).identity == {}
    assert site.Site(CPU, "bf16-mixed").identity == {"precision": "bf16-mixed"}


def test_settings_tell_the_precision_used_so_that_none_are_mixed(tmp_path, hardware):
    overrides = [*tiny_overrides(tmp_path), "trainer.precision=auto"]
    found = []
    for able in (False, True):
        hardware(able)
        found.append(prepare(compose_config(*overrides)).settings)
    assert [settings["trainer"]["precision"] for settings in found] == ["32-true", "bf16-mixed"]
    (told,) = differences(*found)
    assert told == "trainer.precision (32-true there, bf16-mixed now)"
