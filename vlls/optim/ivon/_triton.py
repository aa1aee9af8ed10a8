"""IVON's kernel for float32 parameters on a GPU, in Triton, which is imported here and only here.

The kernel reads the addresses of every tensor from a table in device memory: see :mod:`vlls.optim.ivon._cuda`. A tile
whose tensors all start at a multiple of 16 bytes moves four numbers at a time; the end of a parameter and memory that
begins anywhere move one at a time, under a mask. The noise is Philox's, one call for four neighbours; logarithm, sine
and cosine are those of ``_ivon.c``, as libdevice's keep an array in memory for arguments that never come.
"""

from __future__ import annotations

try:
    import triton
    import triton.language as tl
except ImportError as error:  # a torch without Triton: Windows, macOS, CPU-only builds
    raise RuntimeError(
        "fused=True needs Triton for parameters on a GPU and it is not installed; "
        "pip install triton, or leave fused=None"
    ) from error


@triton.jit
def _tensor(row, column: tl.constexpr, start, WIDE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return a pointer to a tensor from an element on; its address is in a column of a row of the table."""
    tensor = tl.load(row + column).to(tl.pointer_type(tl.float32)) + start
    return tl.multiple_of(tensor, 16) if WIDE else tensor


@triton.jit
def _uniform(word):  # type: ignore[no-untyped-def]
    """(0, 1] from the upper 31 bits; never 0, so its logarithm is finite."""
    return ((word >> 1).to(tl.int32).to(tl.float32) + 0.5) * 0.5**31


@triton.jit
def _log(x):  # type: ignore[no-untyped-def]
    """log of x > 0: x = 2^e m with m in [sqrt(1/2), sqrt(2)), then log m = 2 atanh((m - 1) / (m + 1)) as a series."""
    bits = x.to(tl.int32, bitcast=True)
    e = (bits - 0x3F3504F3) >> 23
    m = (bits - (e << 23)).to(tl.float32, bitcast=True)
    s = (m - 1.0) / (m + 1.0)
    z = s * s
    series = 2.0 + z * (0.666666667 + z * (0.4 + z * (0.285714286 + z * 0.222222222)))
    return s * series + e.to(tl.float32) * 0.693147181


@triton.jit
def _normal_pair(a, b):  # type: ignore[no-untyped-def]
    """Two standard normal numbers from two words, by Box and Muller."""
    radius = tl.sqrt(-2.0 * _log(_uniform(a)))
    turn = 4.0 * _uniform(b)  # quarter turns, in (0, 4]
    quarter = (turn + 0.5).to(tl.int32)
    x = (turn - quarter.to(tl.float32)) * 1.57079633  # |x| <= pi / 4
    z = x * x
    sine = x * (1.0 + z * (-0.166666667 + z * (8.33333333e-3 + z * (-1.98412698e-4 + z * 2.75573192e-6))))
    cosine = 1.0 + z * (-0.5 + z * (4.16666667e-2 + z * (-1.38888889e-3 + z * 2.48015873e-5)))
    odd = quarter & 1 != 0
    first, second = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    first = tl.where((quarter + 1) & 2 != 0, -first, first)
    second = tl.where(quarter & 2 != 0, -second, second)
    return radius * first, radius * second


@triton.jit
def _noise(key, tile, stream, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    """The standard normal numbers of a tile: each lane gives four neighbours."""
    counter = (tile * LANES + tl.arange(0, LANES)).to(tl.uint32)
    zero = counter * 0
    w0, w1, w2, w3 = tl.philox(key, counter, zero, zero + stream, zero)
    e0, e1 = _normal_pair(w0, w1)
    e2, e3 = _normal_pair(w2, w3)
    return tl.reshape(tl.join(tl.join(e0, e2), tl.join(e1, e3)), (4 * LANES,))


@triton.jit
def _clamp(x, most):  # type: ignore[no-untyped-def]
    """Clamp to [-most, most]; NaN stays."""
    return tl.clamp(x, -most, most, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _run_tile(  # type: ignore[no-untyped-def]
    row,
    scalars,
    key,
    tile,
    left,
    MODE: tl.constexpr,
    AT_SAMPLE: tl.constexpr,
    RESAMPLE: tl.constexpr,
    AVERAGED: tl.constexpr,
    GRADSQ: tl.constexpr,
    LANES: tl.constexpr,
    WIDE: tl.constexpr,
):
    start = tile * 4 * LANES
    lane = tl.arange(0, 4 * LANES)
    inside = None if WIDE else lane < left
    param, other = _tensor(row, 0, start, WIDE) + lane, _tensor(row, 1, start, WIDE) + lane
    held = tl.load(param, mask=inside)
    if MODE == 1:
        tl.store(param, tl.load(other, mask=inside), mask=inside)
        tl.store(other, held, mask=inside)
    else:
        hess = _tensor(row, 5, start, WIDE) + lane
        h = tl.load(hess, mask=inside, other=None if WIDE else 1.0)
        mean = held
        ess, delta = tl.load(scalars + 1), tl.load(scalars + 2)
        if MODE == 2:
            lr, beta1, rate1 = tl.load(scalars), tl.load(scalars + 3), tl.load(scalars + 4)
            clip, estimate_clip = tl.load(scalars + 7), tl.load(scalars + 8)
            step = tl.load(_tensor(row, 6, 0, False))
            updates = step.to(tl.int32) % tl.load(scalars + 9).to(tl.int32) == 0
            rate2 = tl.where(updates, tl.load(scalars + 5), 0.0)
            inverse_bias = 1.0 / (1.0 - tl.exp(step * tl.load(scalars + 6)))

            g = tl.load(_tensor(row, 2, start, WIDE) + lane, mask=inside)
            precision = h + delta
            if AT_SAMPLE:
                mean = tl.load(other, mask=inside)
            if AVERAGED:
                seen = tl.load(_tensor(row, 3, start, WIDE) + lane, mask=inside)
            elif GRADSQ:
                seen = g * g
            elif AT_SAMPLE:
                seen = (held - mean) * g
            else:
                seen = (tl.load(other, mask=inside) - mean) * g
            if GRADSQ:
                gap = _clamp(seen, estimate_clip * precision) * ess - h
            else:
                gap = _clamp(seen, estimate_clip) * ess * precision - h
            root = rate2 * gap * tl.rsqrt(precision)
            h += rate2 * gap + 0.5 * root * root
            tl.store(hess, h, mask=inside)

            momentum = _tensor(row, 4, start, WIDE) + lane
            average = beta1 * tl.load(momentum, mask=inside) + rate1 * g
            tl.store(momentum, average, mask=inside)
            inverse = tl.rsqrt(h + delta)
            mean -= lr * _clamp((average * inverse_bias + delta * mean) * inverse * inverse, clip)
        if (MODE == 0) or RESAMPLE:
            e = _noise(tl.load(key), tile, tl.load(row + 8).to(tl.uint32), LANES)
            tl.store(other, mean, mask=inside)
            tl.store(param, mean + e * tl.rsqrt(ess * (h + delta)), mask=inside)
        else:
            tl.store(param, mean, mask=inside)


@triton.jit
def ivon_kernel(  # type: ignore[no-untyped-def]
    table,
    numbers,
    tiles,
    key,
    MODE: tl.constexpr,
    AT_SAMPLE: tl.constexpr,
    RESAMPLE: tl.constexpr,
    AVERAGED: tl.constexpr,
    GRADSQ: tl.constexpr,
    LANES: tl.constexpr,
):
    """One tile of one parameter: MODE 0 saves the mean and samples, 1 exchanges the two, 2 is Alg. 1."""
    index = tl.load(tiles + 2 * tl.program_id(0)).to(tl.int64)
    tile = tl.load(tiles + 2 * tl.program_id(0) + 1).to(tl.int64)
    row, scalars = table + index * 9, numbers + index * 10
    left = tl.load(row + 7) - tile * 4 * LANES
    addresses = tl.load(row)
    for column in tl.static_range(1, 6):
        addresses |= tl.load(row + column)
    if (left >= 4 * LANES) & (addresses % 16 == 0):
        _run_tile(row, scalars, key, tile, left, MODE, AT_SAMPLE, RESAMPLE, AVERAGED, GRADSQ, LANES, True)
    else:
        _run_tile(row, scalars, key, tile, left, MODE, AT_SAMPLE, RESAMPLE, AVERAGED, GRADSQ, LANES, False)
