"""The arrays of a bundle: safetensors files, read from bytes whose hash was checked.

safetensors refuses a header that does not cover its file exactly, before anything is allocated, and cannot hold code.
Bundles of format 1 hold NumPy files, which are still read, without pickles and without compression.
"""

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

Arrays = dict[str, NDArray[Any]]


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes one safetensors file; the same arrays give the same bytes."""
    # safetensors' own save_file makes a file that no other user may read
    path.write_bytes(save({name: np.ascontiguousarray(array) for name, array in arrays.items()}))


def read_arrays(data: bytes, dtypes: Mapping[str, str], format_version: int) -> Arrays:
    """The arrays in the bytes of a file, writeable, exactly those of `dtypes`.

    Raises ValueError for other names or types, and for bytes that are not a whole file of the format.
    """
    arrays = _READERS[format_version](data)
    if arrays.keys() != dtypes.keys():
        raise ValueError(f"the file holds {', '.join(sorted(arrays)) or 'nothing'}, not {', '.join(sorted(dtypes))}")
    for name, dtype in dtypes.items():
        if arrays[name].dtype != np.dtype(dtype):
            raise ValueError(f"the array {name!r} holds {arrays[name].dtype}, not {np.dtype(dtype)}")
    return arrays


def _read_safetensors(data: bytes) -> Arrays:
    try:
        return load(data)
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"the tensors cannot be read: {error}") from error


def _read_numpy(data: bytes) -> Arrays:
    """The arrays of an .npz file; the one of an .npy file under the name "vectors"."""
    try:
        loaded = np.load(io.BytesIO(data), allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"vectors": loaded}
        with loaded:
            # a stored member cannot be longer than the archive, a compressed one can be a bomb
            if any(member.compress_type for member in loaded.zip.infolist()):
                raise ValueError("the archive is compressed")
            return {name: loaded[name] for name in loaded.files}
    # MemoryError: NumPy allocates what a header claims before it looks at the data
    except (ValueError, BadZipFile, EOFError, MemoryError) as error:
        raise ValueError(f"the NumPy file cannot be read: {error}") from error


_READERS: dict[int, Callable[[bytes], Arrays]] = {1: _read_numpy, 2: _read_safetensors}
