"""The table and the picture of the comparison on digits, from its rows alone."""

import math
from pathlib import Path

TITLES = {
    "weights": "Single weights in one shot, trained network",
    "filters": "Whole filters in one shot, trained network",
    "initial": "Pruned before training, deep and narrow network",
}
NOTES = {
    "weights": "Each cell: test accuracy in percent, the mean over the seeds, with BatchNorm measured again / after "
    "three epochs of fine-tuning. Scores of criteria share one budget over all layers; solvers, Wanda and what says so "
    "get ERK's shares; searches find their own.",
    "filters": "Cells as above; the same share of the filters of every convolution goes, but for AMC, whose share is "
    "one of multiplications.",
    "initial": "Each cell: test accuracy in percent after training; in brackets in how many seeds a layer lost all its "
    "weights. Scores of all layers share one budget.",
}
CLAIMS = (
    *(("initial", 0.995, "SynFlow", other) for other in ("Magnitude", "SNIP", "GraSP")),
    *(
        ("weights", sparsity, method, "Magnitude, ERK")
        for sparsity in (0.9, 0.95)
        for method in ("CAP", "WoodFisher", "WoodFisher, 4 steps", "CHITA", "CHITA, 4 steps")
    ),
)
"""What the literature says: at this sparsity the first is better than the second, before any fine-tuning."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#7F7F7F")
SHOWN = {
    "weights": ("OBS", "CAP", "ALPS", "WoodFisher", "CHITA", "SparseGPT", "Magnitude, ERK", "Random, ERK"),
    "initial": ("SynFlow", "FORCE", "IterativeSNIP", "SNIP", "GraSP", "Magnitude", "Random"),
}


def values(report: dict, part: str, label: str, sparsity: float, column: str) -> dict[int, float]:
    """A figure by seed."""
    return {
        row["seed"]: row[column]
        for row in report["rows"]
        if (row["part"], row["label"], row["sparsity"]) == (part, label, sparsity) and column in row
    }


def mean(found: dict[int, float]) -> float:
    return sum(found.values()) / len(found) if found else math.nan


def table(report: dict) -> str:
    """The page ``digits.md``."""
    dense = values(report, "dense", "dense", 0.0, "after")
    lines = [
        "# Methods on handwritten digits",
        "",
        f"Written by `benchmarks/methods/digits.py` (commit {report['commit']}, torch {report['torch']}, one thread, "
        f"{len(dense)} seeds). The dense network: {100 * mean(dense):.1f} %. A seed differs by about a percent: "
        "one test image of 360 is 0.3.",
        "",
        "![accuracy against sparsity](digits.png)",
    ]
    for part, title in TITLES.items():
        rows = [row for row in report["rows"] if row["part"] == part]
        if rows:
            lines += ["", f"## {title}", "", NOTES[part], "", *part_table(report, part, rows)]
    return "\n".join([*lines, "", "## What the papers say", "", *claim_table(report), ""])


def part_table(report: dict, part: str, rows: list[dict]) -> list[str]:
    sparsities = sorted({row["sparsity"] for row in rows})
    lines = ["| method | " + " | ".join(f"{100 * s:g} %" for s in sparsities) + " | seconds to prune |"]
    lines.append("|---|" + "--:|" * (len(sparsities) + 1))
    for label in dict.fromkeys(row["label"] for row in rows):
        cells = [cell(report, part, label, sparsity) for sparsity in sparsities]
        times = [row["seconds"] for row in rows if row["label"] == label and "seconds" in row]
        spent = f"{sum(times) / len(times):.2f}" if times else ""
        lines.append(f"| {label} | " + " | ".join(cells) + f" | {spent} |")
    return lines


def cell(report: dict, part: str, label: str, sparsity: float) -> str:
    after = values(report, part, label, sparsity, "after")
    if not after:  # refused, or not asked
        return ""
    if part == "initial":
        collapsed = sum(values(report, part, label, sparsity, "collapsed").values())
        return f"{100 * mean(after):.1f}" + (f" ({collapsed:g} of {len(after)})" if collapsed else "")
    return f"{100 * mean(values(report, part, label, sparsity, 'before')):.1f} / {100 * mean(after):.1f}"


def claim_table(report: dict) -> list[str]:
    """Which of the known orders show, seed by seed."""
    lines = ["| sparsity | expected | measured | in how many seeds |", "|--:|---|--:|--:|"]
    for part, sparsity, better, worse in CLAIMS:
        column = "after" if part == "initial" else "before"
        first, second = (values(report, part, label, sparsity, column) for label in (better, worse))
        both = first.keys() & second.keys()
        if both:
            held = sum(first[seed] > second[seed] for seed in both)
            figures = f"{100 * mean(first):.1f} against {100 * mean(second):.1f}"
            where = "before training" if part == "initial" else "one shot"
            lines.append(
                f"| {100 * sparsity:g} % | {better} over {worse}, {where} | {figures} | {held} of {len(both)} |"
            )
    return lines


def draw(report: dict, path: Path) -> None:
    """Accuracy against the share that is kept; the band spans the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 5), sharey=True, layout="constrained")
    for axis, (part, column) in zip(axes, (("initial", "after"), ("weights", "before"))):
        rows = [row for row in report["rows"] if row["part"] == part]
        sparsities = sorted({row["sparsity"] for row in rows})
        labels = list(dict.fromkeys(row["label"] for row in rows))
        others = [label for label in labels if label not in SHOWN[part]]
        for label in others:
            plot(axis, report, (part, label, column), sparsities, {"color": "#D0D0D0", "linewidth": 0.8, "zorder": 1})
        for label, colour in zip(SHOWN[part], COLOURS):
            if label in labels:
                style = {"color": colour, "linewidth": 1.8, "marker": "o", "markersize": 4, "label": label}
                plot(axis, report, (part, label, column), sparsities, style, band=True)
        if others:
            axis.plot([], [], color="#D0D0D0", label=f"{len(others)} others")
        axis.set_xticks([place(s) for s in sparsities], [f"{100 * s:g}" for s in sparsities])
        axis.set_xlabel("weights removed, %")
        axis.set_title(TITLES[part] + ("" if part == "initial" else ", no fine-tuning"), fontsize=11)
        axis.grid(color="#EEEEEE")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=9, loc="lower left")
    axes[0].set_ylabel("test accuracy, %")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def place(sparsity: float) -> float:
    """Where a sparsity stands: each halving of what is kept takes the same room."""
    return -math.log2(1 - sparsity)


def plot(axis, report: dict, what: tuple[str, str, str], sparsities: list[float], style: dict, band=False) -> None:
    part, label, column = what
    found = [values(report, part, label, s, column) for s in sparsities]
    present = [(s, f) for s, f in zip(sparsities, found) if f]
    places = [place(s) for s, _ in present]
    axis.plot(places, [100 * mean(f) for _, f in present], **style)
    if band:
        low, high = ([100 * edge(f.values()) for _, f in present] for edge in (min, max))
        axis.fill_between(places, low, high, color=style["color"], alpha=0.12, linewidth=0)
