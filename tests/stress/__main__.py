"""The command line: `python -m tests.stress`."""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from bench import machine

from . import __doc__ as about
from .memory import NOISE
from .run import run


def main() -> int:
    """Run, print what was found, and say by the exit status whether all was well."""
    parser = argparse.ArgumentParser(
        "python -m tests.stress", description=(about or "").split("\n")[0]
    )
    parser.add_argument("--minutes", type=float, default=10, metavar="N", help="default 10")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default 0")
    parser.add_argument("--threads", type=int, default=4, metavar="N", help="default 4")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the same as JSON")
    options = parser.parse_args()

    where = {**machine.describe(options.threads), **machine.versions()}
    faulthandler.enable()  # the stacks, should the process itself die
    for kind in (DeprecationWarning, RuntimeWarning):  # that it is dangerous is why it is tested
        warnings.filterwarnings("ignore", "(?s).*fork", kind)
    end = "\r" if sys.stderr.isatty() else "\n"
    found = run(
        options.minutes,
        options.seed,
        options.threads,
        lambda line: print(f"{line:60}", end=end, file=sys.stderr, flush=True),
    )
    if options.json is not None:
        how = {"minutes": options.minutes, "seed": options.seed}
        options.json.write_text(json.dumps(how | where | vars(found), indent=1) + "\n")
    print(_listed(where))
    print(_listed(found.done))
    print(_listed(found.attacks))
    for name, value in found.growth.items():
        print(f"{name} grew by {value:,.0f}, and {NOISE[name]:,} is noise")
    print(f"{found.strain:.0%} of what rounding may amount to, from the oracle at most")
    print(f"{len(found.problems)} problems", *found.problems, sep="\n")
    return 1 if found.problems else 0


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {x:,}" if isinstance(x, int) else f"{name} {x}" for name, x in values.items()
    )


if __name__ == "__main__":
    sys.exit(main())
