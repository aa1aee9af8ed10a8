"""Small data sets in memory, functions that write them to files, and checks of the data that are read back."""

from __future__ import annotations

import gzip
import struct

import numpy as np

from vlls.data import ImageArrays

IDX = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}


def small(shape=(4, 4, 3), classes=10, train=20, test=10):
    rng = np.random.default_rng(0)
    return {
        "train_x": rng.integers(0, 256, (train, *shape), dtype=np.uint8),
        "train_y": (np.arange(train) % classes).astype(np.uint8),
        "test_x": rng.integers(0, 256, (test, *shape), dtype=np.uint8),
        "test_y": (np.arange(test) % classes).astype(np.uint8),
    }


def write_idx(folder, arrays, gz=False):
    folder.mkdir(parents=True, exist_ok=True)
    for key, name in IDX.items():
        array = arrays[key]
        data = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(data) if gz else data)


def assert_holds(data, arrays):
    assert isinstance(data, ImageArrays)
    assert not np.shares_memory(data.train_y, data.clean_train_y)
    for key, array in arrays.items():
        found = getattr(data, key)
        expected = array[..., None] if array.ndim == 3 else array
        assert found.dtype == (np.uint8 if key[-1] == "x" else np.int64)
        assert found.shape == expected.shape
        assert np.array_equal(found, expected)


def one_line(caught):
    return "\n" not in str(caught.value)
