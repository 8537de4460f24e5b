"""What operations that compute do to axes."""

from __future__ import annotations

import torch

from sparsekit.pruning.dependencies.axes import fresh, pin, reshaped, unify
from sparsekit.pruning.dependencies.call import Axes, Call, broadcast, contract, unify_all
from sparsekit.pruning.dependencies.layout import Rule


def pointwise(call: Call) -> list[Axes] | None:
    """Each value by itself, tensors broadcast against each other."""
    out = broadcast(*(call.table.axes(tensor) for tensor in call.tensors))
    return [list(out) for _ in call.shapes]


def softmax(call: Call) -> list[Axes] | None:
    """Values change together with all others along a dimension, in any order."""
    call.mix(call.axes(), call.dims())
    return [list(call.axes())]


def reduce(call: Call) -> list[Axes] | None:
    """One value of all along some dimensions, in any order."""
    axes, dims = call.axes(), set(call.dims())
    if call.values.get("keepdim"):
        out = [() if dim in dims else axis for dim, axis in enumerate(axes)]
    else:
        out = [axis for dim, axis in enumerate(axes) if dim not in dims]
    return [list(out) for _ in call.shapes]


def search(call: Call) -> list[Axes] | None:
    """The place of a value along a dimension, which depends on the order."""
    for dim in call.dims():
        call.hold(call.axes()[dim], "is searched")
    return reduce(call)


def matmul(call: Call) -> list[Axes] | None:
    """``(..., n, k) @ (..., k, m)``, batches in lockstep."""
    one, other = (call.axes(name) for name in _operands(call))
    if len(other) == 1:
        contract(one[-1], other[0], one[:-2])
        return [one[:-1]]
    batch = [unify_all(pair) for pair in zip(one[:-2], other[:-2])]
    contract(one[-1], other[-2], batch)
    return [[*batch, *one[len(batch) : -1], other[-1]]]


def _operands(call: Call) -> tuple[str, str]:
    names = [
        name for name in call.values if name in {"self", "mat1", "mat2", "mat", "batch1", "batch2", "vec", "tensor"}
    ]
    return ("self", names[1]) if len(names) == 2 else (names[1], names[2])


def matmul_add(call: Call) -> list[Axes] | None:
    """A product and what is added to it."""
    found = matmul(call)
    return None if found is None else [broadcast(found[0], call.axes())]


def convolution(call: Call) -> list[Axes] | None:
    """Inputs and outputs of each group; what lies under the kernel keeps its order."""
    groups, transposed = call["groups"], call["transposed"]
    data, weight = call.axes("input"), call.axes("weight")
    rank = len(weight)
    lead = len(data) - rank + 1
    inputs, outputs = data[lead], fresh(call.shapes[0][lead])
    group = fresh(groups)
    first, second = (inputs, outputs) if transposed else (outputs, inputs)
    contract(first, weight[0], [])
    contract(second, (*group, *weight[1]), [])
    cut = reshaped([weight[0]], [groups, call["weight"].shape[0] // groups])
    if cut is None:
        return None
    unify(cut[0], group)
    for axes in call.optional("bias"):
        unify(outputs, axes[0])
    for axis in (*data[lead + 1 :], *weight[2:]):
        call.hold(axis, "lies under a kernel")
    space = [call.new(size, "lies under a kernel") for size in call.shapes[0][lead + 1 :]]
    return [[*data[:lead], outputs, *space]]


def batch_norm(call: Call) -> list[Axes] | None:
    """Each channel by itself."""
    data = call.axes("input")
    for axes in call.optional("weight", "bias", "running_mean", "running_var"):
        unify(data[1], axes[0])
    call.mix(data, [dim for dim in range(len(data)) if dim != 1])
    return [
        list(data),
        *([data[1]] if len(shape) == 1 and shape[0] else [fresh(n) for n in shape] for shape in call.shapes[1:]),
    ]


def layer_norm(call: Call) -> list[Axes] | None:
    """All values of the last dimensions together, in any order."""
    data = call.axes("input")
    count = len(call["normalized_shape"])
    for axes in call.optional("weight", "bias"):
        broadcast(data[len(data) - count :], axes)
    call.mix(data, range(len(data) - count, len(data)))
    rest = [*data[: len(data) - count], *[()] * count]
    return [list(data), *(list(rest) for _ in call.shapes[1:])]


def group_norm(call: Call) -> list[Axes] | None:
    """The channels of each group together, in any order."""
    data, groups = call.axes("input"), call["group"]
    cut = reshaped([data[1]], [groups, call["C"] // groups])
    if cut is None:
        return None
    for axes in call.optional("weight", "bias"):
        unify(data[1], axes[0])
    call.mix(data, range(1, len(data)))
    return [list(data), *([data[0], cut[0]] for _ in call.shapes[1:])]


def embedding(call: Call) -> list[Axes] | None:
    """Rows by number: which number is which row is fixed."""
    weight = call.axes("weight")
    call.hold(weight[0], "is looked up")
    return [[*call.axes("indices"), weight[1]]]


def attention(call: Call) -> list[Axes] | None:
    """``softmax(q k^T) v`` per batch and head; tokens of keys and values in any order."""
    q, k, v = (call.axes(name) for name in ("query", "key", "value"))
    if call["query"].shape[:-2] != call["key"].shape[:-2]:
        return None
    batch = [unify_all(three) for three in zip(q[:-2], k[:-2], v[:-2])]
    unify(k[-2], v[-2])
    contract(q[-1], k[-1], batch)
    for name in ("attn_mask", "attn_bias"):
        for axes in call.optional(name):
            broadcast([*batch, q[-2], k[-2]], axes)
    if call.values.get("is_causal"):
        for axis in (q[-2], k[-2]):
            call.hold(axis, "is masked by its order")
    out = [*batch, q[-2], v[-1]]
    return [out, *([fresh(size, "is not followed") for size in shape] for shape in call.shapes[1:])]


def prelu(call: Call) -> list[Axes] | None:
    """A slope per channel."""
    return [broadcast(call.axes(), call.axes("weight"))]


def indexed(call: Call) -> list[Axes] | None:
    """Take some indices of a dimension."""
    axes, dim = list(call.axes()), call.dim()
    call.hold(axes[dim], "is indexed")
    for axis in call.axes("index"):
        pin(axis, "is an index")
    if call.name.endswith("gather"):
        for axis in axes:
            call.hold(axis, "is indexed")
        return [[call.new(size, "is indexed") for size in call.shapes[0]]]
    axes[dim] = call.new(call.shapes[0][dim], "is indexed")
    return [axes]


RULES: dict[str, Rule] = {
    **dict.fromkeys("_softmax _log_softmax".split(), softmax),
    **dict.fromkeys("sum mean amax amin prod var var_mean std std_mean linalg_vector_norm norm".split(), reduce),
    **dict.fromkeys("any all logsumexp _local_scalar_dense".split(), reduce),
    **dict.fromkeys("argmax argmin max min".split(), search),
    **dict.fromkeys("mm bmm mv dot".split(), matmul),
    **dict.fromkeys("addmm baddbmm addmv".split(), matmul_add),
    **dict.fromkeys(
        "native_batch_norm _native_batch_norm_legit_no_training _native_batch_norm_legit cudnn_batch_norm".split(),
        batch_norm,
    ),
    **dict.fromkeys(
        "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_efficient_attention "
        "_scaled_dot_product_flash_attention _scaled_dot_product_cudnn_attention".split(),
        attention,
    ),
    **dict.fromkeys("gather index_select".split(), indexed),
    **dict.fromkeys(
        "rsub where masked_fill masked_fill_ hardtanh hardtanh_ relu6 threshold hardswish hardswish_".split(), pointwise
    ),
    "convolution": convolution,
    "native_layer_norm": layer_norm,
    "native_group_norm": group_norm,
    "embedding": embedding,
    "_prelu_kernel": prelu,
}


def rule_of(func: torch._ops.OpOverload) -> Rule | None:
    """The rule for any operation that works value by value."""
    tags = func.tags
    return pointwise if torch.Tag.pointwise in tags and torch.Tag.nondeterministic_seeded not in tags else None
