"""The command line: `python -m bench`.

Of array libraries this imports only NumPy, whose loops have one thread: the others count the
processors when they are imported, which is after `machine.use` has settled their number.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from . import cpu, cuda, gpu, machine
from .harness import MissingError
from .results import Report, load


class Advance(Protocol):
    """Says what is being done, and by how much the bar grows."""

    def __call__(self, description: str, advance: float = 1) -> None:
        """Show it."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        status: int = options.command(options)
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
        "--threads", type=int, default=machine.available(), metavar="N", help="default %(default)s"
    )
    on_gpu = commands.add_parser("gpu", help="the same on a CUDA device")
    on_gpu.set_defaults(command=_gpu)
    for measuring, parts in ((on_cpu, cpu.PARTS), (on_gpu, gpu.PARTS)):
        measuring.add_argument("--rounds", type=int, metavar="N", help="default 5, with --quick 3")
        measuring.add_argument("--quick", action="store_true", help="short, without the largest")
        measuring.add_argument(
            "--only", nargs="+", choices=parts, metavar="WORKLOAD", help=", ".join(parts)
        )
        measuring.add_argument("--json", type=_new_file, metavar="FILE", help="all values, as JSON")
        measuring.add_argument("--plot", type=_new_picture, metavar="FILE.png", help="a picture")

    show = commands.add_parser("show", help="print a saved result again")
    show.set_defaults(command=_show)
    show.add_argument("result", type=Path, metavar="FILE.json")
    show.add_argument("--plot", type=_new_picture, metavar="FILE.png", help="a picture")
    show.add_argument("--readme", action="store_true", help="the table of the README alone")
    return parser


def _cpu(options: argparse.Namespace) -> int:
    parts, rounds, turn = _extent(options, cpu.PARTS, cpu.LARGEST)
    machine.use(options.threads)
    with _progress(cpu.ticks(parts, rounds)) as tick:
        report = cpu.run(parts, threads=options.threads, rounds=rounds, turn=turn, tick=tick)
    return _present(report, options.json, options.plot)


def _extent(
    options: argparse.Namespace, parts: Sequence[str], largest: Sequence[str]
) -> tuple[list[str], int, float]:
    """The parts of a run, its rounds, and the seconds of a turn."""
    chosen = options.only or [p for p in parts if not (options.quick and p in largest)]
    return chosen, options.rounds or (3 if options.quick else 5), 0.05 if options.quick else 0.2


def _gpu(options: argparse.Namespace) -> int:
    # Before JAX is imported: it would take three quarters of the device's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        device = cuda.Cuda()
    except MissingError as error:
        print(f"The GPU benchmark needs a CUDA device and CuPy: {error}.", file=sys.stderr)
        return 2
    parts, rounds, turn = _extent(options, gpu.PARTS, gpu.LARGEST)
    with _progress(gpu.ticks(device, parts, rounds)) as tick:
        report = gpu.run(device, parts, rounds=rounds, turn=turn, tick=tick)
    return _present(report, options.json, options.plot)


def _show(options: argparse.Namespace) -> int:
    report = load(options.result)
    if not options.readme:
        return _present(report, None, options.plot)
    from .readme import table

    print(table(report))
    return 0


def _present(report: Report, json: Path | None, plot: Path | None) -> int:
    """Save first, so that no trouble in showing a result can lose it."""
    if json is not None:
        report.save(json)
    if plot is not None:
        from .picture import draw

        draw(report, plot)
    from rich.console import Console

    from .report import show

    show(report, Console())
    return 0


@contextmanager
def _progress(total: float) -> Iterator[Advance]:
    """A bar on standard error, so that standard output holds the tables alone.

    Ctrl-C ends the run at once, or at the next tick: where it meets a callback of a library's, such
    as JAX's in the garbage collector, the exception is lost.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TimeElapsedColumn()
    text = TextColumn("{task.description}")
    with Progress(*columns, text, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        interrupts: list[int] = []

        def interrupt(number: int, frame: object) -> None:
            interrupts.append(number)
            raise KeyboardInterrupt

        def tick(description: str, advance: float = 1) -> None:
            if interrupts:
                raise KeyboardInterrupt
            progress.update(task, description=description, advance=advance)

        before = signal.signal(signal.SIGINT, interrupt)
        try:
            yield tick
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
