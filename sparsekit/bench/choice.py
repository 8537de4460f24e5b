"""Which benchmark a user has asked for."""

from __future__ import annotations

from pathlib import Path

import sparsekit.bench as parts
from sparsekit.bench.linear import MINUTES, Tell
from sparsekit.bench.results import Notes, Results, Row

QUICK_MINUTES = 0.7
DENSE = {
    "linear": "the fastest dense way of the same kind of weights, prepacked ones included",
    "conv": "the fastest dense way, prepacked ones included",
    "training": "nn.Linear",
    "model": "eager in float32, and in bfloat16 the fastest dense way in floating numbers of any library",
}
"""What there is to measure, and what it is measured against."""


def run(what: str, quick: bool, minutes: float | None, tell: Tell, output: Path | None) -> Results:
    """Measure one of :data:`DENSE`.

    Args:
        what: which.
        quick: a few problems only.
        minutes: what linear layers may take; None takes as long as it should.
        tell: is told in a few words what comes next.
        output: where a long run saves what it has so far, or None.
    """
    notes, rows = Notes(), list[Row]()
    if what == "linear":
        problems = parts.QUICK_PROBLEMS if quick else parts.PROBLEMS
        given = (QUICK_MINUTES if quick else MINUTES) if minutes is None else minutes
        rows += parts.run_linear(problems, tell, given, notes)
    elif what == "training":
        rows += parts.run_training(parts.QUICK_TRAINING_PROBLEMS if quick else parts.TRAINING_PROBLEMS, tell)
    elif what == "conv":
        rows += parts.run_conv(parts.QUICK_CONV_CASES if quick else parts.CONV_CASES, tell)
        if output:
            Results(tuple(rows)).save(output)
        rows += [] if quick else parts.run_networks(parts.NETWORK_CASES, tell)
    else:
        notes.peers.update(parts.engines_here())
        rows += parts.run_models(parts.MODEL_CASES[:1] if quick else parts.MODEL_CASES, tell)
    return Results(tuple(rows), notes)
