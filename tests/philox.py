"""Philox4x32-10, which seeds or makes the noise of IVON's kernels, and normal numbers of its uniform ones."""

import numpy as np

WORD = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)


def philox(c0, c1, c2, c3, k0, k1):
    """Four words of 32 bits (Salmon et al., 2011), for counters and a key that are numbers or arrays."""
    c0, c1, c2, c3, k0, k1 = (np.asarray(word, dtype=np.uint64) for word in (c0, c1, c2, c3, k0, k1))
    for _ in range(10):
        a, b = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (b >> HALF) ^ c1 ^ k0, b & WORD, (a >> HALF) ^ c3 ^ k1, a & WORD
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & WORD, (k1 + np.uint64(0xBB67AE85)) & WORD
    return c0, c1, c2, c3


def uniform(words):
    """Numbers in (0, 1] of the upper 31 bits of words, rounded to float32 where the kernels do."""
    return ((words >> np.uint64(1)).astype(np.float32) + np.float32(0.5)).astype(np.float64) / 2**31


def box_muller(first, second):
    """Two normal numbers of two uniform ones."""
    radius, angle = np.sqrt(-2 * np.log(first)), 2 * np.pi * second
    return radius * np.cos(angle), radius * np.sin(angle)
