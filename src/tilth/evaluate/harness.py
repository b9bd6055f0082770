"""EleutherAI's lm-evaluation-harness on a folder that `tilth export-hf` wrote, in a process of its own.

The harness, transformers and datasets read their settings from the environment while they are imported, and write much: so they
run beside this process, never in it, and what comes back is the file of results that they write.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tilth.errors import NotFoundError, SourceError, TilthError, UserError

INSTALL = 'pip install "tilth[harness]"'
# Earlier ones do not start with transformers 5.
_LEAST_VERSION = (0, 4, 13)
_SHOWN_LINES = 12


@dataclass(frozen=True)
class HarnessScores:
    """What the harness says: scores[task][metric], with `metric_stderr` beside it, and samples per task.

    A metric behind a filter is named as the harness does, "exact_match,strict-match". Its standard errors are over the items of
    a task; they say nothing of training seeds. raw is the whole file of results, with versions and settings.
    """

    scores: Mapping[str, Mapping[str, float]]
    n_samples: Mapping[str, int]
    raw: Mapping[str, Any]


def run_harness(
    folder: Path,
    tasks: Sequence[str],
    *,
    task_folder: Path | None = None,
    n_shots: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    device: str = "cpu",
    dtype: str = "float32",
    seed: int = 0,
    is_offline: bool = True,
) -> HarnessScores:
    """Score the exported model in `folder` on tasks of the harness, or on those whose YAML files lie in task_folder.

    Paths of data within those YAML files may be relative to task_folder. is_offline forbids every download; the harness' own
    tasks fetch their data unless they were fetched before. n_shots None leaves the number of examples to the task. limit takes
    only the first items, for a trial. Code from the model's folder or of a data set is never run.
    Raises UserError where lm_eval is missing or too old, SourceError where the folder holds no exported model, NotFoundError for
    a missing task_folder, TilthError with the harness' last lines where it failed.
    """
    check_installed()
    folder = Path(folder).resolve()
    if not (folder / "config.json").is_file():
        raise SourceError("this folder holds no exported model", str(folder), f"Write one: `tilth export-hf RUN {folder.name}`.")
    if task_folder is not None and not Path(task_folder).is_dir():
        raise NotFoundError("there is no folder of tasks", str(task_folder), "Correct the path.")
    if not tasks:
        raise UserError("no task is named", fix="name at least one, such as `gsm8k`; `lm_eval ls tasks` lists them")
    with tempfile.TemporaryDirectory(prefix="tilth-harness-") as out:
        words = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", ",".join(tasks), "--output_path", out]
        words += ["--model_args", f"pretrained={folder},dtype={dtype}", "--device", device, "--batch_size", str(batch_size)]
        words += ["--seed", str(seed)]
        words += ["--num_fewshot", str(n_shots)] if n_shots is not None else []
        words += ["--limit", str(limit)] if limit is not None else []
        words += ["--include_path", str(Path(task_folder).resolve())] if task_folder is not None else []
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
        if is_offline:
            environment |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        done = subprocess.run(words, cwd=task_folder, env=environment, capture_output=True, text=True, check=False)
        written = sorted(Path(out).rglob("results_*.json"))
        if done.returncode or not written:
            last = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_SHOWN_LINES:])
            fix = "Read its last lines above." + (" Without is_offline it may fetch data." if is_offline else "")
            raise TilthError(f"the evaluation harness ended with {done.returncode}:\n{last}", f"tasks {', '.join(tasks)}", fix)
        return _scores(json.loads(written[-1].read_text(encoding="utf-8")))


def check_installed() -> None:
    """Raise UserError, with the command that installs it, where lm_eval is missing or older than 0.4.13."""
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("the evaluation harness lm_eval is not installed", fix=INSTALL)
    found = version("lm_eval")
    if tuple(int(part) for part in found.split(".")[:3] if part.isdigit()) < _LEAST_VERSION:
        raise UserError(f"lm_eval {found} is too old: it does not start with transformers 5", fix=INSTALL)


def _scores(results: Mapping[str, Any]) -> HarnessScores:
    scores = {
        task: {
            name.removesuffix(",none"): float(value)
            for name, value in found.items()
            if "," in name and isinstance(value, int | float) and not isinstance(value, bool)
        }
        for task, found in results["results"].items()
    }
    n_samples = {task: int(counts["effective"]) for task, counts in results.get("n-samples", {}).items()}
    return HarnessScores(scores, n_samples, results)
