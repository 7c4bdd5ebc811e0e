"""Teachers from libraries, files and networks at hand: what they see, answer and refuse."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from geodm_lightning.data.catalog import dataset_spec
from geodm_lightning.data.normalise import normalise
from geodm_lightning.labels.pool import TeacherPool, aligned_prefix
from geodm_lightning.labels.teachers import Teacher, TeacherSpec, load_teacher
from geodm_lightning.types import InputError

CIFAR = dataset_spec("cifar10")
IMAGENET = dataset_spec("imagenet1k")
SMALL = "shufflenet_v2_x0_5"


@pytest.fixture
def images(rng, device):
    return torch.rand(6, 3, 32, 32, generator=rng, device=device)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No proxy listens on the discard port, so nothing can be fetched; caches are empty."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path


def torchvision_model(num_classes=10, name=SMALL):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        return models.get_model(name, weights=None, num_classes=num_classes).eval()


def saved(path, network):
    state = network.state_dict()
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


def test_a_teacher_sees_images_in_its_own_normalisation(images, device):
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.5, 0.2)
    spec = CIFAR._replace(num_classes=3 * 32 * 32)
    teacher = Teacher(nn.Flatten(), spec, name="eye", mean=mean, std=std).to(device)
    seen = teacher(normalise(images, spec)).view_as(images)
    expected = normalise(images, spec._replace(mean=mean, std=std))
    torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)
    same = Teacher(nn.Flatten(), spec, name="eye", mean=spec.mean, std=spec.std)
    assert torch.equal(same(images), images.flatten(1))


def test_classes_choose_outputs_in_their_order(images):
    spec = CIFAR._replace(num_classes=3)
    teacher = Teacher(nn.Flatten(), spec, name="eye", classes=(5, 0, 9))
    assert torch.equal(teacher(images), images.flatten(1)[:, [5, 0, 9]])
    with pytest.raises(InputError, match="told 2 different classes, cifar10 has 3"):
        Teacher(nn.Flatten(), spec, name="eye", classes=(5, 5, 9))


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_torchvision_weights_in_a_file(tmp_path, images, name):
    network = torchvision_model()
    spec = TeacherSpec("torchvision", SMALL, saved(tmp_path / name, network))
    teacher = load_teacher(spec, CIFAR, resolution=32)
    assert torch.equal(teacher(images.cpu()), network(images.cpu()))


def test_checkpoints_of_trainers_are_unwrapped(tmp_path, images):
    network = torchvision_model()
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "best.pt")
    spec = TeacherSpec("torchvision", SMALL, str(tmp_path / "best.pt"))
    teacher = load_teacher(spec, CIFAR, resolution=32)
    assert torch.equal(teacher(images.cpu()), network(images.cpu()))


def test_a_densenet_with_the_names_of_2017(tmp_path, images):
    network = torchvision_model(name="densenet121")
    old = {}
    for key, value in network.state_dict().items():
        for part in ("norm", "conv"):
            for number in "12":
                if "denselayer" in key:
                    key = key.replace(f".{part}{number}.", f".{part}.{number}.")
        old[key] = value
    assert old.keys() != network.state_dict().keys()
    torch.save(old, tmp_path / "densenet.pth")
    spec = TeacherSpec("torchvision", "densenet121", str(tmp_path / "densenet.pth"))
    teacher = load_teacher(spec, CIFAR, resolution=32)
    assert torch.equal(teacher(images.cpu()), network(images.cpu()))


def test_timm_weights_in_a_file(tmp_path, images):
    import timm

    network = timm.create_model("test_resnet.r160_in1k", num_classes=10).eval()
    spec = TeacherSpec("timm", "test_resnet", saved(tmp_path / "weights.pth", network))
    teacher = load_teacher(spec, CIFAR, resolution=32)
    assert torch.equal(teacher(images.cpu()), network(images.cpu()))


def test_published_weights_are_read_from_the_cache_and_keep_their_normalisation(offline, images):
    """ImageNet weights, two of whose classes are those of a data set of other statistics."""
    network = torchvision_model(1000)
    folder = offline / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = models.get_model_weights(SMALL)["IMAGENET1K_V1"].url
    saved(folder / url.rpartition("/")[2], network)
    spec = TeacherSpec("torchvision", SMALL, "IMAGENET1K_V1", classes=(7, 3))
    two = CIFAR._replace(num_classes=2)
    images = images.cpu()
    answers = load_teacher(spec, two, resolution=32)(normalise(images, two))
    expected = network(normalise(images, IMAGENET))[:, [7, 3]]
    torch.testing.assert_close(answers, expected, rtol=1e-4, atol=1e-5)
    by_default = load_teacher(TeacherSpec("torchvision", SMALL), IMAGENET, resolution=32)
    assert torch.equal(by_default(images), network(images))
    with pytest.raises(InputError, match="answers 1000 classes, cifar10 has 10"):
        load_teacher(TeacherSpec("torchvision", SMALL), CIFAR, resolution=32)
    with pytest.raises(InputError, match="answers 1000 classes, classes= lists 1000"):
        load_teacher(TeacherSpec("torchvision", SMALL, classes=(7, 1000)), two, resolution=32)


def test_missing_torchvision_weights_say_name_folder_and_way_out(offline):
    with pytest.raises(InputError) as caught:
        load_teacher(TeacherSpec("torchvision", SMALL), IMAGENET, resolution=32)
    message = str(caught.value)
    assert "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1" in message
    assert str(offline / "hub" / "checkpoints") in message
    assert "https://download.pytorch.org/models/shufflenetv2_x0.5" in message
    assert "weights=PATH" in message
    assert "\n" not in message


def test_damaged_weights_in_the_cache_are_named(offline):
    folder = offline / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = models.get_model_weights(SMALL)["IMAGENET1K_V1"].url
    (folder / url.rpartition("/")[2]).write_bytes(b"half a file")
    with pytest.raises(InputError, match=r"cannot read the weights in .*shufflenetv2.*delete"):
        load_teacher(TeacherSpec("torchvision", SMALL), IMAGENET, resolution=32)


def test_missing_timm_weights_say_name_folder_and_way_out(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as caught:
        load_teacher(TeacherSpec("timm", "resnet18", "tv_in1k"), IMAGENET, resolution=32)
    message = str(caught.value)
    assert "timm/resnet18.tv_in1k" in message
    assert constants.HF_HUB_CACHE in message
    assert "hf download timm/resnet18.tv_in1k" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (("torchvision", "resnet81"), "torchvision has no classifier 'resnet81'; closest: resnet"),
        (("timm", "resnet81"), "timm has no classifier 'resnet81'; closest: resnet"),
        (("timm", "resnet18", "a9_in1k"), "timm has no classifier 'resnet18.a9_in1k'"),
        (("torchvision", "resnet18", "V9"), "torchvision has no weights V9 of resnet18; valid"),
        (("torchvision", SMALL, "no/such.pth"), "there is no weights file no/such.pth"),
        (("trained", "convnet"), "teacher convnet is to be trained here"),
    ],
)
def test_what_is_not_there_is_named(spec, message):
    with pytest.raises(InputError, match=message):
        load_teacher(TeacherSpec(*spec), CIFAR, resolution=32)


def test_unknown_sources_are_refused():
    with pytest.raises(InputError, match="unknown source 'hub' of teacher resnet18"):
        TeacherSpec("hub", "resnet18")


def test_files_that_do_not_fit_are_refused_in_one_line(tmp_path):
    path = tmp_path / "weights.pth"
    spec = TeacherSpec("torchvision", SMALL, str(path))
    for content, message in [
        (torchvision_model(100).state_dict(), r"fc.* is \(100.*another number of classes\?"),
        ({"conv1.0.weight": torch.zeros(1)}, "weights are missing, for example"),
        ({**torchvision_model().state_dict(), "ema": torch.zeros(1)}, "unknown to it, .* ema"),
        ([1, 2], "holds no state dictionary"),
    ]:
        torch.save(content, path)
        with pytest.raises(InputError, match=message) as caught:
            load_teacher(spec, CIFAR, resolution=32)
        assert "\n" not in str(caught.value)
    for damaged in ("weights.pth", "weights.safetensors"):
        (tmp_path / damaged).write_bytes(b"half a file")
        with pytest.raises(InputError, match="cannot read the weights in"):
            load_teacher(
                TeacherSpec("torchvision", SMALL, str(tmp_path / damaged)), CIFAR, resolution=32
            )


def test_images_a_teacher_cannot_take_are_refused(tmp_path):
    spec = TeacherSpec("torchvision", SMALL, saved(tmp_path / "weights.pth", torchvision_model()))
    with pytest.raises(InputError, match=rf"teacher {SMALL} cannot take 1×8×8 images"):
        load_teacher(spec, dataset_spec("digits"), resolution=8)


def test_a_trained_network_of_other_classes_is_refused():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
    with pytest.raises(InputError, match="teacher mine answers 7 classes, digits has 10"):
        load_teacher(
            TeacherSpec("trained", "mine"), dataset_spec("digits"), resolution=8, network=network
        )


def test_loading_leaves_the_global_generator_alone(tmp_path):
    spec = TeacherSpec("torchvision", SMALL, saved(tmp_path / "weights.pth", torchvision_model()))
    before = torch.get_rng_state()
    load_teacher(spec, CIFAR, resolution=32)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("chunk_size", [1, 4, 256])
def test_a_pool_is_the_mean_of_its_teachers(networks, tables, digits, chunk_size):
    teachers = [Teacher(network, tables.spec, name="t") for network in networks]
    pool = TeacherPool(teachers, chunk_size=chunk_size)
    images = digits[2][:9]
    expected = torch.stack([network(images) for network in networks])
    torch.testing.assert_close(pool.answers(images), expected)
    torch.testing.assert_close(pool.logits(images), expected.mean(0))
    assert torch.equal(pool.prefix(1).logits(images), pool.prefix(1).answers(images)[0])
    with pytest.raises(InputError, match="cannot take 3 of 2 teachers"):
        pool.prefix(3)
    with pytest.raises(InputError, match="at least one teacher"):
        TeacherPool([])


def test_teachers_stay_in_eval_mode_and_do_not_learn(images):
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    pool = TeacherPool([Teacher(network, CIFAR, name="norm")]).to(images.device)
    before = pool.digest()
    pool.train()
    together = pool.logits(images)
    alone = torch.cat([pool.logits(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert pool.digest() == before
    assert not any(parameter.requires_grad for parameter in pool.parameters())


def test_half_precision_is_near_and_another_digest(pool, networks, digits, tables):
    low = TeacherPool(list(pool.teachers), precision="bf16-mixed")
    exact, rounded = pool.logits(digits[2]), low.logits(digits[2])
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(rounded, exact, rtol=0.05, atol=0.3)
    assert low.digest() != pool.digest()


def test_a_digest_sees_weights_normalisation_classes_and_order(networks, tables):
    spec = tables.spec
    first, second = networks
    digests = [
        TeacherPool(teachers).digest()
        for teachers in (
            [Teacher(first, spec, name="t")],
            [Teacher(second, spec, name="t")],
            [Teacher(first, spec, name="t", mean=(0.1,))],
            [Teacher(first, spec, name="t", classes=(1, 0, *range(2, 10)))],
            [Teacher(first, spec, name="t"), Teacher(second, spec, name="t")],
            [Teacher(second, spec, name="t"), Teacher(first, spec, name="t")],
        )
    ]
    assert len(set(digests)) == len(digests)
    assert TeacherPool([Teacher(first, spec, name="t")]).digest() == digests[0]


def test_more_images_per_class_have_more_teachers():
    counts = {1: 4, 10: 5, 50: 6, 100: 8}
    found = [aligned_prefix(counts, ipc) for ipc in (1, 9, 10, 49, 50, 99, 100, 1000)]
    assert found == [4, 4, 5, 5, 6, 6, 8, 8]
    with pytest.raises(InputError, match="no number of teachers is listed for 5 images"):
        aligned_prefix({10: 2}, 5)
