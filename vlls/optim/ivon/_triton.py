"""IVON's kernel for float32 parameters on a GPU, in Triton, which is imported here and only here.

The kernel reads the addresses of every tensor from a table in device memory: see :mod:`vlls.optim.ivon._cuda`. The
layout is that of ``_ivon.c``; the noise is Triton's Philox.
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
def _tensor(row, column: tl.constexpr):  # type: ignore[no-untyped-def]
    """The float tensor whose address stands in a column of a row of the table."""
    return tl.load(row + column).to(tl.pointer_type(tl.float32))


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
    row = table + index * 9
    param, other, hess_ = _tensor(row, 0), _tensor(row, 1), _tensor(row, 5)
    numel = tl.load(row + 7)
    scalars = numbers + index * 10
    ess, delta = tl.load(scalars + 1), tl.load(scalars + 2)
    lane = tl.arange(0, LANES)

    if (MODE == 0) or RESAMPLE:
        counter = (tile * LANES + lane).to(tl.uint32)
        zero = counter * 0
        stream = zero + tl.load(row + 8).to(tl.uint32)
        w0, w1, w2, w3 = tl.philox(tl.load(key), counter, stream, zero, zero)
        e0, e1 = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(w0), tl.uint_to_uniform_float(w1))
        e2, e3 = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(w2), tl.uint_to_uniform_float(w3))

    if MODE == 2:
        grad_, statistic_, momentum_ = _tensor(row, 2), _tensor(row, 3), _tensor(row, 4)
        lr, beta1, rate1 = tl.load(scalars), tl.load(scalars + 3), tl.load(scalars + 4)
        clip, estimate_clip, step = tl.load(scalars + 7), tl.load(scalars + 8), tl.load(_tensor(row, 6))
        updates = step.to(tl.int32) % tl.load(scalars + 9).to(tl.int32) == 0
        rate2 = tl.where(updates, tl.load(scalars + 5), 0.0)
        bias = 1.0 - tl.exp(step * tl.load(scalars + 6))

    for part in tl.static_range(4):
        at = tile * 4 * LANES + part * LANES + lane
        inside = at < numel
        held = tl.load(param + at, mask=inside)
        if (MODE == 0) or RESAMPLE:
            e = e0 if part == 0 else e1 if part == 1 else e2 if part == 2 else e3
        if MODE == 0:
            h = tl.load(hess_ + at, mask=inside, other=1.0)
            tl.store(other + at, held, mask=inside)
            tl.store(param + at, held + e / tl.sqrt(ess * (h + delta)), mask=inside)
        elif MODE == 1:
            tl.store(param + at, tl.load(other + at, mask=inside), mask=inside)
            tl.store(other + at, held, mask=inside)
        else:
            g = tl.load(grad_ + at, mask=inside)
            h = tl.load(hess_ + at, mask=inside, other=1.0)
            if AT_SAMPLE:
                theta = held
                mean = tl.load(other + at, mask=inside)
            else:
                mean = held
                if AVERAGED or GRADSQ:
                    theta = held
                else:
                    theta = tl.load(other + at, mask=inside)
            precision = h + delta
            if AVERAGED:
                seen = tl.load(statistic_ + at, mask=inside)
            elif GRADSQ:
                seen = g * g
            else:
                seen = (theta - mean) * g
            if GRADSQ:
                most = estimate_clip * precision
            else:
                most = estimate_clip
            seen = tl.where(seen < -most, -most, tl.where(seen > most, most, seen))
            if GRADSQ:
                gap = seen * ess - h
            else:
                gap = seen * ess * precision - h
            h += rate2 * gap + 0.5 * rate2 * rate2 * gap * gap / precision
            average = beta1 * tl.load(momentum_ + at, mask=inside) + rate1 * g
            direction = (average / bias + delta * mean) / (h + delta)
            direction = tl.where(direction < -clip, -clip, tl.where(direction > clip, clip, direction))  # NaN stays
            mean -= lr * direction
            tl.store(momentum_ + at, average, mask=inside)
            tl.store(hess_ + at, h, mask=inside)
            if RESAMPLE:
                tl.store(other + at, mean, mask=inside)
                tl.store(param + at, mean + e / tl.sqrt(ess * (h + delta)), mask=inside)
            else:
                tl.store(param + at, mean, mask=inside)
