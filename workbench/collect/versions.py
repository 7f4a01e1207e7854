"""The versions of code and libraries that results depend on."""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch

import workbench

# Packages whose code decides what a model computes.
FINGERPRINTED_PACKAGES = (
    "core",
    "training",
    "nn",
    "quantizers",
    "features",
    "tokenizers",
    "generators",
    "data",
)
FINGERPRINT_DIGITS = 12


@cache
def versions() -> dict[str, str]:
    """Return the versions of workbench, torch and numpy, and a fingerprint of the code.

    Returns
    -------
    dict of str to str
        Versions by name. `code` is a hash of the packages that train and encode.
    """
    package = Path(workbench.__file__).parent
    digest = hashlib.sha256()
    for name in FINGERPRINTED_PACKAGES:
        for path in sorted((package / name).glob("*.py")):
            digest.update(path.read_bytes())
    return {
        "workbench": workbench.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "code": digest.hexdigest()[:FINGERPRINT_DIGITS],
    }
