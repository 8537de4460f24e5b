"""The main job: prune convolutional networks by several recipes, compile each, and say what it cost and brought."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from torch import nn

from sparsekit.checkpoint import save
from sparsekit.demo.cnn.chart import draw_networks
from sparsekit.demo.cnn.digits import Digits, load_digits
from sparsekit.demo.cnn.learning import Goal, learn
from sparsekit.demo.cnn.network import fresh
from sparsekit.demo.cnn.networks import images, load_network, thin_out
from sparsekit.demo.cnn.race import Race
from sparsekit.demo.cnn.recipes import Recipe, Settings
from sparsekit.demo.cnn.report import NetworkReport, NetworkReports, NetworkRow
from sparsekit.demo.progress import Tell, bars, teller
from sparsekit.planning import compile as compile_model
from sparsekit.planning.machine import describe_machine
from sparsekit.shrinking import shrink

EXAMPLE_IMAGES = 8
"""Digits that are read at a time."""


def run_cnn(settings: Settings, out: Path, console: Console) -> NetworkReports:
    """Run every recipe of ``settings``, print the tables, and write them to ``out`` with the chart and the models.

    Args:
        settings: what to try, and for how long.
        out: folder for ``cnn.json``, ``cnn.png`` and one ``cnn-*.safetensors`` file per recipe; made where missing.
        console: where the progress and the tables go.
    """
    out.mkdir(parents=True, exist_ok=True)
    machine = describe_machine()
    with bars(console) as progress:
        digits = load_digits()
        demo = Demo(settings, digits, out, teller(progress, "training, dense"))
        rows = [demo.run(recipe, teller(progress, recipe.name)) for recipe in settings.recipes]
        example = f"{EXAMPLE_IMAGES} images of {digits.images.shape[-1]} px"
        reports = [NetworkReport(tuple(rows), machine, example, "Residual network on digits")]
        for name in settings.networks:
            found = tuple(time_network(name, settings, teller(progress, name)))
            reports.append(NetworkReport(found, machine, "1 image of 224 px", name))
    results = NetworkReports(tuple(reports))
    results.save(out / "cnn.json")
    draw_networks(results, out / "cnn.png")
    for report in reports:
        console.print(report.table())
        for regret in report.regrets():
            console.print(f"{report.network}, {regret}", style="yellow")
    console.print(f"Saved {out / 'cnn.json'}, {out / 'cnn.png'} and the small compiled models beside them.")
    return results


class Demo:
    """What all recipes of the small network share: the digits, the dense network, and the race against it."""

    def __init__(self, settings: Settings, digits: Digits, out: Path, tell: Tell) -> None:
        self.settings = settings
        self.digits = digits
        self.out = out
        self.example = digits.test_images[:EXAMPLE_IMAGES]
        self.dense = fresh(settings.widths)
        start = time.monotonic()
        learn(self.dense, digits, settings.dense, None, tell)
        self.seconds = time.monotonic() - start
        self.race = Race(self.dense, self.example, settings.timing_s)

    def run(self, recipe: Recipe, tell: Tell) -> NetworkRow:
        """Prune, compile, judge, time and save by one recipe."""
        start = time.monotonic()
        model: nn.Module = copy.deepcopy(self.dense)
        if recipe.pattern is not None:
            goal = Goal(recipe.pattern, recipe.sparsity, recipe.layers(model))
            masks = learn(model, self.digits, self.settings.course, goal, lambda share: tell(0.8 * share))
            model = shrink(model, masks, self.example) if recipe.shrinks else model
        seconds = self.seconds if recipe.pattern is None else time.monotonic() - start
        fast = compile_model(model, self.example)
        tell(0.9)
        accuracy = self.digits.accuracy(fast, EXAMPLE_IMAGES)
        row = self.race.row(recipe.name, (model, fast), seconds, accuracy)
        save(fast, self.out / f"cnn-{re.sub('[^a-z0-9]+', '-', recipe.name.lower())}.safetensors")
        tell(1.0)
        return row


def time_network(name: str, settings: Settings, tell: Tell) -> Iterator[NetworkRow]:
    """Prune, compile and time the large network ``name`` by each recipe."""
    dense, example = load_network(name), images()
    race = Race(dense, example, settings.timing_s, inductor=settings.inductor)
    for number, recipe in enumerate(settings.network_recipes, start=1):
        start = time.monotonic()
        model = copy.deepcopy(dense)
        if recipe.pattern is not None:
            thin_out(model, recipe.pattern, recipe.sparsity)
        seconds = time.monotonic() - start
        yield race.row(recipe.name, (model, compile_model(model, example)), seconds)
        tell(number / len(settings.network_recipes))
