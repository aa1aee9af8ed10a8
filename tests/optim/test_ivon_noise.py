"""The normal numbers of IVON's C kernel are those of its algorithm written out in NumPy."""

import numpy as np
import pytest
import torch
from ivon_problems import needs_compiler
from philox import WORD, box_muller, philox, uniform

from vlls import IVON
from vlls.optim.ivon._cpu import TILE, FusedCPU

LANES = 64
SIZES = 1, 130, 4097, 9000  # within a row, a pair of rows and more, several tiles with a ragged end


def test_philox_gives_the_known_answers_of_its_authors():
    zero = philox(0, 0, 0, 0, 0, 0)
    assert zero == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    pi = philox(0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0)
    assert pi == (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)


def rotated(word, by):
    return ((word << np.uint64(by)) | (word >> np.uint64(32 - by))) & WORD


def tile_noise(tile, stream, key):
    """A tile: 64 generators xoshiro128+ (Blackman and Vigna, 2021), two words of each for two rows of numbers."""
    a, b, c, d = philox(tile * LANES + np.arange(LANES), 0, stream, 0, key & 0xFFFFFFFF, key >> 32)
    rows = []
    for _ in range(TILE // (2 * LANES)):
        words = []
        for _ in range(2):
            words.append((a + d) & WORD)
            shifted = (b << np.uint64(9)) & WORD
            c, d = c ^ a, d ^ b
            a, b = a ^ d, b ^ c
            c, d = c ^ shifted, rotated(d, 11)
        rows += box_muller(*map(uniform, words))
    return np.concatenate(rows)


@needs_compiler
@pytest.mark.parametrize("seed", [3, 4])
def test_the_noise_is_that_of_the_algorithm(seed):
    generators = [torch.Generator().manual_seed(seed) for _ in range(2)]
    params = [torch.nn.Parameter(torch.zeros(n)) for n in SIZES]
    optimizer = IVON(params, lr=0.1, ess=1.0, weight_decay=0.0, fused=True, generator=generators[0])
    key = int(FusedCPU.new_key(generators[1]))
    assert key >> 32
    with optimizer.sampled_params():
        for stream, p in enumerate(params, start=1):
            tiles = [tile_noise(tile, stream, key) for tile in range(-(-p.numel() // TILE))]
            expected = np.concatenate(tiles)[: p.numel()]
            assert (np.abs(p.detach().double().numpy() - expected) / (1 + np.abs(expected))).max() < 4e-6
