"""`make bars`: every measurement at its full size, one script after the other; each appends its rows to results.csv.

python benchmarks/bars.py [NAME ...]      all of them, or those named: demo kernels_cpu kills
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NOT_BARS = {"bars", "results", "process_cost", "dedup_words", "dedup_corpus", "dedup_truth", "dedup_score", "code_peers"}


def main() -> None:
    there = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_BARS)
    names = sys.argv[1:] or there
    if unknown := [name for name in names if name not in there]:
        sys.exit(f"there is no benchmark `{unknown[0]}`; there are {', '.join(there)}")
    failed = []
    for name in names:
        print(f"\n{name}", flush=True)
        started = time.monotonic()
        code = subprocess.run([sys.executable, HERE / f"{name}.py"], check=False).returncode
        print(f"{name}: {'failed, exit code ' + str(code) if code else 'done'} after {time.monotonic() - started:.0f} s")
        failed += [name] if code else []
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
