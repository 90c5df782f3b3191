"""What ``import hubstate`` and ``hubstate --help`` cost as whole processes."""

from __future__ import annotations

import subprocess
import sys
import time

from harness import Row, Target, medians, report

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import hubstate": [sys.executable, "-c", "import hubstate"],
    "hubstate --help": [sys.executable, "-m", "hubstate", "--help"],
    "hubstate models": [sys.executable, "-m", "hubstate", "models"],
    "import torch": [sys.executable, "-c", "import torch"],
}


def main(rounds: int) -> None:
    rows: dict[str, list[Row]] = {name: [] for name in COMMANDS}
    for index in range(rounds + 1):
        for name, command in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if index:
                rows[name].append({"seconds": time.perf_counter() - began})
    middle = medians(rows)
    targets = [
        Target(text=f"seconds of {name}", value=middle[name]["seconds"], at_most=0.25)
        for name in ("import hubstate", "hubstate --help")
    ]
    report("imports: whole processes", rows, targets)
