"""The command line: `python -m bench`.

Of array libraries this imports only NumPy, whose loops have one thread: the others count the
processors when they are imported, which is after `machine.use` has settled their number. (Numba
comes a little earlier, with the package's count of processors, and is told.)
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

from . import cpu, cuda, everything, gpu, machine, rules, scale
from .harness import MissingError, Tick
from .results import Report, load

T = TypeVar("T")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        status: int = options.command(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Adam against its peers.")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(title="commands")

    on_cpu = commands.add_parser("cpu", help="measure every Adam on the CPU, in turns")
    on_cpu.set_defaults(command=_cpu)
    on_cpu.add_argument(
        "--threads", type=int, metavar="N", help="default: all that this process may use"
    )
    on_gpu = commands.add_parser("gpu", help="the same on a CUDA device")
    on_gpu.set_defaults(command=_gpu)
    on_gpu.add_argument(
        "--everything", type=Path, metavar="OUT", help="all that a GPU is needed for, into a folder"
    )
    on_gpu.add_argument(
        "--seconds", type=float, default=everything.SECONDS, help="for everything; default 560"
    )
    for measuring, parts in ((on_cpu, cpu.PARTS), (on_gpu, gpu.PARTS)):
        measuring.add_argument("--rounds", type=int, metavar="N", help="default 5, with --quick 3")
        measuring.add_argument("--quick", action="store_true", help="short, without the largest")
        measuring.add_argument(
            "--only", nargs="+", choices=parts, metavar="WORKLOAD", help=", ".join(parts)
        )
        measuring.add_argument("--json", type=_new_file, metavar="FILE", help="all values, as JSON")

    sweeping = commands.add_parser(
        "rules", help="every rule over learning rates; the table of docs"
    )
    sweeping.set_defaults(command=_rules)
    sweeping.add_argument("--only", nargs="+", choices=rules.NAMES, metavar="RULE")
    sweeping.add_argument("--json", type=_new_file, metavar="FILE", help="all values, as JSON")

    scaling = commands.add_parser("scale", help="steps of many processes, and bytes they send")
    scaling.set_defaults(command=_scale)
    scaling.add_argument("--only", nargs="+", choices=scale.ENGINES, metavar="ENGINE")
    scaling.add_argument("--elements", type=int, default=scale.ELEMENTS, metavar="N")
    scaling.add_argument("--processes", type=int, nargs="+", default=scale.PROCESSES, metavar="N")
    scaling.add_argument("--no-paper", action="store_true", help="without what is only planned")
    scaling.add_argument("--json", type=_new_file, metavar="FILE", help="all values, as JSON")

    show = commands.add_parser("show", help="print a saved result again")
    show.set_defaults(command=_show, json=None)
    show.add_argument("result", type=Path, metavar="FILE.json")
    show.add_argument("--table", action="store_true", help="the table of docs/speed.md alone")
    for showing in (on_cpu, on_gpu, sweeping, show):
        showing.add_argument("--plot", type=_new_picture, metavar="FILE.png", help="a picture")
    return parser


def _cpu(options: argparse.Namespace) -> int:
    threads = machine.use(options.threads)
    return _measure(options, cpu.PARTS, cpu.LARGEST, cpu.run, threads=threads)


def _gpu(options: argparse.Namespace) -> int:
    # Before JAX is imported: it would take three quarters of the device's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        device = cuda.Cuda()
    except MissingError as error:
        print(f"The GPU benchmark needs a CUDA device and CuPy: {error}.", file=sys.stderr)
        return 2
    if options.everything is not None:
        return everything.run(device.describe(), options.everything, seconds=options.seconds)
    return _measure(options, gpu.PARTS, gpu.LARGEST, gpu.run, device=device)


def _rules(options: argparse.Namespace) -> int:
    pairs = [(problem, name) for problem in rules.PROBLEMS for name in options.only or rules.NAMES]
    with _progress(pairs) as (turns, tick):
        swept = rules.sweep(turns, tick)
    if options.json is not None:
        rules.save(swept, options.json)
    if options.plot is not None:
        rules.draw(swept, options.plot)
    print(rules.table(swept))
    return 0


def _scale(options: argparse.Namespace) -> int:
    engines = options.only or scale.ENGINES
    with _progress(engines) as (turns, tick):
        rows = scale.run(turns, options.elements, options.processes, tick)
        planned = {} if options.no_paper else scale.paper(tick)
    result = {
        "date": machine.now(),
        "machine": machine.describe(1),
        "versions": machine.versions(),
        "rows": rows,
        "paper": planned,
    }
    if options.json is not None:
        scale.save(result, options.json)
    print(scale.table(result))
    return 0


def _measure(
    options: argparse.Namespace,
    parts: Sequence[str],
    largest: Sequence[str],
    run: Callable[..., Report],
    **on: Any,
) -> int:
    chosen = options.only or [p for p in parts if not (options.quick and p in largest)]
    rounds, turn = options.rounds or (3 if options.quick else 5), 0.05 if options.quick else 0.2
    with _progress(chosen) as (some, tick):
        report = run(parts=some, rounds=rounds, turn=turn, tick=tick, **on)
    return _present(report, options)


def _show(options: argparse.Namespace) -> int:
    return _present(load(options.result), options)


def _present(report: Report, options: argparse.Namespace) -> int:
    """Save first, so that no trouble in showing a result can lose it."""
    if options.json is not None:
        report.save(options.json)
    if options.plot is not None:
        from .picture import draw

        draw(report, options.plot)
    from rich.console import Console

    from .report import show, table

    if getattr(options, "table", False):
        print(table(report))
    else:
        show(report, Console())
    return 0


@contextmanager
def _progress(parts: Sequence[T]) -> Iterator[tuple[Iterable[T], Tick]]:
    """A bar on standard error, so that standard output holds the tables alone: it grows with each
    of the parts, and `tick` says what is being done.

    Ctrl-C ends the run at once, or at the next tick: where it meets a callback of a library's, such
    as JAX's in the garbage collector, the exception is lost.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn()
    text = TextColumn("{task.description}")
    with Progress(*columns, text, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(parts))
        interrupts: list[int] = []

        def interrupt(number: int, frame: object) -> None:
            interrupts.append(number)
            raise KeyboardInterrupt

        def tick(description: str) -> None:
            if interrupts:
                raise KeyboardInterrupt
            progress.update(task, description=description)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield progress.track(parts, task_id=task), tick
        finally:
            signal.signal(signal.SIGINT, before)


def _new_file(text: str) -> Path:
    """A path that can be written: better refused now than after the run."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {path.parent}")
    return path


def _new_picture(text: str) -> Path:
    if find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError("a picture needs matplotlib, which is not installed")
    return _new_file(text)


if __name__ == "__main__":
    sys.exit(main())
