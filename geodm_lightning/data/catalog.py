"""Data set name → classes, resolution, normalisation, licence."""

from __future__ import annotations

from geodm_lightning.data.synsets import IMAGENET_SUBSETS
from geodm_lightning.types import DatasetSpec, InputError


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


# Pixel means and standard deviations of the training split in unit range. digits: computed from
# the split of ``sources.py``; MNIST to CIFAR-100: the constants of the distillation literature
# (Zhao and Bilen, DatasetCondensation); Tiny-ImageNet and ImageNet: their customary constants.
DIGITS = ((0.3054,), (0.3761,))
MNIST = ((0.1307,), (0.3081,))
FASHION_MNIST = ((0.2861,), (0.3530,))
SVHN = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
CIFAR100 = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
TINY_IMAGENET = ((0.4802, 0.4481, 0.3975), (0.2770, 0.2691, 0.2821))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

TEN_DIGITS = tuple("0123456789")
FASHION_CLASSES = _names(
    "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
)
CIFAR10_CLASSES = _names("airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck")
CIFAR100_CLASSES = _names(
    """
    apple, aquarium_fish, baby, bear, beaver, bed, bee, beetle, bicycle, bottle, bowl, boy,
    bridge, bus, butterfly, camel, can, castle, caterpillar, cattle, chair, chimpanzee, clock,
    cloud, cockroach, couch, crab, crocodile, cup, dinosaur, dolphin, elephant, flatfish,
    forest, fox, girl, hamster, house, kangaroo, keyboard, lamp, lawn_mower, leopard, lion,
    lizard, lobster, man, maple_tree, motorcycle, mountain, mouse, mushroom, oak_tree, orange,
    orchid, otter, palm_tree, pear, pickup_truck, pine_tree, plain, plate, poppy, porcupine,
    possum, rabbit, raccoon, ray, road, rocket, rose, sea, seal, shark, shrew, skunk,
    skyscraper, snail, snake, spider, squirrel, streetcar, sunflower, sweet_pepper, table, tank,
    telephone, television, tiger, tractor, train, trout, tulip, turtle, wardrobe, whale,
    willow_tree, wolf, woman, worm
    """
)
NOT_STATED = "not stated by the authors"
IMAGENET_TERMS = "ImageNet terms of access (non-commercial research)"
Statistics = tuple[tuple[float, ...], tuple[float, ...]]


def _spec(
    name: str,
    resolution: int,
    statistics: Statistics,
    licence: str,
    *,
    classes: tuple[str, ...] = (),
    num_classes: int | None = None,
    flip: bool = True,
) -> DatasetSpec:
    mean, std = statistics
    return DatasetSpec(
        name=name,
        num_classes=len(classes) if num_classes is None else num_classes,
        channels=len(mean),
        resolution=resolution,
        mean=mean,
        std=std,
        class_names=classes,
        licence=licence,
        flip=flip,
    )


_SPECS = (
    _spec("digits", 8, DIGITS, "CC BY 4.0", classes=TEN_DIGITS, flip=False),
    _spec("mnist", 28, MNIST, "CC BY-SA 3.0", classes=TEN_DIGITS, flip=False),
    _spec("fashion_mnist", 28, FASHION_MNIST, "MIT", classes=FASHION_CLASSES),
    _spec("svhn", 32, SVHN, "non-commercial use only", classes=TEN_DIGITS, flip=False),
    _spec("cifar10", 32, CIFAR10, NOT_STATED, classes=CIFAR10_CLASSES),
    _spec("cifar100", 32, CIFAR100, NOT_STATED, classes=CIFAR100_CLASSES),
    _spec("tiny_imagenet", 64, TINY_IMAGENET, IMAGENET_TERMS, num_classes=200),
    *(
        _spec(name, 128, IMAGENET, IMAGENET_TERMS, classes=tuple(folders.values()))
        for name, folders in IMAGENET_SUBSETS.items()
    ),
    _spec("imagenet1k", 224, IMAGENET, IMAGENET_TERMS, num_classes=1000),
    _spec("image_folder", 128, IMAGENET, "that of the images' owner", num_classes=0),
)


def catalog() -> dict[str, DatasetSpec]:
    """Return every data set by name.

    The specs of ``tiny_imagenet``, ``imagenet1k`` and ``image_folder`` have no class names (the
    last has no class count either): those come from the folders on disk, see
    :class:`~geodm_lightning.data.datamodule.RealDataModule`.
    """
    return {spec.name: spec for spec in _SPECS}


def dataset_spec(name: str) -> DatasetSpec:
    """Return what is known about one data set.

    Args:
        name: A key of :func:`catalog`.

    Raises:
        InputError: If no data set has this name.

    Example:
        >>> dataset_spec("cifar10").num_classes
        10
    """
    specs = catalog()
    if name not in specs:
        raise InputError(f"unknown data set {name!r}; valid names: {', '.join(specs)}")
    return specs[name]
