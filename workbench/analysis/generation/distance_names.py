"""Names of Fréchet distances: exactly what they are, and FID only for Inception-v3."""

NETWORK_TITLES = {
    "clip": "CLIP",
    "dinov2": "DINOv2",
    "efficientnet": "EfficientNet-Lite0",
    "hog": "HOG",
    "inception": "Inception-v3",
    "random": "an untrained network",
    "resnet56": "ResNet-56",
    "siglip": "SigLIP",
}
DISTANCE_NAMES = {"inception": "FID", "dinov2": "FDD"}
SHORT_NAME = "FD"


def network_title(feature_extractor: str) -> str:
    """Return the name of a network in text.

    Examples
    --------
    >>> network_title("inception"), network_title("dinov2:facebook/dinov2-small"), network_title("")
    ('Inception-v3', 'DINOv2 (facebook/dinov2-small)', 'unnamed features')
    """
    kind, _, argument = feature_extractor.partition(":")
    if not kind:
        return "unnamed features"
    if kind not in NETWORK_TITLES:
        return feature_extractor
    return f"{NETWORK_TITLES[kind]} ({argument})" if argument else NETWORK_TITLES[kind]


def distance_name(prefix: str, feature_extractor: str) -> str:
    """Return the short name of a distance: FID for Inception, FDD for DINOv2, otherwise FD.

    Examples
    --------
    >>> distance_name("r", "inception"), distance_name("g", "dinov2:a/b"), distance_name("r", "hog")
    ('rFID', 'gFDD', 'rFD')
    """
    kind = feature_extractor.partition(":")[0]
    return prefix + DISTANCE_NAMES.get(kind, SHORT_NAME)


def distance_column(feature_extractor: str) -> str:
    """Return the name of the column of distances in a table.

    Examples
    --------
    >>> distance_column("inception"), distance_column("efficientnet"), distance_column("")
    ('fid', 'fd_efficientnet', 'fd')
    """
    kind = feature_extractor.partition(":")[0]
    if kind in DISTANCE_NAMES:
        return DISTANCE_NAMES[kind].lower()
    return f"fd_{kind}" if kind else "fd"


def full_name(
    name: str, feature_extractor: str, n: int, real: str, guidance: float | None = None
) -> str:
    """Return the name of a number that can be cited: network, number of images, reference set.

    That of samples also has the scale of guidance, which changes a distance several times over.

    Examples
    --------
    >>> full_name("rFID", "inception", 50_000, "ADM reference")
    'rFID (Inception-v3, n = 50,000, ADM reference)'
    >>> full_name("gFID", "inception", 50_000, "ADM reference", guidance=1.0)
    'gFID (Inception-v3, n = 50,000, ADM reference, without guidance)'
    """
    parts = [network_title(feature_extractor), f"n = {n:,}", real]
    if guidance is not None:
        parts.append("without guidance" if guidance == 1 else f"guidance {guidance:g}")
    return f"{name} ({', '.join(parts)})"
