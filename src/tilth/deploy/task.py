"""A task to score a delta on: prompts with their answers, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import torch

from tilth.deploy.token_batches import TokenBatch
from tilth.errors import SourceError
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.shards import IGNORED

BATCH_SIZE = 8
_FIELDS = ("prompt", "answer")


def read_task(path: Path, tokenizer: Tokenizer) -> list[TokenBatch]:
    """Batches of up to 8 rows: separator, prompt and answer, of which the answer's tokens and the separator after it count.

    The prompt and the answer are tokenised apart, as a server would meet them. Raises SourceError for a missing file, or a line
    that is no object with "prompt" and "answer".
    """
    rows = list(_rows(Path(path), tokenizer))
    if not rows:
        raise SourceError("the task has no line", str(path), 'Give lines of {"prompt": ..., "answer": ...}.')
    return [_padded(rows[i : i + BATCH_SIZE], tokenizer.separator_id) for i in range(0, len(rows), BATCH_SIZE)]


def _rows(path: Path, tokenizer: Tokenizer) -> Iterable[tuple[list[int], list[int]]]:
    if not path.is_file():
        raise SourceError("there is no task file", str(path), "Correct the path.")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            prompt, answer = (tokenizer.encode(found[name]).tolist() for name in _FIELDS)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            fix = 'Write each line as {"prompt": "...", "answer": "..."}.'
            raise SourceError("a line of the task is no prompt with its answer", f"{path}:{number}", fix) from error
        if not answer:
            raise SourceError("a line of the task has an empty answer", f"{path}:{number}", "Leave it out.")
        yield [tokenizer.begin_id, *prompt], [*answer, tokenizer.separator_id]


def _padded(rows: list[tuple[list[int], list[int]]], separator_id: int) -> TokenBatch:
    width = max(len(prompt) + len(answer) for prompt, answer in rows) - 1
    ids_BT = torch.full((len(rows), width), separator_id, dtype=torch.int64)
    targets_BT = torch.full((len(rows), width), IGNORED, dtype=torch.int64)
    for number, (prompt, answer) in enumerate(rows):
        tokens = torch.tensor([*prompt, *answer])
        ids_BT[number, : len(tokens) - 1] = tokens[:-1]
        targets_BT[number, len(prompt) - 1 : len(tokens) - 1] = tokens[len(prompt) :]
    # padding follows what it pads, so a causal model never sees it
    return TokenBatch(ids_BT, targets_BT, torch.zeros(len(rows), width, dtype=torch.int32))
