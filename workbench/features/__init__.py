"""Frozen feature extractors, for alignment (`teacher=`) and for evaluation (`feature_extractor=`).

An extractor has a name, so that the settings of a run can store it.

======================== ================================== ================================
name                     network                            needs
======================== ================================== ================================
hog                      histograms of oriented gradients   nothing
random, random:SEED      an untrained convolutional network nothing
dino, dinov2, clip       the default model of the family    transformers, and weights
siglip                   the same                           transformers, and weights
dinov2:MODEL (and alike) a model of the hub, or a folder    transformers, and weights
inception                Inception-v3 of the FID            weights, found or downloaded
inception:FILE           the same                           its weights as a file
efficientnet             EfficientNet-Lite0 (ImageNet)      the extra `metrics`
lpips, lpips:alex        VGG-16 and AlexNet of LPIPS        weights, found or downloaded
resnet56:FILE            ResNet-56 trained on CIFAR-10      weights as a safetensors file
FOLDER                   a network of `train_contrastive`   the folder of its run
shuffled:NAME            NAME, of another image             as for NAME
standardized:FILE:NAME   NAME with mean 0 and variance 1   a file of `fit_standardization`
======================== ================================== ================================

In the last two rows, NAME is again one of these names. The spelling `standardised:` of older runs
is accepted.
"""

from pathlib import Path

from workbench.core.errors import unknown
from workbench.features.base import FeatureExtractor

__all__ = ["FeatureExtractor", "get_feature_extractor"]


def get_feature_extractor(name: str, *, channels: int = 3) -> FeatureExtractor:
    """Return the feature extractor of a name.

    Parameters
    ----------
    name : str
        A name of the table in this module's docstring.
    channels : int
        Channels of the images, 1 or 3.

    Returns
    -------
    FeatureExtractor
        The extractor.

    Raises
    ------
    UserError
        If the name is unknown, or if the weights are missing.

    Examples
    --------
    >>> get_feature_extractor("hog", channels=1).dim
    36
    """
    from workbench.features.efficientnet import EfficientNet
    from workbench.features.hog import HOG
    from workbench.features.hub import FAMILIES, HubExtractor
    from workbench.features.inception import Inception
    from workbench.features.lpips import LPIPS
    from workbench.features.network import ShuffledExtractor, load_trained_network, random_network
    from workbench.features.resnet import ResNet56
    from workbench.features.standardized import StandardizedExtractor

    kind, _, argument = name.partition(":")
    if name == "hog":
        return HOG(channels)
    if kind == "random" and (not argument or argument.isdigit()):
        return random_network(channels, seed=int(argument or 0))
    if kind in FAMILIES:
        return HubExtractor(kind, argument)
    if kind == "inception":
        return Inception(argument)
    if kind == "efficientnet":
        return EfficientNet(argument)
    if kind == "lpips":
        return LPIPS(argument or "vgg")
    if kind == "resnet56":
        return ResNet56(argument)
    if kind == "shuffled":
        return ShuffledExtractor(get_feature_extractor(argument, channels=channels))
    if kind in ("standardized", "standardised"):
        path, _, inner_name = argument.partition(":")
        return StandardizedExtractor(get_feature_extractor(inner_name, channels=channels), path)
    if Path(name, "config.json").is_file():
        return load_trained_network(name)
    patterns = ("shuffled:NAME", "standardized:FILE:NAME", "the folder of a trained network")
    raise unknown(
        "feature extractor",
        name,
        ["hog", "random", "inception", "efficientnet", "lpips", *FAMILIES, *patterns],
    )
