"""`tilth import-hf` and `tilth export-hf` as typed: a run of a project out and in, with the tokenizer that both sides read alike."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

import tilth
from tilth.cli.main import main
from tilth.deploy.server.prompts import PromptReader
from tilth.deploy.server.serve import end_of_text
from tilth.inference.generate import generate
from tilth.models.decoder import Decoder
from tilth.models.weights import save_model
from tilth.pipeline.foreign_models import import_model
from tilth.tokenize.bpe import Tokenizer, train_bpe

pytestmark = pytest.mark.usefixtures("one_thread", "fixed_seed")
TEXTS = ["def f(x):\n    return x ** 2\n", "Ünïcode naïve — 漢字\t\ttabs  and   spaces \n", "the quick brown fox " * 20]


class Done(NamedTuple):
    code: int
    out: str
    err: str


Verb = Callable[..., Done]


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Verb:
    """Run a verb in this process (torch takes seconds to import), in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gc, "freeze", lambda: None)

    def run(*words: str) -> Done:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main(list(words))
        said = capsys.readouterr()
        return Done(int(exit.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="module")
def tokenizer_json() -> bytes:
    return train_bpe(TEXTS, 300, special_tokens=["<|fim_prefix|>"])


@pytest.fixture
def saved(tmp_path: Path, make_model: Callable[..., Decoder], tokenizer_json: bytes) -> Path:
    model = make_model("MA", vocab_size=300)
    save_model(tmp_path / "ours", model, tokenizer_json)
    return tmp_path / "ours"


def test_out_and_in(saved: Path, verb: Verb) -> None:
    folder = saved.parent
    out = verb("export-hf", "ours", "hf", "--context", "512")
    assert out.code == 0, out.err
    assert "HF Bamba" in out.out
    config = json.loads((folder / "hf" / "config.json").read_text())
    assert (config["eos_token_id"], config["bos_token_id"], config["max_position_embeddings"]) == (0, 0, 512)
    assert json.loads((folder / "hf" / "generation_config.json").read_text()) == {
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": True,
    }
    back = verb("import-hf", "hf", "back", "--json")
    assert back.code == 0, back.err
    facts = json.loads(back.out)
    assert (facts["read as"], facts["layers"], facts["dtype"]) == ("HF Bamba", "MA", "float32")
    first, second = (load_file(folder / name / "model.safetensors") for name in ("ours", "back"))
    assert first.keys() == second.keys()
    real = slice(0, 300)  # the rows that pad the vocabulary are zeros afterwards
    assert all(torch.equal(first[name][real], second[name][real]) for name in first)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (folder / "back" / name).read_bytes() == (folder / "hf" / name).read_bytes()
    # and a second time out: what HF's side knew is still there
    assert verb("export-hf", "back", "again").code == 0
    assert json.loads((folder / "again" / "config.json").read_text()) == config


def test_a_prompt_begins_as_before_when_a_model_comes_back(saved: Path, verb: Verb, tokenizer_json: bytes) -> None:
    assert verb("export-hf", "ours", "hf").code == 0
    assert verb("import-hf", "hf", "back").code == 0
    ours, back = (
        PromptReader(Tokenizer.open(folder, end_of_text(folder)), folder, 300, 512) for folder in (saved, saved.parent / "back")
    )
    for text in TEXTS:
        ids = asyncio.run(ours.encode(text))
        assert ids[0] == ours.tokenizer.separator_id
        assert asyncio.run(back.encode(text)) == ids
    assert back.end_ids == ours.end_ids


@pytest.mark.filterwarnings("ignore")
def test_their_tokenizer_and_model_read_it_alike(saved: Path, verb: Verb, tokenizer_json: bytes) -> None:
    transformers = pytest.importorskip("transformers")
    assert verb("export-hf", "ours", "hf").code == 0
    theirs = transformers.AutoTokenizer.from_pretrained(saved.parent / "hf")
    ours = Tokenizer(tokenizer_json)
    for text in TEXTS:
        # as texts began in training
        assert theirs(text)["input_ids"] == [ours.separator_id, *ours.encode(text).tolist()]
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text).tolist()
        assert theirs.decode(theirs(text)["input_ids"], skip_special_tokens=True) == text
    assert (theirs.eos_token, theirs.eos_token_id, theirs.model_max_length) == ("<|endoftext|>", 0, 2048)
    model = transformers.AutoModelForCausalLM.from_pretrained(saved.parent / "hf")
    prompt = theirs("def f(x)", return_tensors="pt")
    written = model.generate(**prompt, max_new_tokens=8, do_sample=False, pad_token_id=0)[
        0, prompt["input_ids"].shape[1] :
    ].tolist()
    expected = generate(tilth.load_model(saved), prompt["input_ids"][0].tolist(), 8, stop_id=0)
    assert [token for token in written if token != 0] == expected


def test_a_checkpoint_of_theirs_keeps_its_special_tokens(saved: Path, verb: Verb) -> None:
    folder = saved.parent
    assert verb("export-hf", "ours", "hf").code == 0
    config = json.loads((folder / "hf" / "config.json").read_text())
    config |= {"bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": 10, "max_position_embeddings": 131_072}
    (folder / "hf" / "config.json").write_text(json.dumps(config))
    (folder / "hf" / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "hf" / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "eos_token_id": [8, 9]}))
    import_model(folder / "hf", folder / "in")
    assert verb("export-hf", "in", "out").code == 0
    again = json.loads((folder / "out" / "config.json").read_text())
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings")
    assert {name: again[name] for name in names} == {name: config[name] for name in names}
    assert (folder / "out" / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((folder / "out" / "generation_config.json").read_text())["temperature"] == 0.6


def test_what_cannot_be_is_said_in_three_lines(saved: Path, verb: Verb, make_model: Callable[..., Decoder]) -> None:
    save_model(saved.parent / "ladder", make_model("AA", residual="ladder"))
    refused = verb("export-hf", "ladder", "hf")
    assert refused.code == 2
    assert refused.err.startswith("error: no class of HF can express this model: the residual is 'ladder'")
    (saved.parent / "empty").mkdir()
    for words in (
        ("import-hf", "nowhere", "out"),
        ("import-hf", "empty", "out"),
        ("export-hf", "empty", "out"),
        ("export-hf", "no-such-run", "out"),
    ):
        failed = verb(*words)
        assert failed.code == 2
        assert "fix:" in failed.err
        assert "Traceback" not in failed.err
