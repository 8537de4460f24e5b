"""The tables and the picture of ``training.py``, from its rows alone."""

import statistics
from pathlib import Path

TITLES = {
    "filters": "Whole filters of a trained network",
    "gradual": "Weights of a trained network",
    "growth": "Sparse from the first step on, with ERK's shares",
    "tickets": "Rounds of training and pruning, one budget over all layers",
    "N:M": "N of every M consecutive inputs",
    "recovery": "With and without the dense network as a teacher",
    "every": "Every method once, with its defaults",
}
NOTES = {
    "filters": "One-shot L1 and GReg1 remove the same filters. GReg grows its penalties for 120 steps, settles for "
    "120, and then fine-tunes for 240, as one-shot does from the start; with 480, that has as many in all. How GReg's "
    "steps are shared out, and its rate, were chosen on seed 0.",
    "gradual": "Both train for the same number of steps, 240 on digits and 600 on characters; the ramp takes a third "
    "of them, which was chosen on seed 0.",
    "growth": "From a fresh network: 480 steps on digits, 900 on characters. SNFS and DSR have two seeds.",
    "tickets": "Five rounds of training, pruned after the first four; every row trains for the same number of steps. "
    "Fine-tuning goes on at the low learning rate that the first round ended with.",
    "N:M": "SRSTE trains from a fresh network for 1800 steps; the others start from a dense one of 1200 steps, which "
    "`trained again` goes on with for 600.",
    "recovery": "240 steps each.",
    "every": "240 steps from the trained network, 90 % of single weights or 50 % of filters, whichever is the method's "
    "own pattern. Learned sparsities were asked for the same. Settings are defaults, not tuned for this task.",
}
CLAIMS = (
    *(("filters", "digits", setting, "GReg1", "one-shot L1") for setting in ("50 %", "75 %", "85 %")),
    *(("filters", "digits", setting, "GReg1", "one-shot L1, 480 steps") for setting in ("50 %", "75 %", "85 %")),
    *(("filters", "digits", setting, "GReg2", "GReg1") for setting in ("50 %", "75 %", "85 %")),
    *(("gradual", "digits", setting, "GradualPruning", "one-shot") for setting in ("90 %", "95 %", "98 %")),
    *(("gradual", "chars", setting, "GradualPruning", "one-shot") for setting in ("80 %", "90 %", "95 %")),
    *(
        ("growth", task, setting, better, worse)
        for task in ("digits", "chars")
        for setting in ("90 %", "95 %", "98 %")
        for better, worse in (("RigL", "SET"), ("SET", "static"))
    ),
    *(
        ("tickets", task, setting, better, worse)
        for task, settings in (("digits", ("90 %", "95 %", "98 %")), ("chars", ("80 %", "90 %", "95 %")))
        for setting in settings
        for better, worse in (("learning-rate rewinding", "fine-tuning"), ("ticket", "ticket, reinitialised"))
    ),
    *(("N:M", "chars", f"NM({n}, {m})", "SRSTE", "one-shot, not trained again") for n, m in ((2, 4), (1, 4), (1, 8))),
    *(("N:M", "chars", f"NM({n}, {m})", "SRSTE", "one-shot, trained again") for n, m in ((2, 4), (1, 4), (1, 8))),
    *(("recovery", "digits", setting, "with Distillation", "GradualPruning") for setting in ("90 %", "95 %", "98 %")),
)
"""What the literature says: the first is at least as good as the second."""
UNITS = {"digits": "test accuracy, %", "chars": "bits per character"}
BETTER = {"digits": 1, "chars": -1}
NAMES = {"digits": "digits", "chars": "characters"}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
PANELS = (("filters", "digits"), ("growth", "digits"), ("tickets", "digits"), ("growth", "chars"), ("tickets", "chars"))


def figures(report: dict, part: str, task: str, label: str, setting: str) -> dict[int, float]:
    """The figure of one case by seed."""
    wanted = (part, task, label, setting)
    rows = [r for r in report["rows"] if (r["part"], r["task"], r["label"], r["setting"]) == wanted and "figure" in r]
    return {row["seed"]: row["figure"] for row in rows}


def number(found: dict[int, float], task: str) -> str:
    """Mean over the seeds, and half the distance between the lowest and the highest."""
    if not found:
        return ""
    digits = 1 if task == "digits" else 3
    spread = (max(found.values()) - min(found.values())) / 2
    return f"{statistics.mean(found.values()):.{digits}f}" + (f" ± {spread:.{digits}f}" if len(found) > 1 else "")


def table(report: dict) -> str:
    """The page ``training.md``."""
    dense = {task: number(figures(report, "dense", task, "dense", ""), task) for task in UNITS}
    seeds = {row["seed"] for row in report["rows"]}
    lines = [
        "# Methods that prune while they train",
        "",
        f"Written by `benchmarks/methods/training.py` (commit {report.get('commit')}, torch {report.get('torch')}, one "
        f"thread, {len(seeds)} seeds; ± is half the range over them). Digits: {UNITS['digits']}, dense "
        f"{dense['digits']}; one test image of 360 is 0.3. Characters: {UNITS['chars']}, lower is better, dense "
        f"{dense['chars']}.",
        "",
        "![figures against sparsity](training.png)",
        "",
        "## What the papers say",
        "",
        *claim_table(report),
    ]
    for part, title in TITLES.items():
        rows = [row for row in report["rows"] if row["part"] == part]
        if rows:
            lines += ["", f"## {title}", "", NOTES[part]]
            for task in dict.fromkeys(row["task"] for row in rows):
                lines += ["", *part_table(report, part, task)]
    return "\n".join([*lines, ""])


def part_table(report: dict, part: str, task: str) -> list[str]:
    rows = [row for row in report["rows"] if (row["part"], row["task"]) == (part, task)]
    labels = list(dict.fromkeys(row["label"] for row in rows))
    if part == "every":
        lines = ["| method | removed | " + UNITS[task] + " | seconds |", "|---|---|--:|--:|"]
        for label in labels:
            own = [row for row in rows if row["label"] == label]
            setting = own[0]["setting"]
            found = number(figures(report, part, task, label, setting), task) or own[0].get("refused", "")
            times = [row["seconds"] for row in own if "seconds" in row]
            lines.append(
                f"| {label} | {setting} | {found} | {statistics.mean(times):.1f} |"
                if times
                else f"| {label} | {setting} | {found} | |"
            )
        return lines
    settings = list(dict.fromkeys(row["setting"] for row in rows))
    lines = [f"| {NAMES[task]} | " + " | ".join(settings) + " |", "|---|" + "--:|" * len(settings)]
    for label in labels:
        cells = [number(figures(report, part, task, label, setting), task) for setting in settings]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines


def claim_table(report: dict) -> list[str]:
    """Which of the known orders show, seed by seed."""
    lines = ["| task | zeros | expected | measured | mean holds | in how many seeds |", "|---|---|---|--:|---|--:|"]
    for part, task, setting, better, worse in CLAIMS:
        found = gains(report, part, task, setting, better, worse)
        if found:
            first, second = (number(figures(report, part, task, label, setting), task) for label in (better, worse))
            holds = "yes" if statistics.mean(found) >= 0 else "**no**"
            lines.append(
                f"| {NAMES[task]} | {setting} | {better} over {worse} | {first} against {second} | {holds} "
                f"| {sum(gain >= 0 for gain in found)} of {len(found)} |"
            )
    return lines


def gains(report: dict, part: str, task: str, setting: str, better: str, worse: str) -> list[float]:
    """By how much the first is better than the second, seed by seed."""
    first, second = (figures(report, part, task, label, setting) for label in (better, worse))
    return [BETTER[task] * (first[seed] - second[seed]) for seed in sorted(first.keys() & second.keys())]


def draw(report: dict, path: Path) -> None:
    """One panel per comparison; the band spans the seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(4.2 * len(PANELS), 4.4), layout="constrained")
    for axis, (part, task) in zip(axes, PANELS):
        rows = [row for row in report["rows"] if (row["part"], row["task"]) == (part, task)]
        settings = list(dict.fromkeys(row["setting"] for row in rows))
        for label, colour in zip(dict.fromkeys(row["label"] for row in rows), COLOURS):
            found = [(place, figures(report, part, task, label, s)) for place, s in enumerate(settings)]
            present = [(place, values.values()) for place, values in found if values]
            places = [place for place, _ in present]
            axis.plot(places, [statistics.mean(v) for _, v in present], color=colour, marker="o", label=label)
            axis.fill_between(
                places,
                [min(v) for _, v in present],
                [max(v) for _, v in present],
                color=colour,
                alpha=0.12,
                linewidth=0,
            )
        axis.set_xticks(range(len(settings)), settings)
        axis.set_xlabel("filters removed" if part == "filters" else "weights removed")
        axis.set_title(f"{part}, {NAMES[task]}", fontsize=11)
        axis.set_ylabel(UNITS[task])
        axis.grid(color="#EEEEEE")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    plt.close(figure)
