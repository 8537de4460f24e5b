"""The table and the picture of ``minilm.py``."""

import statistics
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

COLOURS, MARKERS = ("#1b6ca8", "#d1793b", "#5a9367"), "osD"


def figures(report: dict, label: str, setting: str, figure: str) -> list[float]:
    """One figure of one method, over the seeds."""
    return [
        row[figure] for row in report["rows"] if row["label"] == label and row["setting"] == setting and figure in row
    ]


def labels_of(report: dict, settings: tuple[str, ...]) -> list[str]:
    """Methods with a result, best first: by their mean over what the settings with a result have in common."""
    labels = list(dict.fromkeys(row["label"] for row in report["rows"] if "cosine" in row))

    def rank(label: str) -> tuple[float, ...]:
        found = [figures(report, label, setting, "cosine") for setting in settings]
        return tuple(-statistics.mean(values) if values else 0.0 for values in found)

    return sorted(labels, key=rank)


def table(report: dict, settings: tuple[str, ...]) -> str:
    """Markdown: means over the seeds, and half the distance between the lowest and the highest cosine."""
    lines = [
        "| method | " + " | ".join(f"{setting} cosine | search top-1" for setting in settings) + " | seeds |",
        "|---|" + "--:|--:|" * len(settings) + "--:|",
    ]
    for label in labels_of(report, settings):
        cells = []
        for setting in settings:
            cosines, found = (figures(report, label, setting, figure) for figure in ("cosine", "retrieval"))
            spread = f" ± {(max(cosines) - min(cosines)) / 2:.3f}" if len(cosines) > 1 else ""
            cells += (
                [f"{statistics.mean(cosines):.3f}{spread}", f"{statistics.mean(found):.3f}"] if cosines else ["", ""]
            )
        seeds = {row["seed"] for row in report["rows"] if row["label"] == label}
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {len(seeds)} |")
    return "\n".join(lines) + "\n"


def draw(report: dict, settings: tuple[str, ...], path: Path) -> None:
    """A dot per method and setting, best at the top."""
    labels = labels_of(report, settings)[::-1]
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(labels) + 1.2), layout="constrained")
    for setting, colour, marker in zip(settings, COLOURS, MARKERS):
        found = [(figures(report, label, setting, "cosine"), place) for place, label in enumerate(labels)]
        points = [(statistics.mean(values), place) for values, place in found if values]
        if points:
            axes.scatter(*zip(*points), color=colour, marker=marker, s=28, label=setting)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("mean cosine to the dense embedding, held-out text")
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="zeros", loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
