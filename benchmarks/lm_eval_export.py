"""An export of ours is scored by lm-evaluation-harness: bits per byte of held-out text, and a task of choices, without a network.

    pip install lm-eval==0.4.13 transformers==5.23.0        # in an environment of its own, with Tilth
    python benchmarks/lm_eval_export.py

A small hybrid learns the standard library's source, is exported, and read by the harness's own HFLM. The row holds the
bits per byte that the harness finds and ours on the same windows: they must agree, or the export is another model.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}

import lm_eval
import results
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import save_model
from tilth.pipeline.foreign_models import export_model
from tilth.tokenize.bpe import Tokenizer, train_bpe

CONTEXT, N_HELD_OUT_CHARS, SEPARATOR_ID = 256, 3000, 0
CHOICES = [
    {"context": "import ", "choices": ["os", "zz"]},
    {"context": "def __init__(", "choices": ["self", "banana"]},
    {"context": "for i in ", "choices": ["range(", "qqqq("]},
    {"context": "    return ", "choices": ["None", "}{}{"]},
    {"context": "if __name__ == ", "choices": ["'__main__'", "'xqxqzz'"]},
]
TASKS = {
    "held_out_bits": {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{page}}"}
    | {"metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte"}]},
    "python_choices": {"output_type": "multiple_choice", "doc_to_text": "{{context}}", "doc_to_choice": "{{choices}}"}
    | {"doc_to_target": 0, "target_delimiter": "", "metric_list": [{"metric": "acc", "aggregation": "mean"}]},
}


def learn(text: str, tokenizer: Tokenizer) -> Decoder:
    """A hybrid after 120 steps."""
    torch.manual_seed(0)
    ids = torch.from_numpy(tokenizer.encode(text).astype("int64"))
    sizes = {"d_model": 96, "layers": "MMMA", "n_heads": 4, "d_state": 16, "ssm_head_dim": 32, "d_ff": 192}
    model = Decoder(ModelConfig(vocab_size=tokenizer.vocab_size, **sizes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(120):
        rows = torch.stack([ids[start : start + 129] for start in torch.randint(0, len(ids) - 129, (8,)).tolist()])
        loss, count = model.loss(rows[:, :-1], rows[:, 1:])
        (loss / count).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@torch.no_grad()
def bits_per_byte(model: Decoder, ids: list[int], n_bytes: int) -> float:
    """Over the harness's windows of CONTEXT tokens, the separator before the first."""
    nats = 0.0
    windows = get_rolling_token_windows(ids, prefix_token=SEPARATOR_ID, max_seq_len=CONTEXT, context_len=1)
    for before, tokens in map(make_disjoint_window, windows):
        row = torch.tensor([before + tokens])
        logs = model(row[:, :-1]).log_softmax(-1)[0, -len(tokens) :]
        nats -= float(logs.gather(1, row[0, -len(tokens) :, None]).sum())
    return nats / math.log(2) / n_bytes


def score(folder: Path, export: Path, pages: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The harness's results of TASKS on rows that lie beside them."""
    for name, task in TASKS.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, pages[name])))
        files = {"test": str(folder / f"{name}.jsonl")}
        whole = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test", **task}
        (folder / f"{name}.yaml").write_text(json.dumps(whole))  # JSON is YAML
    model = HFLM(pretrained=str(export), device="cpu", batch_size=4)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = lm_eval.simple_evaluate(model, tasks=list(TASKS), task_manager=manager, bootstrap_iters=0)
    return dict(found["results"])


def main() -> None:
    text = "\n".join(path.read_text(errors="ignore") for path in sorted(Path(json.__file__).parents[1].glob("*.py"))[:60])
    data = train_bpe([text], 1024)
    tokenizer = Tokenizer(data)
    page = text[-N_HELD_OUT_CHARS:]
    model = learn(text[:-N_HELD_OUT_CHARS], tokenizer)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder / "ours", model, data)
        kind = export_model(folder / "ours", folder / "hf", CONTEXT).format
        found = score(folder, folder / "hf", {"held_out_bits": [{"page": page}], "python_choices": CHOICES})
    ours = bits_per_byte(model, tokenizer.encode(page).tolist(), len(page.encode()))
    theirs, accuracy = found["held_out_bits"]["bits_per_byte,none"], found["python_choices"]["acc,none"]
    if abs(ours - theirs) > 1e-4:
        sys.exit(f"the harness finds {theirs} bits per byte, Tilth {ours}: the export is another model")
    size = f"d96 MMMA as {kind}, {len(page.encode())} bytes held out"
    note = f"peer: lm-eval {lm_eval.__version__} on the export, difference {abs(ours - theirs):.1e}; choices {accuracy:.0%}"
    rows = [results.row("lm-evaluation-harness", size, ours, "bits per byte", theirs, note)]
    results.append(rows)


if __name__ == "__main__":
    main()
