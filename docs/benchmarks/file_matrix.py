"""How many kinds of files are read, refused with a message, or read wrongly: compression x depth x layout and more.

    python docs/benchmarks/file_matrix.py

The files are made by `tests/file_matrix.py`. The exit code is 1 if one was read wrongly.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from pathlib import Path

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from file_matrix import READ, REFUSED, UNWRITTEN, WRONG, cases, comparison


def main() -> int:
    logging.disable(logging.CRITICAL)
    counts: dict[str, Counter[str]] = {}
    for case in tqdm(cases(), disable=None, unit=" files"):
        result = comparison(case)
        if result == UNWRITTEN:
            continue
        details = [f"TIFF, {case.compression}", f"TIFF, {case.depth}"] if case.format == "TIFF" else []
        for row in (case.format, *details):
            counts.setdefault(row, Counter())[result] += 1
        if result == WRONG:
            print(f"wrong: {case.format}, {case.compression}, {case.depth}, {case.name}", file=sys.stderr)
    print("| files | kinds | read | refused | wrong |\n|---|---|---|---|---|")
    for row, found in sorted(counts.items()):
        print(f"| {row} | {found.total():,} | {found[READ]:,} | {found[REFUSED]:,} | {found[WRONG]} |")
    return int(any(found[WRONG] for found in counts.values()))


if __name__ == "__main__":
    sys.exit(main())
