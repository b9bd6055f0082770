"""`make bars`: every measurement at its full size, one script after the other; each appends its rows to results.csv.

python benchmarks/bars.py [NAME ...]      all of them, or those named: demo kernels_cpu kills

Those of code need repositories: `TILTH_BARS_REPOSITORIES=FOLDER make bars`, a folder of clones with work trees. Those of models
need transformers (peers_models.txt). Some need more (a peer's interpreter, samples) and are run by hand, as their first lines
say. What does not run is told in the end.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
NOT_BARS = {
    "bars",
    "results",
    "process_cost",
    "dedup_words",
    "dedup_corpus",
    "dedup_truth",
    "dedup_score",
    "hybrid_peer",
    "code_peers",
    "compile_gate",
    "served_model",
}
ON_A_GPU = {"gpu", "gpu_check", "gpu_bench", "gpu_tune", "train_gpu"}
OF_FILES, OF_REPOSITORIES, OF_FOLDER = {"code_secrets", "code_signals"}, {"code_trace", "git_read"}, {"code_build"}
OF_TRANSFORMERS = {"generation", "mamba2_mixer", "packing", "serving", "train_hf"}
OF_TEST_DATA = {"load"}
BY_HAND = {"documentation", "languages", "licences", "lm_eval_export", "dna_splice"}


def arguments(name: str) -> list[str] | None:
    """What to call a script with; None where it needs what is not there."""
    if name in BY_HAND or (name in OF_TRANSFORMERS and importlib.util.find_spec("transformers") is None):
        return None
    if name in OF_TEST_DATA and not os.environ.get("TILTH_TEST_DATA"):
        return None
    folder = os.environ.get("TILTH_BARS_REPOSITORIES")
    if name in OF_FILES | OF_FOLDER:
        return [folder] if folder else None
    if name in OF_REPOSITORIES:
        return [str(path) for path in sorted(Path(folder).iterdir()) if path.is_dir()] if folder else None
    return []


def main() -> None:
    there = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in NOT_BARS | ON_A_GPU)
    names = sys.argv[1:] or there
    if unknown := [name for name in names if name not in there]:
        sys.exit(f"there is no benchmark `{unknown[0]}`; there are {', '.join(there)}")
    failed, left_out = [], []
    for name in names:
        given = arguments(name)
        if given is None:
            left_out.append(name)
            continue
        print(f"\n{name}", flush=True)
        started = time.monotonic()
        code = subprocess.run([sys.executable, HERE / f"{name}.py", *given], check=False).returncode
        print(f"{name}: {'failed, exit code ' + str(code) if code else 'done'} after {time.monotonic() - started:.0f} s")
        failed += [name] if code else []
    if left_out:
        print(f"\nleft out, for want of input: {', '.join(left_out)} (benchmarks/bars.py says which)")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
