"""The commands, their options, and how a mistake is told."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console

from sparsekit.cli.info import gather, tables
from sparsekit.cli.methods import gather_methods, markdown, method_tables
from sparsekit.cli.source import load_source
from sparsekit.cli.words import ALLOCATION_NAMES, METHODS, PATTERN_HELP, OutputFile, PartName, PatternName
from sparsekit.errors import SparsekitError

BAD_INPUT = 2
PICTURES = (".png", ".svg", ".pdf")
as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
threads = click.option("--threads", type=click.IntRange(1), help="Threads to use [default: torch's own number].")
MODEL_HELP = """MODEL is 'minilm', a folder that transformers can load, or package.module:function, where the function
returns (model, example_inputs)."""
METHOD_HELP = "How weights are chosen; see `sparsekit methods`."
METHODS_HELP = "`sparsekit methods` lists all methods and allocations; names may be written in any case."


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="sparsekit")
def app() -> None:
    """Prune PyTorch models and make the zeros pay in time."""


@app.command()
@click.option("--model", type=click.Choice(["minilm", "cnn"]), default="minilm", help="What is pruned.")
@click.option("--quick", is_flag=True, help="Less data, fewer steps and recipes: about a minute.")
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out"), help="Folder to write to."
)
@threads
@as_json
def demo(model: str, quick: bool, out: Path, threads: int | None, as_json: bool) -> None:
    """Prune a trained model by several recipes; compare what is left of it, its speed and its size.

    minilm is a pretrained sentence encoder; cnn is a small network trained on digits, with large ones beside it that
    are only timed.
    """
    use_threads(threads)
    console = Console(stderr=as_json)
    report = _demo_cnn(quick, out, console) if model == "cnn" else _demo_minilm(quick, out, console)
    if as_json:
        print_json(report.as_json())


def _demo_minilm(quick: bool, out: Path, console: Console) -> Any:
    from sparsekit.demo.minilm.recipes import FULL, QUICK
    from sparsekit.demo.minilm.run import run_demo

    return run_demo(QUICK if quick else FULL, out, console)


def _demo_cnn(quick: bool, out: Path, console: Console) -> Any:
    from sparsekit.demo.cnn.recipes import FULL, QUICK
    from sparsekit.demo.cnn.run import run_cnn

    return run_cnn(QUICK if quick else FULL, out, console)


@app.command()
@threads
@as_json
def info(threads: int | None, as_json: bool) -> None:
    """Show what this machine offers, and what each kernel refuses and why."""
    use_threads(threads)
    found = gather()
    if as_json:
        print_json(found)
    else:
        for table in tables(found):
            Console().print(table)


@app.command()
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the page docs/methods.md.")
@as_json
def methods(as_markdown: bool, as_json: bool) -> None:
    """List every method, allocation and pattern: what it does, what it needs, and its paper."""
    if as_json:
        print_json(gather_methods())
    elif as_markdown:
        click.echo(markdown(), nl=False)
    else:
        for table in method_tables():
            Console().print(table)


@app.command(epilog="\n\n".join([MODEL_HELP, METHODS_HELP, PATTERN_HELP]))
@click.argument("model")
@click.option(
    "--method",
    "--criterion",
    type=PartName("method", METHODS),
    default="magnitude",
    help="How weights are chosen; see `sparsekit methods`.",
)
@click.option("--pattern", type=PatternName(), default="unstructured", help="What stays or goes together; see below.")
@click.option("--sparsity", type=float, help="Fraction of zeros, in [0, 1); 2:4 and its like fix it.")
@click.option(
    "--allocation", type=PartName("allocation", ALLOCATION_NAMES), default="uniform", help="How layers share the zeros."
)
@click.option("--texts", type=click.IntRange(1), default=256, help="Calibration texts, for text models.")
@click.option("--output", type=OutputFile(), help="Write the weights here, as safetensors.")
@as_json
def prune(model: str, method: Any, pattern: Any, output: Path | None, as_json: bool, **options: Any) -> None:
    """Prune MODEL once and print a summary per layer."""
    from safetensors.torch import save_model

    from sparsekit.cli.summary import summarise, summary_table
    from sparsekit.pruning import SampledOutput
    from sparsekit.pruning import prune as prune_model
    from sparsekit.pruning.prune import reads_batches

    source, allocation = load_source(model), options["allocation"]
    masks = prune_model(
        source.model,
        method,
        pattern=pattern,
        sparsity=options["sparsity"],
        allocation=allocation,
        batches=source.batches(options["texts"]) if reads_batches(method) or allocation.needs_batches else None,
        loss_fn=SampledOutput(),
        progress=not as_json,
    )
    if output:
        save_model(source.model, str(output))
    rows = summarise(masks)
    if as_json:
        print_json({"layers": rows, "output": str(output) if output else None})
        return
    Console().print(summary_table(rows))
    Console().print(f"Saved {output}." if output else "Nothing saved: give --output to keep the weights.")


@app.command(epilog=MODEL_HELP)
@click.argument("model")
@click.option("--weights", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="What `prune` has saved.")
@click.option("--output", type=OutputFile(), help="Write the compiled model here.")
@click.option("--quantize", type=click.Choice(["int8"]), help="Let linear layers round to 8 bits where that is faster.")
@threads
@as_json
def plan(
    model: str, weights: Path | None, output: Path | None, threads: int | None, as_json: bool, quantize: Any
) -> None:
    """Measure, per layer of MODEL, whether a sparse kernel beats the best dense one."""
    from sparsekit.checkpoint import save
    from sparsekit.planning import plan as plan_model

    use_threads(threads)
    source = load_source(model, weights)
    found = plan_model(source.model, source.example, quantize=quantize, progress=not as_json)
    if as_json:
        print_json(found.as_json())
    else:
        Console().print(found)
    if output:
        save(found.apply(), output)
        Console(stderr=True).print(f"Saved {output}.")


@app.command()
@click.argument("what", type=click.Choice(("linear", "conv", "training", "model")), default="linear")
@click.option("--quick", is_flag=True, help="A few problems on one thread, and no whole network.")
@click.option("--minutes", type=click.FloatRange(min=0), help="What a run of linear may take; about 20 otherwise.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder for JSON, CSV and pictures.")
@as_json
def bench(what: str, quick: bool, minutes: float | None, output: Path | None, as_json: bool) -> None:
    """Check, then time every kernel against the fastest dense way on this machine.

    WHAT is linear: layers, and the ways of other libraries beside them; conv: convolutions and convolutional networks;
    training: forward and backward of layers; model: whole text encoders. With SPARSEKIT_ISA=avx512 or avx2 our kernels
    are those of a lesser processor, and the files are others.
    """
    from sparsekit import bench

    if minutes is not None and what != "linear":
        raise click.UsageError(f"--minutes: expected it with linear only, got {what}")
    with Console(stderr=True).status("starting") as status:
        results = bench.run(what, quick, minutes, status.update, output)
    if as_json:
        print_json(results.as_json())
    else:
        console = Console()
        console.print(f"{bench.title()}; speedup: over {bench.DENSE[what]}", highlight=False)
        for table in results.tables():
            console.print(table)
        for name, state in results.notes.peers.items():
            console.print(f"{name}: {state}", highlight=False)
    if output:
        saved = results.save(output)
        pictures = bench.draw_linear(results.as_json(), saved) if what == "linear" else []
        also = "".join(f", {picture.name}" for picture in pictures)
        Console(stderr=True).print(f"Saved {saved}.json and .csv{also}.")


@app.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--output", type=OutputFile(), help="Draw the picture here: .png, .svg or .pdf.")
@as_json
def report(run: Path, output: Path | None, as_json: bool) -> None:
    """Show what happened in a training run: RUN is what `run.history.save` has written."""
    from sparsekit.report import draw_history, history_table, last_values
    from sparsekit.training import History

    history = History.load(run)
    if output:
        if output.suffix.lower() not in PICTURES:
            raise click.BadParameter(f"expected a file {', '.join(PICTURES)}, got {str(output)!r}")
        if find_spec("matplotlib") is None:
            raise click.UsageError("--output: expected matplotlib, which draws it; pip install 'sparsekit[report]'")
        draw_history(history, output)
    steps = history.rows[-1]["step"]
    if as_json:
        told = {"method": history.method, "steps": steps, "last": last_values(history)}
        print_json({**told, "output": str(output) if output else None})
        return
    Console().print(f"{history.method}, after {steps} steps", highlight=False, markup=False)
    Console().print(history_table(history))
    Console().print(f"Saved {output}." if output else "No picture: give --output to draw one.")


def use_threads(count: int | None) -> None:
    """Let torch and the kernels, which share its pool, use ``count`` threads."""
    if count is not None:
        torch.set_num_threads(count)


def print_json(value: Any) -> None:
    """Print ``value`` and nothing else to standard output."""
    click.echo(json.dumps(value, indent=2))


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input ends with status 2 and one line on standard error."""
    try:
        code = app.main(arguments, prog_name="sparsekit", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.format_message(), err=True)
        code = BAD_INPUT
    except click.ClickException as error:
        code = complain(error.format_message())
    except (SparsekitError, OSError) as error:
        code = complain(str(error))
    except (click.Abort, KeyboardInterrupt):
        code = 130
    sys.exit(code or 0)


def complain(message: str) -> int:
    """Print ``message`` as one line on standard error and return the exit status."""
    click.echo("error: " + " ".join(message.split()), err=True)
    return BAD_INPUT
