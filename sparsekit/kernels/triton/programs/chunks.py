"""Chunks of eight stored values: a lane reads a chunk in 16-byte loads, and works with one tensor per number.

The first direction of every tensor is the lanes': where nothing else decides, Triton's compiler hands out lanes along
it, so that a lane has all of its chunk and no number moves between lanes.
"""

import triton
import triton.language as tl


@triton.jit
def run(at, left, COUNT: tl.constexpr, LANES: tl.constexpr, ACROSS: tl.constexpr):
    """The ``COUNT`` numbers from each of the places ``at``, ``(LANES, ACROSS)``, on; 0 from ``left`` numbers on.

    Returns ``COUNT`` tensors ``(LANES, ACROSS)``.
    """
    step = tl.arange(0, COUNT)[None, None, :]
    block = tl.load(at[:, :, None] + step, mask=step < left[:, :, None], other=0)
    if COUNT == 8:
        parts = (tl.reshape(block, (LANES, ACROSS, 2, 2, 2)),)
    else:
        parts = (tl.reshape(block, (LANES, ACROSS, 2, 2)),)
    for _ in tl.static_range(bits_of(COUNT)):
        evens = ()
        odds = ()
        for part in tl.static_range(len(parts)):
            even, odd = tl.split(parts[part])
            evens = evens + (even,)
            odds = odds + (odd,)
        parts = evens + odds
    return parts


@triton.jit
def eight(at, left, LANES: tl.constexpr, ACROSS: tl.constexpr):
    """Eight numbers from each of the places ``at`` on, as they are stored; see :func:`run`."""
    if at.dtype.element_ty.primitive_bitwidth == 32:
        return run(at, left, 4, LANES, ACROSS) + run(at + 4, left - 4, 4, LANES, ACROSS)
    else:
        return run(at, left, 8, LANES, ACROSS)


@triton.jit
def eight_of_words(values, chunk, chunks_left, DTYPE: tl.constexpr, LANES: tl.constexpr, ACROSS: tl.constexpr):
    """The eight values of each ``chunk``, ``(LANES, ACROSS)``, as float32; 0 where ``chunks_left`` is not positive.

    Halves are read as words of two: taking one out of a word is one instruction, out of a vector of halves two.
    """
    if DTYPE == tl.float32:
        return eight(values + chunk * 8, chunks_left * 8, LANES, ACROSS)
    else:
        words = run(values + chunk * 4, chunks_left * 4, 4, LANES, ACROSS)
        halves = ()
        for word in tl.static_range(4):
            halves = halves + (low(words[word], DTYPE), high(words[word], DTYPE))
        return halves


@triton.jit
def eight_as_bits(values, chunk, chunks_left, LANES: tl.constexpr, ACROSS: tl.constexpr):
    """The bits of the eight values of each ``chunk``, in 32 each; what the upper half holds of a half is undefined."""
    if values.dtype.element_ty == tl.float32:
        floats = eight(values + chunk * 8, chunks_left * 8, LANES, ACROSS)
        bits = ()
        for at in tl.static_range(8):
            bits = bits + (floats[at].to(tl.int32, bitcast=True),)
        return bits
    else:
        words = run(values + chunk * 4, chunks_left * 4, 4, LANES, ACROSS)
        bits = ()
        for word in tl.static_range(4):
            bits = bits + (words[word], words[word] >> 16)
        return bits


@triton.jit
def low(word, DTYPE: tl.constexpr):
    """The first of two halves in a word, as float32."""
    if DTYPE == tl.bfloat16:
        return (word << 16).to(tl.float32, bitcast=True)
    else:
        return word.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def high(word, DTYPE: tl.constexpr):
    """The second of two halves in a word, as float32."""
    if DTYPE == tl.bfloat16:
        return (word & -65536).to(tl.float32, bitcast=True)
    else:
        return (word >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.constexpr_function
def bits_of(count):
    """How many bits tell ``count`` things apart."""
    return (count - 1).bit_length()


@triton.jit
def side_by_side(parts, LANES: tl.constexpr, ACROSS: tl.constexpr):
    """The tensors ``(LANES, ACROSS)``, a power of two of them, as one of ``(ACROSS, LANES * len(parts))``."""
    COUNT: tl.constexpr = len(parts)
    for _ in tl.static_range(bits_of(COUNT)):
        pairs = ()
        for part in tl.static_range(len(parts) // 2):
            pairs = pairs + (tl.join(parts[part], parts[part + len(parts) // 2]),)
        parts = pairs
    return tl.reshape(tl.permute(tl.reshape(parts[0], (LANES, ACROSS, COUNT)), (1, 0, 2)), (ACROSS, LANES * COUNT))


@triton.jit
def zeros(COUNT: tl.constexpr, LANES: tl.constexpr, ACROSS: tl.constexpr):
    """``COUNT`` sums ``(LANES, ACROSS)`` of nothing."""
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros((LANES, ACROSS), dtype=tl.float32),)
    return sums
