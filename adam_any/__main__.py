"""python -m adam_any: what is installed, which engine each library gets, and Adam at work.

Exit status: 0; 1 if a result is wrong; 2 if something needed is missing; 130 if interrupted.
"""

from __future__ import annotations

import _thread
import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from threading import Timer

from .demo import places, show


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo and return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        wrong, status = show.run(options.library, options.plot), 1
    except places.UnusableError as reason:
        wrong, status = [str(reason)], 2
    except KeyboardInterrupt:
        wrong, status = ["interrupted"], 130
    for sentence in wrong:
        print(f"python -m adam_any: {sentence}", file=sys.stderr)
    return status if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m adam_any", description=show.__doc__)
    train = "the library whose arrays the classifier is trained on (default: numpy)"
    parser.add_argument("--library", choices=list(places.LIBRARIES), default="numpy", help=train)
    plot = "save a plot of the classifier's loss and accuracy"
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help=plot)
    return parser


def _interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat a Ctrl-C that Python dropped in a callback, as in the one that JAX gives to `gc`."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        Timer(0.01, _thread.interrupt_main).start()  # at once, it would be dropped again, here
    else:
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.unraisablehook = _interrupt_again
    sys.exit(main())
