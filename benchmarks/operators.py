"""Compare the cost of the attention operators with that of their alternatives, and what their speed costs in quality.

    python -m benchmarks.operators [--only latent,merging] [--quick]

Each line is a ratio of alternating runs on this machine: time (other / ours, above 1 we are faster) and peak memory
(ours / other, below 1 we need less). The cases are in `benchmarks/cases`, one file per operator.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil

import torch

from benchmarks import cases


def main() -> None:
    names = sorted(m.name for m in pkgutil.iter_modules(cases.__path__) if m.name != "meter")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--only", default=",".join(names), help=f"some of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="short lengths, to see that it runs")
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {device}\n")
    print("| case | size | time, other/ours | memory, ours/other | quality | wanted |\n|---|---|---|---|---|---|")
    for name in args.only.split(","):
        for row in importlib.import_module(f"benchmarks.cases.{name}").rows(quick=args.quick):
            figures = f"{row.speed:.2f} | {row.memory:.2f}"
            print(f"| {row.case} | {row.size} | {figures} | {row.quality} | {row.target} |", flush=True)


if __name__ == "__main__":
    main()
