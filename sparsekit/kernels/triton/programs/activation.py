"""What is applied to a result before it is stored."""

import triton
import triton.language as tl


@triton.jit
def activate(total, ACTIVATION: tl.constexpr):
    """Apply an activation, given by its name, to float32 numbers."""
    if ACTIVATION == "relu":
        total = tl.where(total < 0.0, 0.0, total)  # passes NaN on, as torch does
    elif ACTIVATION == "silu":
        total = total * tl.sigmoid(total)
    elif ACTIVATION == "gelu":
        total = 0.5 * total * (1.0 + tl.erf(total * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # 0.5 (1 + tanh(z)) is sigmoid(2 z)
        total = total * tl.sigmoid(1.5957691216057308 * (total + 0.044715 * total * total * total))
    return total
