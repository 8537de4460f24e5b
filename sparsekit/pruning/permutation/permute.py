"""Put channels into an order of which a pattern keeps more."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsekit.batches import call_model, evaluating
from sparsekit.errors import PatternError, PruningError
from sparsekit.patterns import NM, Pattern
from sparsekit.pruning.allocations import Uniform
from sparsekit.pruning.criteria import Criterion, Magnitude
from sparsekit.pruning.dependencies import Dependencies, Leaf, Place, ends, follow, outputs_of
from sparsekit.pruning.permutation.objective import GroupObjective, Objective, objective_of
from sparsekit.pruning.permutation.reallocate import search_reallocation
from sparsekit.pruning.permutation.report import PermutedLayer, PermutedLayers
from sparsekit.pruning.permutation.sites import Site, kept, reorder, total
from sparsekit.pruning.permutation.stripes import search_stripes, small_enough
from sparsekit.pruning.permutation.swaps import search_swaps
from sparsekit.pruning.prune import check_loss, materialise
from sparsekit.pruning.statistics import LossFunction, ModelView
from sparsekit.pruning.surveying import surveyed
from sparsekit.pruning.targets import Choice, find_targets

METHODS = ("stripes", "swaps", "reallocate")
SWEEPS = 200


@dataclass(frozen=True)
class Effort:
    """How long to search.

    Args:
        method: one of :data:`METHODS`.
        windows: pairs that are looked at, per order.
        escapes: random trades after it, per order.
        seed: draws them.
    """

    method: str
    windows: int
    escapes: int
    seed: int


@torch.no_grad()
def permute_for(  # noqa: PLR0913 - the choices of prune, and those of the search
    model: nn.Module,
    pattern: Pattern,
    example_inputs: Any,
    criterion: Criterion = Magnitude(),  # noqa: B008 - frozen
    *,
    method: str = "stripes",
    sparsity: float | None = None,
    batches: Iterable[Any] | None = None,
    loss_fn: LossFunction | None = None,
    layers: Choice = None,
    seed: int = 0,
    windows: int = 4_000,
    escapes: int = 10,
) -> PermutedLayers:
    """Reorder channels of ``model`` in place so that ``pattern`` keeps more of the score; its output stays.

    The inputs of a layer move together with the outputs of whatever makes them (rows, biases, BatchNorm and LayerNorm
    parameters, running statistics) and with the inputs of every other layer that reads them. Which belong together is
    found by following one run on ``example_inputs``; that the output stayed the same up to rounding is checked on
    them, and everything is put back where it did not. What a search would lower as a whole stays as it was.

    Args:
        model: any module; parameters keep their identity. Optimizer states do not move along, so permute before.
        pattern: what the model will be pruned to.
        example_inputs: what the model takes: a tensor, a tuple (positional) or a mapping (keywords).
        criterion: what it will be pruned by; scored once, of the model as it comes.
        method: "stripes" divides the columns of two N:M groups anew, all ways of it, wherever that gains most; where
            there are too many ways, or the pattern is another, it is "swaps": trade the two channels that gain most;
            "reallocate" deals the channels out by their sums and then solves for the best assignment of one channel
            of every group at a time.
        sparsity: fraction of zeros, where the pattern does not fix it.
        batches, loss_fn: as in :func:`~sparsekit.pruning.prune`, where the criterion needs them.
        layers: which weights count, as in :func:`~sparsekit.pruning.prune`.
        seed: of what is tried at random.
        windows: pairs of groups that "stripes" looks at, at most, for one order, and again in its escapes (a layer
            that has more of them starts from "reallocate"); pairs of channels that "swaps" tries for other patterns.
        escapes: random trades that "stripes" makes when nothing gains any more.

    Returns:
        what happened to each weight, and why not where nothing did.

    Raises:
        PatternError: the sparsity is outside [0, 1) or contradicts the pattern.
        LayerError: no layer matches, a name is unknown, or a weight cannot be pruned.
        InputError: the model refuses the example inputs.
        CalibrationError: batches or a loss function are needed and missing.
        PruningError: the method is unknown, or the output changed; then the model is as it was.

    Source: Pool, Yu 2021, "Channel Permutations for N:M Sparsity"; Zhang et al. 2024, "Plug-and-Play: An Efficient
    Post-training Pruning Method for Large Language Models", for "reallocate".
    """
    if method not in METHODS:
        raise PruningError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    for word, value, kind in (("pattern", pattern, Pattern), ("criterion", criterion, Criterion)):
        if not isinstance(value, kind):
            raise PruningError(f"{word}: expected a {kind.__name__}, got {value!r}")
    view = ModelView(model, find_targets(model, layers), materialise(batches, criterion, Uniform()), loss_fn)
    for target in view.targets:
        try:
            pattern.expect(tuple(target.weight.shape))
            pattern.sparsity(sparsity, tuple(target.weight.shape))
        except PatternError as error:
            raise PatternError(f"{target.name}: {error}") from None
    check_loss(criterion, loss_fn)
    dependencies = follow(model, example_inputs)
    scores = _scores(view, criterion)
    search = _Search(pattern, sparsity, scores, Effort(method, windows, escapes, seed))
    before = {name: kept(value, pattern, sparsity) for name, value in scores.items()}
    orders = {leaf: search.run(dependencies.places(leaf)) for leaf in _movable(dependencies, scores, pattern)}
    _apply(model, example_inputs, [(dependencies.places(leaf), order) for leaf, order in orders.items()])
    return _report(search, dependencies, before, orders)


def _scores(view: ModelView, criterion: Criterion) -> dict[str, Tensor]:
    """The scores of each weight by parameter name; they are reordered with the weights later."""
    found = {}
    for target, stats in surveyed(view, criterion.statistics()):
        wide = target.weight.detach().to(torch.promote_types(target.weight.dtype, torch.float32))
        found[target.name] = criterion.score(wide, stats).clone()
        if not bool(torch.isfinite(found[target.name]).all()):
            raise PruningError(f"{target.name}: expected finite scores from {criterion}, got NaN or infinite ones")
    return found


def _movable(dependencies: Dependencies, scores: Mapping[str, Tensor], pattern: Pattern) -> list[Leaf]:
    """The leaves that are free, that others do not hang on, and whose order can matter to the pattern."""
    leaves = dependencies.leaves()
    parents = {parent for leaf in leaves for parent in leaf.within}
    read = {
        leaf
        for name, axes in dependencies.axes.items()
        if name in scores
        for axis in (axes[1:2] if isinstance(pattern, NM) else axes[:2])
        for leaf in ends(axis)
    }
    return [leaf for leaf in leaves if leaf.reason is None and leaf not in parents and leaf in read]


@dataclass
class _Search:
    """Finds orders one leaf at a time, with the scores in the orders found so far."""

    pattern: Pattern
    sparsity: float | None
    scores: dict[str, Tensor]
    effort: Effort
    moved: dict[str, Tensor] = field(default_factory=dict)
    """By parameter name, which input is at each place."""

    def run(self, places: Sequence[Place]) -> list[Tensor]:
        """The order of each slice of one leaf."""
        read = [place for place in places if place.name in self.scores and place.dim < 2]
        if isinstance(self.pattern, NM):
            read = [place for place in read if place.dim == 1]
        return [self._slice(read, number) for number in range(len(places[0].index))]

    def _slice(self, places: Sequence[Place], number: int) -> Tensor:
        sites = [Site(place.name, self.scores[place.name], place.dim, place.index[number]) for place in places]
        before = total(sites, self.pattern, self.sparsity)
        objective = objective_of(sites, self.pattern, self.sparsity)
        run(objective, self.effort)
        order = objective.order
        _move(sites, order)
        if total(sites, self.pattern, self.sparsity) > before:
            self._remember(sites, order)
            return order
        _move(sites, order.argsort())
        return torch.arange(len(order))

    def _remember(self, sites: Sequence[Site], order: Tensor) -> None:
        for site in sites:
            if site.dim == 1:
                places = self.moved.setdefault(site.name, torch.arange(site.scores.shape[1]))
                reorder(places, 0, site.index, order)


def _move(sites: Sequence[Site], order: Tensor) -> None:
    for site in sites:
        site.move(order)


def run(objective: Objective, effort: Effort) -> None:
    """Search as ``effort`` says; ``objective`` is left in the order that was found."""
    generator = torch.Generator().manual_seed(effort.seed)
    if effort.method == "reallocate":
        search_reallocation(objective, SWEEPS)
        return
    if effort.method == "stripes" and isinstance(objective, GroupObjective) and small_enough(objective.m):
        if objective.groups * (objective.groups - 1) // 2 > effort.windows:
            search_reallocation(objective, SWEEPS)  # too many windows to look at each: start from a good order
        search_stripes(objective, effort.windows, effort.escapes, generator)
    search_swaps(objective, SWEEPS, effort.windows, generator)


def _apply(model: nn.Module, example_inputs: Any, moves: Sequence[tuple[Sequence[Place], Sequence[Tensor]]]) -> None:
    """Reorder the model's tensors, and put them back if the output is another one then."""
    wanted = _outputs(model, example_inputs)
    old: dict[Tensor, Tensor] = {}
    try:
        for places, orders in moves:
            for place in places:
                for index, order in zip(place.index, orders):
                    for tensor in (place.tensor, place.tensor.grad):
                        if tensor is not None and not torch.equal(order, torch.arange(len(order))):
                            old.setdefault(tensor, tensor.detach().clone())
                            reorder(tensor.detach(), place.dim, index, order)
        _compare(wanted, _outputs(model, example_inputs))
    except BaseException:
        for tensor, value in old.items():
            tensor.detach().copy_(value)
        raise


def _outputs(model: nn.Module, example_inputs: Any) -> list[Tensor]:
    with evaluating(model):
        return [tensor.clone() for tensor in outputs_of(call_model(model, example_inputs))]


def _compare(wanted: Sequence[Tensor], got: Sequence[Tensor]) -> None:
    """Raise :class:`PruningError` unless the outputs are the same up to what the order of sums can change."""
    for one, other in zip(wanted, got):
        if not one.is_floating_point():
            continue
        slack = torch.finfo(one.dtype).eps ** 0.5 * float(one.abs().nan_to_num(0.0, 0.0).max()) if one.numel() else 0.0
        if not torch.allclose(one, other, rtol=0.0, atol=slack, equal_nan=True):
            change = float((one - other).abs().nan_to_num(torch.inf).max())
            raise PruningError(
                f"example_inputs: expected the same output after the permutation, got a change of up to {change:.3g}; "
                f"the model does something with its channels that cannot be followed, and is as it was"
            )


def _report(
    search: _Search, dependencies: Dependencies, before: Mapping[str, float], orders: Mapping[Leaf, Sequence[Tensor]]
) -> PermutedLayers:
    layers = {}
    for name, scores in search.scores.items():
        keep = search.pattern.select(scores, search.sparsity)
        bound = float(scores.reshape(-1).double().topk(int(keep.sum())).values.sum())
        order = search.moved.get(name)
        reason = None if order is not None else _reason(dependencies, name, orders)
        layers[name] = PermutedLayer(before[name], float(scores[keep].double().sum()), bound, order, reason)
    return PermutedLayers(layers)


def _reason(dependencies: Dependencies, name: str, orders: Mapping[Leaf, object]) -> str:
    """Why the inputs of the weight called ``name`` stay."""
    if name not in dependencies.axes:
        return "is not reached from example_inputs"
    leaves = list(ends(dependencies.axes[name][1]))
    if any(leaf in orders for leaf in leaves):
        return "no order that was tried keeps more"
    fixed = [leaf.reason for leaf in leaves if leaf.reason is not None]
    return f"its inputs are fixed: what lines up with them {fixed[0]}" if fixed else "it has one input"
