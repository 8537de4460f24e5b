"""The tables of single linear layers in README.md, from what ``sparsekit bench linear`` has saved."""

import statistics

MEMORY, BELOW = {"warm": "with repeated calls", "cold": "with weights from memory"}, "\N{BLACK DOWN-POINTING TRIANGLE}"
"""What the two ways to time a call are called, and what marks a speedup below what is promised."""
USUAL, SHOWN_ZEROS = (1024, 4096), 0.8
"""Inputs and outputs of the layer whose figures are in the README, and the zeros at which others are compared."""


def parts(report: dict) -> list[str]:
    """The usual shape on one thread, how shapes and threads compare with that, and other libraries."""
    warm, cold = (best_of_ours(report, memory) for memory in MEMORY)
    one, one_cold = warm.pop((USUAL, 1)), cold[USUAL, 1]
    columns = sorted({sparsity for rows in one.values() for sparsity in rows})
    lines = [f"| K={USUAL[0]} N={USUAL[1]}, 1 thread | dense ms | " + " | ".join(f"{s:.0%}" for s in columns) + " |"]
    lines.append("|---|--:|" + "--:|" * len(columns))
    for (pattern, weights, batch), rows in one.items():
        beside = one_cold[pattern, weights, batch]
        dense = " / ".join(f"{next(iter(found.values()))['dense_seconds'] * 1e3:.3f}" for found in (rows, beside))
        cells = [f"{judged(rows[s])} / {judged(beside[s])}" if s in rows else "" for s in columns]
        lines.append(f"| {weights} {pattern} M={batch} | {dense} | " + " | ".join(cells) + " |")
    return ["\n".join(lines), promises(report), others_than_usual(one, warm), peer_table(report, one, one_cold)]


def best_of_ours(report: dict, memory: str) -> dict:
    """By shape and threads: by pattern, weights and tokens, and sparsity, our fastest kernel's row."""
    best: dict = {}
    for row in (row for row in report["rows"] if row["sparsity"] and not row["peer"] and row["memory"] == memory):
        key = row["pattern"], row["weights"], row["sizes"][0]
        found = best.setdefault((tuple(row["sizes"][1:]), row["threads"]), {}).setdefault(key, {})
        if row["speedup"] > found.get(row["sparsity"], {"speedup": 0.0})["speedup"]:
            found[row["sparsity"]] = row
    return best


def judged(row: dict) -> str:
    """The speedup, marked where it is below what is promised."""
    return f"{row['speedup']:.2f}x{'' if kept(row) else BELOW}"


def kept(row: dict) -> bool:
    return not row["floor"] or row["speedup"] >= row["floor"]


def promises(report: dict) -> str:
    """How many are kept, over all shapes and threads."""
    found = {memory: [row for row in report["rows"] if row["floor"] and row["memory"] == memory] for memory in MEMORY}
    counts = [f"{sum(map(kept, found[memory]))} {text}" for memory, text in MEMORY.items()]
    return (
        f"In each cell first {', then '.join(MEMORY.values())}; {BELOW} is below what is promised for the first. Of "
        f"the {len(found['warm'])} promises over all shapes and threads, kept are {' and '.join(counts)}."
    )


def others_than_usual(one: dict, best: dict) -> str:
    """How the speedups of other shapes and threads compare with those of the table, on geometric average."""
    found = []
    for ((columns, rows), threads), cases in sorted(best.items()):
        ratios = [
            row["speedup"] / one[key][sparsity]["speedup"]
            for key, by_sparsity in cases.items()
            for sparsity, row in by_sparsity.items()
            if sparsity in one.get(key, {})
        ]
        name = f"K={columns} N={rows} on {threads} thread{'s' * (threads > 1)}"
        if ratios:
            found.append(f"{name} {statistics.geometric_mean(ratios):.2f}")
        else:
            speedups = [row["speedup"] for by_sparsity in cases.values() for row in by_sparsity.values()]
            found.append(f"{name}, other M, {min(speedups):.2f}x to {max(speedups):.2f}x")
    return f"Of these speedups the other settings have, on geometric average: {'; '.join(found)}."


def peer_table(report: dict, one: dict, one_cold: dict) -> str:
    """How many times faster our fastest kernel is with unstructured zeros in fp32 than what others offer."""
    ours, cold = (
        {key[2]: rows[SHOWN_ZEROS] for key, rows in found.items() if key[:2] == ("Unstructured()", "float32")}
        for found in (one, one_cold)
    )
    lines = [f"| {SHOWN_ZEROS:.0%} unstructured zeros, fp32, 1 thread: times faster than | "]
    lines[0] += " | ".join(f"M={batch}" for batch in ours) + " |"
    lines.append("|---|" + "--:|" * len(ours))
    cases = {row["case"] for row in ours.values()}
    rows = [row for row in report["rows"] if row["peer"] and row["threads"] == 1 and row["case"] in cases]
    for name in dict.fromkeys(row["kernel"] for row in rows):
        own = [row for row in rows if row["kernel"] == name and row["sparsity"] in (0.0, SHOWN_ZEROS)]
        found = {(row["sizes"][0], row["memory"]): row["seconds"] for row in own}
        cells = [
            f"{found[b, 'warm'] / ours[b]['seconds']:.2f}x / {found[b, 'cold'] / cold[b]['seconds']:.2f}x"
            if (b, "warm") in found
            else ""
            for b in ours
        ]
        reads = ", which reads the zeros" if any(row["sparsity"] for row in own) else ", dense"
        lines.append(f"| {name}{reads} | " + " | ".join(cells) + " |")
    states = report.get("peers", {})
    absent = [f"{name} ({state})" for name, state in states.items() if state.startswith("absent")]
    versions = ", ".join(dict.fromkeys(state for state in states.values() if not state.startswith("absent")))
    return "\n".join([*lines, "", f"With {versions}{'; not there: ' + ', '.join(absent) if absent else ''}."])
