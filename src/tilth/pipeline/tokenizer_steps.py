"""The tokenizer of a corpus: trained on its texts, that of nucleotides, or one that exists already."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tilth.artifacts import Store
from tilth.errors import BuildError, RecipeError
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.recipe import Corpus, Nucleotides, PretrainedTokenizer
from tilth.pipeline.steps import Inputs, Params, even_sample


def of_run(tokenizer: Any, store: Store) -> Any:
    """A PretrainedTokenizer that names a run, and no file, with the folder of that run; any other as it is."""
    if not isinstance(tokenizer, PretrainedTokenizer) or "/" in tokenizer.path or Path(tokenizer.path).exists():
        return tokenizer
    run = store.find_named("run", tokenizer.path)
    return dataclasses.replace(tokenizer, path=str(store.artifact(run.one("train")).path)) if run else tokenizer


def tokenizer_node(corpus: Corpus, reads: Sequence[str], digest: Callable[[Path], str]) -> Node:
    """The special tokens of a training form and of the sources are the tokenizer's; without any, its key does not name them.

    Raises RecipeError for a tokenizer that cannot have them, or cannot be that of a corpus.
    """
    from tilth.tokenize.code_form import SPECIAL_TOKENS

    special = [*(SPECIAL_TOKENS if corpus.training_form else ())]
    special += [token for source in corpus.sources for token in getattr(source, "special_tokens", ())]
    if isinstance(corpus.tokenizer, Nucleotides):
        if special:
            fix = "Put texts and DNA into two corpora."
            raise RecipeError(f"a tokenizer of nucleotides has no `{special[0]}`", "Corpus(tokenizer=Nucleotides())", fix)
        return Node(NUCLEOTIDES, params={"kind": "nucleotides"})
    if isinstance(corpus.tokenizer, PretrainedTokenizer):
        return _pretrained_node(corpus.tokenizer, special, digest)
    assert corpus.tokenizer is not None
    own = dataclasses.asdict(corpus.tokenizer)
    params = {**own, "special_tokens": list(dict.fromkeys(special))} if special else own
    return Node(TOKENIZER, params=params, needs=tuple(reads))


def _pretrained_node(given: PretrainedTokenizer, special: Sequence[str], digest: Callable[[Path], str]) -> Node:
    tokenizer = given.read()
    if missing := [token for token in special if token not in tokenizer.special_ids]:
        what = f"the pretrained tokenizer has no special token `{missing[0]}`, which a source or the training form sets"
        raise RecipeError(
            what, f"PretrainedTokenizer({given.path!r})", "Leave that out, or train a tokenizer: `tokenizer=Bpe()`."
        )
    params: dict[str, Any] = {"kind": "pretrained", "separator": tokenizer.separator}
    if tokenizer.begin_id != tokenizer.separator_id:
        params["begin_id"] = tokenizer.begin_id
    params |= {"special_tokens": list(dict.fromkeys(special))} if special else {}
    found = digest(given.file)
    return Node(PRETRAINED, params=params, external={"tokenizer.json": found}, work=(given, found))


def train_tokenizer(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """Train a byte-level BPE on `max_bytes` of text, taken evenly from all shards."""
    from tilth.tokenize.bpe import train_bpe

    shares = even_sample(inputs, params["max_bytes"])
    trained = train_bpe(shares, params["vocab_size"], special_tokens=params.get("special_tokens", ()))
    (folder / "tokenizer.json").write_bytes(trained)
    return {}


def write_nucleotides(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The tokenizer of single nucleotides, which no text decides."""
    from tilth.tokenize.nucleotides import nucleotide_tokenizer

    (folder / "tokenizer.json").write_bytes(nucleotide_tokenizer())
    return {}


def copy_tokenizer(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The bytes of a tokenizer.json, and beside it what ends and begins a text where that would not be guessed.

    `work` is the PretrainedTokenizer and its digest. Raises BuildError where it is no longer what was planned.
    """
    from tilth.tokenize.text_ends import write_text_ends

    given, digest = work
    tokenizer = given.read()
    begin_id = params.get("begin_id", tokenizer.separator_id)
    if (tokenizer.digest, tokenizer.separator, tokenizer.begin_id) != (digest, params["separator"], begin_id):
        what = "the tokenizer has changed since the build was planned"
        raise BuildError(what, str(given.file), "Run the same command again.")
    (folder / "tokenizer.json").write_bytes(tokenizer.data)
    write_text_ends(folder, tokenizer)
    return {}


TOKENIZER = Step("tokenizer", 1, ("tokenizers",), train_tokenizer)
NUCLEOTIDES = Step("tokenizer", 1, ("tokenizers",), write_nucleotides)
PRETRAINED = Step("tokenizer", 1, (), copy_tokenizer)
