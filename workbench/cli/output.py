"""Messages that commands print."""

import warnings


def shorten_warnings() -> None:
    """Print warnings, such as those about skipped images, without their source line."""
    warnings.formatwarning = lambda message, *_: f"workbench: {message}\n"
