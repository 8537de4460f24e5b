"""Write the measured tables into README.md: ``python benchmarks/readme.py``.

The tables come from ``benchmarks/results/``: ``demo.json`` as ``sparsekit demo`` writes it; ``linear/``, ``model/``,
``training/`` and ``conv/`` as ``sparsekit bench linear --output benchmarks/results/linear`` writes them, and so on;
``methods/minilm.json`` of ``methods/minilm.py``, and ``conv/cnn.json`` as ``sparsekit demo --model cnn`` writes it.
Nothing in them is typed.
"""

import importlib.util
import json
import re
import statistics
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
SHOWN = (
    "Magnitude",
    "Wanda",
    "RIA",
    "BESA",
    "SparseGPT",
    "ALPS",
    "SparseGPT, residual targets",
    "SparseGPT, residual targets, Sensitivity",
)
"""Rows of the comparison of methods that are in the README."""


def demo_table() -> str:
    report = json.loads((RESULTS / "demo.json").read_text())
    lines = ["| recipe | sparsity | cosine | search top-1 | dense ms | sparse ms | speedup | file MB |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for row in report["rows"]:
        lines.append(
            f"| {row['recipe']} | {row['sparsity']:.0%} | {row['cosine']:.3f} | {row['retrieval']:.3f} "
            f"| {row['dense_ms']:.0f} | {row['sparse_ms']:.0f} | {row['speedup']:.2f}x | {row['megabytes']:.1f} |"
        )
    return "\n".join([*lines, "", f"Measured on {machine(report)}; {report['example']}."])


def kernel_table() -> str:
    """Single layers, and a whole model."""
    path = next(iter(sorted((RESULTS / "linear").glob("*.json"))))
    report = json.loads(path.read_text())
    where = f"every row is in `{path.with_suffix('.csv').relative_to(ROOT)}`"
    parts = [*loaded("linear_tables.py").parts(report), end_to_end(), f"Measured on {machine(report)}; {where}."]
    return "\n\n".join(filter(None, parts))


def end_to_end() -> str:
    """Whole models, from the last run of them with each limit of the instruction set."""
    reports = [json.loads(path.read_text()) for path in sorted((RESULTS / "model").glob("*.json"))]
    if not reports:
        return ""
    lines = ["| whole model | limit | threads | zeros | dense way | dense ms | ms | speedup |"]
    lines.append("|---|---|--:|--:|---|--:|--:|--:|")
    for report in reports:
        limit = report["machine"].get("isa_limit", "")
        for row in report["rows"]:
            if row["sparsity"] or row["kernel"] == "compile":
                lines.append(
                    f"| {row['case']} | {limit} | {row['threads']} | {row['sparsity']:.0%} | {row['dense_kernel']} "
                    f"| {row['dense_seconds'] * 1e3:.1f} | {row['seconds'] * 1e3:.1f} | {row['speedup']:.2f}x |"
                )
    origin = f"Models measured on {machine(reports[0])}; a limit is that of our instruction set, dense ways have none."
    return "\n".join([*lines, "", origin])


def training_table() -> str:
    path = next(iter(sorted((RESULTS / "training").glob("*.json"))))
    report = json.loads(path.read_text())
    columns = sorted({row["sparsity"] for row in report["rows"]})
    lines = ["| forward and backward, fp32 | threads | dense ms | " + " | ".join(f"{s:.0%}" for s in columns) + " |"]
    lines.append("|---|--:|--:|" + "--:|" * len(columns))
    for case, threads in dict.fromkeys((row["case"], row["threads"]) for row in report["rows"]):
        found = [row for row in report["rows"] if (row["case"], row["threads"]) == (case, threads)]
        cells = [fastest([row for row in found if row["sparsity"] == s]) for s in columns]
        name, dense = case.removeprefix("training step, "), found[0]["dense_seconds"] * 1e3
        lines.append(f"| {name} | {threads} | {dense:.1f} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"Measured on {machine(report)}."])


def conv_table() -> str:
    """One image on one thread, a line per layer and pattern, and how the other settings compare with that."""
    report = conv_results()
    best: dict = {}  # by batch and threads: by case and sparsity, the fastest kernel's row
    for row in (row for row in report["rows"] if row["kernel"] != "compile"):
        name, batch = row["case"].split(" batch ")
        found = best.setdefault((int(batch), row["threads"]), {})
        if row["speedup"] > found.get((name, row["sparsity"]), {"speedup": 0.0})["speedup"]:
            found[name, row["sparsity"]] = row
    one = best.pop((1, 1))
    columns = sorted({sparsity for _, sparsity in one})
    lines = ["| convolution, 1 image, 1 thread | best dense ms | " + " | ".join(f"{s:.0%}" for s in columns) + " |"]
    lines.append("|---|--:|" + "--:|" * len(columns))
    for name in dict.fromkeys(name for name, _ in one):
        rows = [one.get((name, sparsity)) for sparsity in columns]
        dense = next(row["dense_seconds"] for row in rows if row) * 1e3
        cells = [f"{row['speedup']:.2f}x" if row else "" for row in rows]
        lines.append(f"| {name} | {dense:.2f} | " + " | ".join(cells) + " |")
    shares = []
    for (batch, threads), rows in sorted(best.items()):
        share = statistics.geometric_mean(row["speedup"] / one[key]["speedup"] for key, row in rows.items())
        shares.append(f"{batch} image{'s' * (batch > 1)} on {threads} thread{'s' * (threads > 1)} {share:.2f}")
    lines += ["", f"Of these speedups the other settings have, on geometric average: {', '.join(shares)}."]
    return "\n".join([*lines, "", f"Measured on {machine(report)}; every row is in `benchmarks/results/conv/`."])


def networks_table() -> str:
    """Whole networks of random weights, against the fastest dense way."""
    report = conv_results()
    lines = ["| network, 90 % zeros | threads | fastest dense way | dense ms | sparse ms | speedup |"]
    lines.append("|---|--:|---|--:|--:|--:|")
    for row in report["rows"]:
        if row["kernel"] == "compile":
            name = row["case"].removesuffix(", 1 image of 224 px, compiled")
            lines.append(
                f"| {name} | {row['threads']} | {row['dense_kernel']} | {row['dense_seconds'] * 1e3:.1f} "
                f"| {row['seconds'] * 1e3:.1f} | {row['speedup']:.2f}x |"
            )
    return "\n".join([*lines, "", f"Measured on {machine(report)}."])


def conv_results() -> dict:
    """What ``sparsekit bench conv --output benchmarks/results/conv`` wrote."""
    others = ("bounds.json", "cnn.json", "peers.json")
    path = next(path for path in sorted((RESULTS / "conv").glob("*.json")) if path.name not in others)
    return json.loads(path.read_text())


def digits_table() -> str:
    """The small network that learned to read digits, as ``sparsekit demo --model cnn`` reports it."""
    reports = json.loads((RESULTS / "conv" / "cnn.json").read_text())["networks"]
    report = next(report for report in reports if report["rows"][0]["accuracy"] is not None)
    lines = ["| recipe | zeros | accuracy | dense ms | sparse ms | speedup |", "|---|--:|--:|--:|--:|--:|"]
    for row in report["rows"]:
        lines.append(
            f"| {row['recipe']} | {row['sparsity']:.0%} | {row['accuracy']:.1%} | {row['dense_ms']:.2f} "
            f"| {row['sparse_ms']:.2f} | {row['speedup']:.2f}x |"
        )
    return "\n".join([*lines, "", f"Measured on {machine(report)}; {report['example']}."])


def methods_table() -> str:
    """The rows of ``SHOWN``, and where the others are."""
    path = RESULTS / "methods" / "minilm.json"
    report = json.loads(path.read_text())
    settings = list(dict.fromkeys(row["setting"] for row in report["rows"]))
    lines = ["| method | " + " | ".join(settings) + " |", "|---|" + "--:|" * len(settings)]
    for label in SHOWN:
        found = [row for row in report["rows"] if row["label"] == label and "cosine" in row]
        cells = []
        for setting in settings:
            cosines = [row["cosine"] for row in found if row["setting"] == setting]
            cells.append(f"{statistics.mean(cosines):.3f}" if cosines else "")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    where = "[all methods](benchmarks/results/methods/minilm.md), [on digits](benchmarks/results/methods/digits.md)"
    return "\n".join([*lines, "", f"Measured with torch {report['torch']}, commit {report['commit']}; {where}."])


def distilled_table() -> str:
    path = RESULTS / "methods" / "distilled.json"
    report = json.loads(path.read_text())
    lines = ["| zeros | SparseGPT alone | after training | minutes | speedup |", "|---|--:|--:|--:|--:|"]
    for row in report["rows"]:
        minutes = (row["prune_seconds"] + row["train_seconds"]) / 60
        lines.append(
            f"| {row['label']} | {row['pruned']:.3f} at {row['start']} | {row['cosine']:.3f} | {minutes:.1f} "
            f"| {row['dense_ms'] / row['sparse_ms']:.2f}x |"
        )
    return "\n".join([*lines, "", f"Cosine to the dense embedding, held-out text. Measured on {machine(report)}."])


def orders_table() -> str:
    """Each order that is expected, over the sparsities it was looked at."""
    report = json.loads((RESULTS / "methods" / "training.json").read_text())
    lines = ["| expected | task | holds on average at |", "|---|---|---|"]
    for (better, worse, task), found in found_orders(report).items():
        cells = ", ".join(f"{setting}" if gain >= 0 else f"**not {setting}**" for setting, gain in found)
        lines.append(f"| {better} over {worse} | {task} | {cells} |")
    where = "[figures](benchmarks/results/methods/training.md)"
    return "\n".join([*lines, "", f"Measured with torch {report['torch']}, commit {report['commit']}; {where}."])


def found_orders(report: dict) -> dict[tuple[str, str, str], list[tuple[str, float]]]:
    """Mean gain of the first over the second method, over the seeds, by sparsity."""
    rows = loaded("methods/training_report.py")
    orders: dict = {}
    for part, task, setting, better, worse in rows.CLAIMS:
        gains = rows.gains(report, part, task, setting, better, worse)
        if gains:
            orders.setdefault((better, worse, rows.NAMES[task]), []).append((setting, statistics.mean(gains)))
    return orders


def loaded(name: str) -> ModuleType:
    """The script of that name beside this one."""
    path = Path(__file__).parent / name
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fastest(rows: list[dict]) -> str:
    """The best speedup among the kernels of one cell."""
    return f"{max(row['speedup'] for row in rows):.2f}x" if rows else ""


def machine(report: dict) -> str:
    found = report["machine"]
    return f"{found['cpu']}, torch {found['torch']}, commit {found['commit']}"


def written(text: str) -> str:
    """``text`` with each table between its two marks made anew."""
    tables = {
        "demo": demo_table,
        "kernels": kernel_table,
        "training": training_table,
        "conv": conv_table,
        "networks": networks_table,
        "digits": digits_table,
        "methods": methods_table,
        "distilled": distilled_table,
        "orders": orders_table,
    }
    for name, make in tables.items():
        table = make()
        marks = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(marks, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL)
        assert count == 1, f"expected one pair of marks {name} in {README.name}, found {count}"
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
