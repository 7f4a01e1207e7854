"""Files that are mapped into memory read-only, and the release of their pages.

A page of a mapped file becomes resident when it is read, and stays so until the system needs the
space. A process that reads a file of 10 GB from beginning to end therefore appears to use 10 GB.
Readers of whole arrays release the pages that they have read, so that the resident memory of the
process contains only the data in use.
"""

import ctypes
import mmap
import os
import sys
import weakref
from threading import Lock
from typing import BinaryIO

PROT_READ = 1
MAP_SHARED = 1
# By address.
_mappings: "weakref.WeakValueDictionary[int, ctypes.Array[ctypes.c_ubyte]]" = (
    weakref.WeakValueDictionary()
)
_lock = Lock()  # a dictionary must not grow while it is iterated


def map_file(file: BinaryIO, length: int) -> memoryview:
    """Map the beginning of a file read-only. Not available on Windows.

    Python's `mmap` keeps a duplicate of the file's descriptor before Python 3.13. The system call
    does not need it.

    Parameters
    ----------
    file : BinaryIO
        The open file.
    length : int
        Number of bytes to map, at most the size of the file.

    Returns
    -------
    memoryview
        The bytes, which stay mapped as long as something refers to them.

    Raises
    ------
    OSError
        If the system cannot map the file.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_longlong,
    ]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, length, PROT_READ, MAP_SHARED, file.fileno(), 0)
    if address == ctypes.c_void_p(-1).value:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    buffer = (ctypes.c_ubyte * length).from_address(address)
    # Arrays keep the buffer alive. At exit they may outlive it, so the system unmaps it then.
    weakref.finalize(buffer, libc.munmap, address, length).atexit = False
    with _lock:
        _mappings[address] = buffer
    return memoryview(buffer).toreadonly()


def release_mapped_pages() -> None:
    """Make all pages of the mapped files of this process non-resident.

    The system reads a page again, mostly from its cache, when it is used the next time. Arrays keep
    their values.
    """
    if sys.platform == "win32":
        return
    libc = ctypes.CDLL(None)
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    with _lock:
        buffers = tuple(_mappings.values())
    for buffer in buffers:
        libc.madvise(ctypes.addressof(buffer), len(buffer), mmap.MADV_DONTNEED)
