"""Exceptions that the standard library raises for damaged archives."""

import tarfile
import zipfile
import zlib

# Text of a name that is not UTF-8 and numbers of fields that do not fit are ValueErrors.
# RuntimeError: a member is encrypted, or the format or a compression is unknown.
ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)
TAR_ERRORS = (tarfile.TarError, EOFError, ValueError)
