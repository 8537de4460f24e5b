"""Checks every kernel for GPUs, tunes it, and times it beside cuBLAS, cuSPARSELt, cuSPARSE and torch's own.

    python benchmarks/gpu.py --output DIR [--quick] [--minutes 8]

DIR then holds <gpu>.json and <gpu>.csv, tuned/<gpu>.json, which belongs into sparsekit/kernels/triton/tuned/, and
log.jsonl, all of which grow while it runs. The exit status is 1 where a kernel was wrong.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import click
import torch

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from sparsekit.bench.gpu.run import Run  # noqa: E402 - found through the line above


@click.command(help=__doc__.partition("\n")[0])
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the results."
)
@click.option("--quick", is_flag=True, help="The first cases only.")
@click.option("--dry-run", is_flag=True, help="Small cases, on the CPU: shows that a run goes through.")
@click.option("--minutes", type=click.FloatRange(min=0.1), default=8.0, show_default=True, help="Time for all of it.")
@click.option("--worker", type=int, hidden=True, help="Measure in this process, from the unit of this number on.")
@click.option("--began", type=float, hidden=True, help="Seconds of the clock when the run began.")
def main(output: Path, quick: bool, dry_run: bool, minutes: float, worker: int | None, began: float | None) -> None:
    if not dry_run and not torch.cuda.is_available():
        raise click.UsageError("expected a CUDA device, and torch sees none; --dry-run goes without")
    kind = "dry" if dry_run else "quick" if quick else "full"
    device = torch.device("cpu") if dry_run else torch.device("cuda", 0)
    run = Run(output, kind, minutes, device, began or time.time(), lambda text: print(text, flush=True))
    if worker is not None:
        run.measure(worker)
        return
    again = [sys.executable, __file__, *sys.argv[1:], "--began", str(run.began)]
    sys.exit(run.watch(lambda first: subprocess.Popen([*again, "--worker", str(first)])))


if __name__ == "__main__":
    main()
