"""Run the benchmarks that are named, or all: ``run.py [--rounds N] [NAME …]``."""

from __future__ import annotations

import argparse
import compileall
from importlib import import_module

NAMES = (
    "imports",
    "warm_load",
    "loading",
    "hashing",
    "sharding",
    "fetching",
    "warming",
    "dedup",
    "server",
    "xet",
    "zoo",
)
LARGE = ("large_shards",)  # only if they are named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES + LARGE))
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    if unknown := set(options.names) - {*NAMES, *LARGE}:
        parser.error(f"no benchmark is called {sorted(unknown)[0]!r}: {', '.join(NAMES + LARGE)}")
    # Peers come compiled to bytecode; so does an installed hubstate, but not one in a checkout.
    compileall.compile_dir("hubstate", quiet=1)
    for name in options.names or NAMES:
        import_module(name).main(options.rounds)


if __name__ == "__main__":
    main()
