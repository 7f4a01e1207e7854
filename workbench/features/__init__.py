"""Frozen features a tokenizer may align to or predict. Teachers go by name, so that a run's settings can hold them."""

from pathlib import Path

from workbench.core.errors import unknown
from workbench.features.base import FeatureExtractor

__all__ = ["FeatureExtractor", "get_feature_extractor"]


def get_feature_extractor(name: str, *, channels: int = 3) -> FeatureExtractor:
    """A teacher for images of 1 or 3 channels. Raises UserError for a name that is none, or weights that are not here.

    hog; random (an untrained network; another one by a seed, random:1); dinov2, clip or siglip, also with a hub name or
    a folder, dinov2:NAME; CIFAR-10's ResNet-56, resnet56:FILE; the folder of a network that `train_teacher` trained;
    and of ANY of these shuffled:ANY, and standardised:FILE:ANY with the FILE that `standardise` left.
    """
    from workbench.features.hog import HOG
    from workbench.features.hub import FAMILIES, HubExtractor
    from workbench.features.network import ShuffledExtractor, load_trained, random_network
    from workbench.features.resnet import ResNet56
    from workbench.features.standardized import StandardizedExtractor

    kind, _, rest = name.partition(":")
    if name == "hog":
        return HOG(channels)
    if kind == "random" and (not rest or rest.isdigit()):
        return random_network(channels, seed=int(rest or 0))
    if kind in FAMILIES:
        return HubExtractor(kind, rest)
    if kind == "resnet56":
        return ResNet56(rest)
    if kind == "shuffled":
        return ShuffledExtractor(get_feature_extractor(rest, channels=channels))
    if kind == "standardised":
        path, _, plain = rest.partition(":")
        return StandardizedExtractor(get_feature_extractor(plain, channels=channels), path)
    if Path(name, "config.json").is_file():
        return load_trained(name)
    others = ("shuffled:NAME", "standardised:FILE:NAME", "the folder of a trained one")
    raise unknown("teacher", name, ["hog", "random", *FAMILIES, *others])
