"""Write the measured tables into README.md: ``python benchmarks/readme.py``.

The tables come from ``benchmarks/results/``: ``demo.json`` as ``sparsekit demo`` writes it, and the newest of the files
that ``sparsekit bench --output`` writes. Nothing in them is typed.
"""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"


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
    path = next(path for path in sorted(RESULTS.glob("*.json")) if path.name != "demo.json")
    report = json.loads(path.read_text())
    lines = ["| case, fp32 | zeros | threads | kernel | best dense ms | sparse ms | speedup |"]
    lines.append("|---|--:|--:|---|--:|--:|--:|")
    for row in best(report["rows"]):
        lines.append(
            f"| {row['case']} | {row['sparsity']:.0%} | {row['threads']} | {row['kernel']} "
            f"| {row['dense_seconds'] * 1e3:.2f} | {row['seconds'] * 1e3:.2f} | {row['speedup']:.2f}x |"
        )
    return "\n".join([*lines, "", f"Measured on {machine(report)}; all kernels are in `{path.relative_to(ROOT)}`."])


def best(rows: list[dict]) -> list[dict]:
    """The fastest row of each case, sparsity and number of threads, in order."""
    fastest: dict[tuple, dict] = {}
    for row in rows:
        key = (row["case"], row["sparsity"], row["threads"])
        if key not in fastest or row["seconds"] < fastest[key]["seconds"]:
            fastest[key] = row
    return list(fastest.values())


def machine(report: dict) -> str:
    found = report["machine"]
    return f"{found['cpu']}, torch {found['torch']}, commit {found['commit']}"


def written(text: str) -> str:
    """``text`` with each table between its two marks made anew."""
    for name, table in (("demo", demo_table()), ("kernels", kernel_table())):
        marks = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text, count = re.subn(marks, lambda m, t=table: f"{m[1]}{t}\n{m[2]}", text, flags=re.DOTALL)
        assert count == 1, f"expected one pair of marks {name} in {README.name}, found {count}"
    return text


if __name__ == "__main__":
    README.write_text(written(README.read_text()))
