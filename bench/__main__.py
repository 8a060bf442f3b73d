"""The command line: `python -m bench`.

Of array libraries this imports only NumPy, whose loops have one thread: the others count the
processors when they are imported, which is after `machine.use` has settled their number.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from . import cpu, machine
from .harness import Tick
from .results import Report, load


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
    on_cpu.add_argument("--rounds", type=int, metavar="N", help="default 5, with --quick 3")
    on_cpu.add_argument("--quick", action="store_true", help="a minute's run, without the largest")
    on_cpu.add_argument(
        "--only", nargs="+", choices=cpu.PARTS, metavar="WORKLOAD", help=", ".join(cpu.PARTS)
    )
    on_cpu.add_argument("--json", type=_new_file, metavar="FILE", help="all values, as JSON")
    on_cpu.add_argument("--plot", type=_new_picture, metavar="FILE.png", help="a picture")

    on_gpu = commands.add_parser("gpu", help="the same on a CUDA device (not built yet)")
    on_gpu.set_defaults(command=_gpu)

    show = commands.add_parser("show", help="print a saved result again")
    show.set_defaults(command=lambda options: _present(load(options.result), None, options.plot))
    show.add_argument("result", type=Path, metavar="FILE.json")
    show.add_argument("--plot", type=_new_picture, metavar="FILE.png", help="a picture")
    return parser


def _cpu(options: argparse.Namespace) -> int:
    parts = options.only or [p for p in cpu.PARTS if not (options.quick and p in cpu.LARGEST)]
    rounds = options.rounds or (3 if options.quick else 5)
    machine.use(options.threads)
    with _progress(cpu.ticks(parts, rounds)) as tick:
        report = cpu.run(
            parts,
            threads=options.threads,
            rounds=rounds,
            turn=0.05 if options.quick else 0.2,
            tick=tick,
        )
    return _present(report, options.json, options.plot)


def _gpu(options: argparse.Namespace) -> int:
    print("The GPU benchmark is not built yet.", file=sys.stderr)
    return 2


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
def _progress(total: int) -> Iterator[Tick]:
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

        def tick(description: str) -> None:
            if interrupts:
                raise KeyboardInterrupt
            progress.update(task, description=description, advance=1)

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
