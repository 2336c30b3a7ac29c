"""Files with a mutated structure: how many are neither read nor refused within 2 s and 200 MB.

    python docs/benchmarks/fuzz_files.py [--cases 10000] [--format tiff ...]

Mutations and samples come from `tests/`. The exit code is 1 if a case failed; a seed names it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from structure_fuzz import failures
from test_raster_fuzz import jpegs, pngs, webps
from test_tiff import fuzz_samples

SAMPLES = {"tiff": fuzz_samples, "png": pngs, "jpeg": jpegs, "webp": webps}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="for each format")
    parser.add_argument("--format", choices=sorted(SAMPLES), action="append")
    options = parser.parse_args()
    failed = 0
    print("| format | cases | failed | seconds |\n|---|---|---|---|")
    for format in options.format or sorted(SAMPLES):
        start = time.perf_counter()
        found = failures(format, SAMPLES[format](), range(options.cases))
        print(f"| {format} | {options.cases:,} | {len(found)} | {time.perf_counter() - start:.0f} |", flush=True)
        for line in found:
            print(line, file=sys.stderr)
        failed += len(found)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
