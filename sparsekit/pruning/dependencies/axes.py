"""What the axes of tensors are made of, and which of them have to be put into the same order.

An *axis* of a tensor is a row-major product of *leaves*. Two axes that an operation lines up are unified: their leaves
become one. A leaf that is cut into a grid by a reshape becomes a product, one that is sliced or concatenated becomes a
sequence of pieces. What is left at the end are the freedoms of the network: any leaf that is not pinned can be put into
any order, everywhere at once, and the network computes the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from math import prod
from typing import ClassVar


class Leaf:
    """One direction of one or more tensors."""

    __slots__ = ("_link", "_within", "number", "pieces", "product", "reason", "size")
    numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, size: int, reason: str | None = None) -> None:
        self.size = size
        self.number = next(Leaf.numbers)
        self.reason = reason
        """Why its order is fixed; None where it is free."""
        self.product: Axis | None = None
        self.pieces: list[Axis] | None = None
        self._within: set[Leaf] = set()
        self._link: Leaf | None = None

    def root(self) -> Leaf:
        """The leaf that this one was unified with, itself where with none."""
        leaf = self
        while leaf._link is not None:
            leaf = leaf._link
        if leaf is not self:
            self._link = leaf
        return leaf

    @property
    def within(self) -> set[Leaf]:
        """Leaves that always come along, so that it can have another order at each of their indices."""
        found = {end for leaf in self._within for end in resolve((leaf,)) if end.pieces is None}
        found.discard(self.root())
        return found

    @within.setter
    def within(self, leaves: Iterable[Leaf]) -> None:
        self._within = set(leaves)

    def part(self, size: int) -> Leaf:
        """A leaf of ``size`` with the same restrictions."""
        leaf = Leaf(size, self.reason)
        leaf.within = self.within
        return leaf


Axis = tuple[Leaf, ...]


def fresh(size: int, reason: str | None = None) -> Axis:
    """A new axis; one of size 1 has no leaves."""
    return () if size == 1 else (Leaf(size, reason),)


def resolve(axis: Axis) -> Axis:
    """The leaves of ``axis`` now, products multiplied out; those with pieces stay whole."""
    out: list[Leaf] = []
    for leaf in axis:
        root = leaf.root()
        out.extend((root,) if root.product is None else resolve(root.product))
    return tuple(out)


def ends(axis: Axis) -> Iterator[Leaf]:
    """Every leaf of ``axis`` that is no product and has no pieces, those inside pieces included."""
    for leaf in resolve(axis):
        if leaf.pieces is None:
            yield leaf
        else:
            for piece in leaf.pieces:
                yield from ends(piece)


def size_of(axis: Axis) -> int:
    """How long ``axis`` is."""
    return prod(leaf.size for leaf in axis)


def pin(axis: Axis, reason: str) -> None:
    """Fix the order of everything in ``axis``; the first reason stays."""
    for leaf in ends(axis):
        leaf.reason = leaf.reason or reason


def split(leaf: Leaf, outer: int) -> Axis:
    """Cut a leaf that is its own root, without pieces, into a grid of ``outer`` rows; return the two leaves."""
    high, wide = leaf.part(outer), leaf.part(leaf.size // outer)
    wide.within = leaf.within | {high}
    leaf.product = (high, wide)
    return leaf.product


def unify(one: Axis, other: Axis) -> None:
    """Make two axes of the same size one; where their grids do not fit, fix both."""
    left, right = list(resolve(one)), list(resolve(other))
    while left and right:
        a, b = (_take(side) for side in (left, right))
        if a.size == b.size:
            _merge(a, b)
            continue
        big, small, rest = (a, b, left) if a.size > b.size else (b, a, right)
        if big.size % small.size or big.pieces is not None:
            pin((a, b, *left, *right), "is reshaped in two ways that do not fit")
            return
        high, wide = split(big, small.size)
        rest.insert(0, wide)
        _merge(*(resolve((x,))[0] for x in (high, small)))
    pin((*left, *right), "is lined up with something of another size")


def _take(queue: list[Leaf]) -> Leaf:
    """The first leaf of ``queue`` now, which may have been split since it came in."""
    first, *rest = resolve((queue.pop(0),))
    queue[:0] = rest
    return first


def _merge(a: Leaf, b: Leaf) -> None:
    """Make one of two roots of the same size."""
    if a is b:
        return
    if a.pieces is not None and b.pieces is not None:
        _merge_pieces(a, b)
        return
    if a.pieces is not None:
        a, b = b, a
    reason, within = a.reason, a.within
    a._link = b
    if b.pieces is None:
        b.reason = b.reason or reason
        b.within = b.within & within
        return
    inside = set(ends((b,)))
    for leaf in inside:
        leaf.reason = leaf.reason or reason
        leaf.within = leaf.within & (within | inside)


def _merge_pieces(a: Leaf, b: Leaf) -> None:
    """Make one of two sequences of pieces, cutting both where the other is cut."""
    for one, other in ((a, b), (b, a)):
        if not all(_cut(one, at) for at in _bounds(other)):
            pin((a, b), "is concatenated in two ways that do not fit")
            return
    assert a.pieces is not None
    assert b.pieces is not None
    for piece, twin in zip(list(a.pieces), list(b.pieces)):
        unify(piece, twin)
    a._link = b


def _bounds(leaf: Leaf) -> list[int]:
    """Where the pieces of ``leaf`` begin, without 0."""
    assert leaf.pieces is not None
    at, found = 0, []
    for piece in leaf.pieces[:-1]:
        at += size_of(piece)
        found.append(at)
    return found


def _cut(leaf: Leaf, at: int) -> bool:
    """Let a piece of the root ``leaf`` begin at index ``at``; False where it cannot be cut there."""
    if at in (0, leaf.size):
        return True
    if leaf.pieces is None:
        sizes = (at, leaf.size - at)
        leaf.pieces = [() if size == 1 else (leaf.part(size),) for size in sizes]
        return True
    start = 0
    for i, piece in enumerate(leaf.pieces):
        stop = start + size_of(piece)
        if start < at < stop:
            found = resolve(piece)
            if len(found) != 1 or not _cut(found[0], at - start):
                return False
            assert found[0].pieces is not None
            leaf.pieces[i : i + 1] = found[0].pieces
            return True
        start = stop
    return True


def sliced(axis: Axis, start: int, stop: int) -> Axis | None:
    """The part of ``axis`` from ``start`` to ``stop``; None where it is not made of whole pieces."""
    first, *rest = resolve(axis)
    inner = size_of(tuple(rest))
    if start % inner or stop % inner:
        return None
    start, stop = start // inner, stop // inner
    if not (_cut(first, start) and _cut(first, stop)):
        return None
    if first.pieces is None:
        return axis
    at, taken = 0, []
    for piece in first.pieces:
        if start <= at < stop:
            taken.append(piece)
        at += size_of(piece)
    return (*joined(taken), *rest)


def joined(pieces: Sequence[Axis]) -> Axis:
    """One axis of several behind one another."""
    if len(pieces) == 1:
        return pieces[0]
    leaf = Leaf(sum(size_of(piece) for piece in pieces))
    leaf.pieces = list(pieces)
    return (leaf,)


def reshaped(axes: Sequence[Axis], shape: Sequence[int]) -> list[Axis] | None:
    """The axes of a tensor with ``axes`` after a reshape to ``shape``; None where the grids do not fit."""
    queue = [leaf for axis in axes for leaf in resolve(axis)]
    out: list[Axis] = []
    for size in shape:
        axis: list[Leaf] = []
        missing = size
        while missing > 1:
            leaf = _take(queue)
            if missing % leaf.size == 0:
                missing //= leaf.size
                axis.append(leaf)
            elif leaf.size % missing == 0 and leaf.pieces is None:
                high, wide = split(leaf, missing)
                axis.append(high)
                queue.insert(0, wide)
                missing = 1
            else:
                return None
        out.append(tuple(axis))
    return out


def settle(axes: Sequence[Axis], alone: Iterable[Leaf] = ()) -> None:
    """Take from each leaf of a tensor the freedom to depend on leaves that the tensor does not have exactly once.

    Args:
        axes: of the tensor.
        alone: leaves that do not count although the tensor has them.
    """
    count: dict[Leaf, int] = {}
    for axis in axes:
        for leaf in ends(axis):
            count[leaf] = count.get(leaf, 0) + 1
    for leaf in alone:
        count.pop(leaf, None)
    for leaf, times in count.items():
        if leaf._within:
            leaf.within = {one for one in leaf.within if times == 1 and count.get(one) == 1}
