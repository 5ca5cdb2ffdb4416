"""NumPy files read without trust: the header must say exactly what the bytes hold, and nothing is ever unpickled.

Stricter than `np.load(allow_pickle=False)`, which allocates what a header claims before it looks at the file.
"""

import io
import math
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

# what np.save writes (format 1.0) for C-ordered little-endian arrays; anything else is refused
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '(<[fi][48])', 'fortran_order': False, 'shape': \((\d[\d, ]*)\), \} *\n",
    re.DOTALL,
)


def read_npy(data: NDArray[np.uint8], dtype: DTypeLike) -> NDArray[Any]:
    """The array in the bytes of an .npy file, as a view of them.

    Raises ValueError for another dtype, order or format, and when the claimed shape is not what the bytes hold.
    """
    header = _HEADER.match(data.data)
    if header is None or header.end() != 10 + int.from_bytes(header[1], "little"):
        raise ValueError("the array file has no header that this reader takes")
    found = np.dtype(header[2].decode())
    if found != np.dtype(dtype):
        raise ValueError(f"the array holds {found}, not {np.dtype(dtype)}")
    shape = tuple(int(size) for size in header[3].split(b",") if size.strip())
    body = data[header.end() :]
    # Python integers: a claim of 2^62 rows cannot overflow into a small number, and nothing was allocated for it
    if math.prod(shape) * found.itemsize != len(body):
        raise ValueError(f"the array claims shape {shape} but the file holds {len(body)} bytes")
    array: NDArray[Any] = body.view(found).reshape(shape)
    return array


def read_npz(data: NDArray[np.uint8], dtypes: Mapping[str, DTypeLike]) -> dict[str, NDArray[Any]]:
    """The arrays in the bytes of an uncompressed .npz file; exactly the names of `dtypes`.

    Raises ValueError for other names, compression, a broken archive, and whatever `read_npy` refuses.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data.tobytes())) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            # a stored member cannot be longer than the archive, a compressed one can be a bomb
            if members.keys() != dtypes.keys() or any(info.compress_type for info in members.values()):
                raise ValueError(f"the archive must hold {', '.join(sorted(dtypes))}, uncompressed, and nothing else")
            bodies = {name: np.frombuffer(archive.read(info), dtype=np.uint8) for name, info in members.items()}
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:
        raise ValueError(f"the archive cannot be read: {error}") from error
    return {name: read_npy(body, dtypes[name]) for name, body in bodies.items()}
