"""The whole way of DNA: FASTA, intervals and labelled tables become a corpus, held-out chromosomes, tokens, a run, and a trace."""

from __future__ import annotations

import gzip
import json
import random
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tilth.corpus.records import fingerprint
from tilth.corpus.sources.fasta import Fasta
from tilth.errors import RecipeError
from tilth.pipeline.curate import pick, sql
from tilth.pipeline.launch import train
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import CodeForm, Corpus, Nucleotides, Train
from tilth.pipeline.run_sources import sources_of
from tilth.pipeline.tokenizer_steps import tokenizer_node
from tilth.pipeline.trace import TokenShard, trace
from tilth.pipeline.why import Why
from tilth.tokenize.shards import TokenSet

RECIPE = '''
"""A genome, its sites, labelled sequences."""
from pathlib import Path

from tilth import Corpus, MinHashParameters
from tilth.corpus.sources.bed import Bed
from tilth.corpus.records import fingerprint
from tilth.corpus.sources.fasta import Fasta
from tilth.corpus.sources.sequence_tables import SequenceTables
from tilth.pipeline.recipe import Nucleotides

INPUTS = Path({inputs!r})


def dna(window: int = 100) -> Corpus:
    return Corpus(
        sources=[
            Fasta(name="genome", path=str(INPUTS / "genome.fa"), window=window),
            Bed(name="sites", path=str(INPUTS / "sites.bed"), fasta=str(INPUTS / "genome.fa"), label="site"),
            SequenceTables(name="table", path=str(INPUTS / "table.csv")),
        ],
        signals=("nucleotides",),
        tokenizer=Nucleotides(),
        near_duplicates=MinHashParameters(n=21, unit="nucleotides"),
    )
'''
MODEL = {"layers": "MA", "d_model": 32, "n_heads": 2, "d_state": 16, "ssm_head_dim": 32, "chunk_size": 16}
SETTINGS = {"steps": 2, "seq_len": 32, "global_batch": 6, "lr": 0.01, "reverse_complement": 0.5, "seed": 3}
PAIRS = dict(zip("ACGTN", "TGCAN", strict=True))


def genome() -> dict[str, str]:
    rng = random.Random(8)
    found = {name: "".join(rng.choices("ACGTacgt", k=n)) for name, n in (("chr1", 1500), ("chr2", 950), ("chrX", 420))}
    found["chr1"] = found["chr1"][:700] + "N" * 120 + found["chr1"][820:]
    copied = found["chrX"][100:200]  # the second window of chrX, byte for byte, as the fourth of chr2
    found["chr2"] = found["chr2"][:300] + copied + found["chr2"][400:]
    turned = "".join(PAIRS[letter] for letter in reversed(found["chrX"][200:300].upper()))  # the third, on the other strand
    found["chr1"] = found["chr1"][:1000] + turned + found["chr1"][1100:]
    return found


@pytest.fixture(scope="module")
def dna(tmp_path_factory: pytest.TempPathFactory, tilth: Callable[..., Any]) -> Path:
    """A project with the corpus `dna`, built."""
    folder = tmp_path_factory.mktemp("dna")
    lines = []
    for name, text in genome().items():
        lines += [f">{name} made up", *(text[at : at + 60] for at in range(0, len(text), 60))]
    (folder / "genome.fa").write_text("\n".join(lines) + "\n")
    (folder / "sites.bed").write_text("chr1\t10\t60\ta\t0\t-\nchr2\t0\t40\tb\t0\t+\nchrX\t400\t430\tc\t0\t+\n")
    (folder / "table.csv").write_text("sequence,label\nACGTTGCAACGT,1\nTTGACATTNACG,0\n")
    (folder / "project" / "recipes").mkdir(parents=True)
    (folder / "project" / "recipes" / "dna.py").write_text(RECIPE.format(inputs=str(folder)))
    tilth("build", "dna", cwd=folder / "project")
    return folder / "project"


def test_the_corpus_has_places_labels_and_signals(dna: Path) -> None:
    project = Project(dna)
    found = sql(project, "select source, meta['sequence'] as s, count(*) as n from dna where source = 'genome' group by all")
    assert {row["s"]: row["n"] for row in found.to_pylist()} == {"chr1": 15, "chr2": 10, "chrX": 5}
    labels = sql(project, "select source, meta['label'] as label, text from dna where meta['label'] is not null order by text")
    assert [(row["source"], row["label"]) for row in labels.to_pylist()].count(("sites", "site")) == 2
    assert {row["label"] for row in labels.to_pylist() if row["source"] == "table"} == {"0", "1"}
    (rejected,) = sql(project, "select reason, location from dna.rejects").to_pylist()
    assert rejected == {"reason": "out_of_range", "location": "sites.bed:3"}
    signals = sql(project, "select max(dna_longest_n_run) as run, min(dna_masked_fraction) as least from dna").to_pylist()[0]
    assert signals["run"] == 100
    assert 0 <= signals["least"] < 0.6


def test_a_held_out_chromosome_takes_its_copies_with_it(dna: Path, tilth: Callable[..., Any]) -> None:
    done = tilth(
        "pick", "held", "source = 'genome'", "--validation-where", "meta['sequence'] = 'chrX'", cwd=dna,
    )  # fmt: skip
    assert "23 train, 7 validation" in done.stdout
    assert "2 more documents that are duplicates" in done.stdout
    meta = json.loads(
        tilth(
            "pick", "held", "source = 'genome'", "--validation-where", "meta['sequence'] = 'chrX'", "--json", cwd=dna,
        ).stdout
    )  # fmt: skip
    assert (meta["validation_where"], meta["n_moved_to_validation"]) == ("meta['sequence'] = 'chrX'", 2)
    project = Project(dna)
    named = project.store.get_named("subset", "held")
    picked = pq.read_table(
        project.store.artifact(named.one("pick")).path / "subset.parquet", columns=["row", "split"]
    ).to_pylist()
    places = sql(project, "select \"row\", meta['sequence'] as name, meta['start'] as start from dna where source = 'genome'")
    place_of = {row["row"]: (row["name"], row["start"]) for row in places.to_pylist()}
    held = sorted(place_of[row["row"]] for row in picked if row["split"] == "validation")
    assert held == [("chr1", "1000"), ("chr2", "300"), *(("chrX", str(start)) for start in (0, 100, 200, 300, 400))]


def test_tokens_are_nucleotides_and_a_run_traces_to_the_genome(dna: Path, one_thread: None) -> None:
    project, text = Project(dna), {name: text.upper() for name, text in genome().items()}
    pick(project, "run", "source = 'genome'", corpus="dna", validation_where="meta['sequence'] = 'chrX'")
    launched = train(project, "small", Train(subset="run", settings=SETTINGS, model=MODEL))
    shard = TokenShard.of_run(project, sources_of(launched.named)[0])
    tokens: TokenSet = shard.tokens
    assert tokens.vocab_size == 12
    assert tokens.n_tokens == sum(map(len, text.values())) - 420 - 200 + 23  # chrX and its copies are held out; a separator each
    turned_seen = set()
    for sequence in range(SETTINGS["global_batch"]):
        positions = [trace(project, "small", 1, sequence, position) for position in range(0, SETTINGS["seq_len"], 5)]
        assert len({one.is_turned for one in positions}) == 1
        turned_seen.add(positions[0].is_turned)
        for one in positions:
            if one.kind == "synthetic":
                assert one.token == "[SEP]"
                continue
            name, _, rest = (one.locus or "").partition(":")
            letter = text[name][int(rest.split()[0])]
            assert one.token == (PAIRS[letter] if one.is_turned else letter)
            assert f"⟦{one.token}⟧" in one.context
    assert turned_seen == {True, False}
    for sequence in range(SETTINGS["global_batch"]):
        told = Why(project, "small").step(1, sequence)
        assert sum(one.n_tokens for one in told) == SETTINGS["seq_len"]
        # Position by position what `trace` says: from the end of each document, where the sequence is turned.
        offsets = [
            (one.document["row"], offset)
            for one in told
            for offset in (reversed(range(one.start, one.end)) if one.is_turned else range(one.start, one.end))
        ]
        for position in range(0, SETTINGS["seq_len"], 3):
            traced = trace(project, "small", 1, sequence, position)
            assert (traced.document["row"], traced.offset) == offsets[position]
            assert traced.is_turned == told[0].is_turned


def test_why_says_of_turned_sequences_what_the_trace_says(dna: Path, one_thread: None) -> None:
    project = Project(dna)
    pick(project, "run", "source = 'genome'", corpus="dna", validation_where="meta['sequence'] = 'chrX'")
    # Documents of 101 tokens in sequences of 128: each sequence has pieces of several.
    settings = {**SETTINGS, "seq_len": 128, "document_losses": True, "steps": 1}
    launched = train(project, "lost", Train(subset="run", settings=settings, model=MODEL))
    losses = pq.read_table(project.store.artifact(launched.named.one("train")).path / "document_losses.parquet").to_pylist()
    seen_turned = set()
    with Why(project, "lost") as why:
        for sequence in range(settings["global_batch"]):
            reads = why.step(0, sequence)
            assert sum(read.end - read.start for read in reads) == settings["seq_len"]
            # The first token that the model met, and the last that was an input.
            first, last = (trace(project, "lost", 0, sequence, position) for position in (0, settings["seq_len"] - 1))
            seen_turned.add(first.is_turned)
            bounds = [(read.end - 1, read.start) if first.is_turned else (read.start, read.end - 1) for read in reads]
            assert (first.offset, last.offset) == (bounds[0][0], bounds[-1][1])
            assert [one.document["row"] for one in (first, last)] == [reads[at].document["row"] for at in (0, -1)]
            rows = {row["document"]: row["loss_sum"] / row["n_targets"] for row in losses if row["sequence"] == sequence}
            index = why._sources[0]._places[1].tolist()
            assert {read.loss for read in reads if read.loss is not None} == {*rows.values()}
            assert all(rows[index.index(read.document["row"])] == read.loss for read in reads if read.loss is not None)
    assert seen_turned == {True, False}


def test_a_run_that_tells_documents_apart_is_traced_as_it_reads(dna: Path, one_thread: None) -> None:
    project, text = Project(dna), {name: text.upper() for name, text in genome().items()}
    for name in ("chr1", "chr2"):
        pick(project, name, f"source = 'genome' and meta['sequence'] = '{name}'", corpus="dna", validation_share=0.0)
    recipe = Train(
        subset={"chr1": 0.5, "chr2": 0.5}, model={**MODEL, "n_classes": 2},
        settings={**SETTINGS, "objective": "classify", "seq_len": 110},
    )  # fmt: skip
    train(project, "told", recipe)
    seen_turned = set()
    for sequence in range(SETTINGS["global_batch"]):
        whole = [trace(project, "told", 0, sequence, position) for position in (0, 1, 20)]
        seen_turned.add(whole[0].is_turned)
        for position, one in zip((0, 1, 20), whole, strict=True):
            name, _, rest = (one.locus or "").partition(":")
            place = int(rest.split()[0])
            n = min(100, len(text[name]) - place + one.offset)
            assert one.offset == place % 100 == (n - 1 - position if one.is_turned else position)
            assert one.token == (PAIRS[text[name][place]] if one.is_turned else text[name][place])
    assert seen_turned == {True, False}


def test_an_interval_on_the_other_strand_traces_to_its_place(dna: Path) -> None:
    project, text = Project(dna), {name: text.upper() for name, text in genome().items()}
    from tilth.pipeline.tokenise import tokenise_subset

    pick(project, "sites", "source = 'sites'", corpus="dna", validation_share=0.0)
    tokenise_subset(project.store, project.store.get_named("subset", "sites"))
    shard = TokenShard(project, "sites/train")
    with TokenShard(project, "sites/train") as session:
        assert [session.at(offset).locus for offset in (0, 49)] == ["chr1:59 (-)", "chr1:10 (-)"]
    for offset in (0, 17, 49):
        found = shard.at(offset)
        assert found.locus == f"chr1:{59 - offset} (-)"
        assert found.token == PAIRS[text["chr1"][59 - offset]]


def test_the_tokenizer_gives_the_model_its_complement(dna: Path, one_thread: None) -> None:
    from tilth.pipeline.launch import _model_config
    from tilth.pipeline.tokenise import tokenise_subset

    project = Project(dna)
    pick(project, "all", "source = 'genome'", corpus="dna", validation_share=0.0)
    tokens = tokenise_subset(project.store, project.store.get_named("subset", "all"))
    artifact = project.store.artifact(tokens.one("tokens.train"))
    for given in ({"complement": "tokenizer"}, {"rcps": True, "bidirectional": True}):
        config = _model_config(Train(subset="all", settings={}, model={**MODEL, **given}), None, artifact)
        assert config.vocab_size == 12
        assert config.complement == (0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11)
    assert _model_config(Train(subset="all", settings={}, model=MODEL), None, artifact).complement is None


def test_text_has_no_other_strand(built: Path, tmp_path: Path) -> None:
    project = Project(Path(shutil.copytree(built, tmp_path / "copy", symlinks=True)))
    pick(project, "texts", "is_keeper", corpus="small", validation_share=0.0)
    with pytest.raises(RecipeError, match="other strand"):
        train(project, "x", Train(subset="texts", settings=SETTINGS, model=MODEL))
    settings = {**SETTINGS, "reverse_complement": 0.0}
    with pytest.raises(RecipeError, match="complement"):
        train(project, "x", Train(subset="texts", settings=settings, model={**MODEL, "complement": "tokenizer"}))


def test_dna_and_markers_of_text_exclude_each_other() -> None:
    corpus = Corpus(sources=[Fasta(name="x", path="nowhere.fa")], tokenizer=Nucleotides(), training_form=CodeForm())
    with pytest.raises(RecipeError, match="nucleotides has no"):
        tokenizer_node(corpus, [], fingerprint)


@pytest.mark.data
def test_worm_and_phage(test_data: Path, tmp_path: Path, tilth: Callable[..., Any]) -> None:
    """Real sequences: what comes out of the tokens of the training split are the files' own letters, without the held-out X."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "real.py").write_text(f"""
from tilth import Corpus
from tilth.corpus.records import fingerprint
from tilth.corpus.sources.fasta import Fasta
from tilth.pipeline.recipe import Nucleotides


def real() -> Corpus:
    data = {str(test_data)!r}
    return Corpus(
        sources=[
            Fasta(name="worm", path=data + "/htslib_tests/test/ce.fa", window=10_000, assembly="WBcel"),
            Fasta(name="phage", path=data + "/lambda_phage/example/reference/lambda_virus.fa", window=10_000),
        ],
        signals=("nucleotides",),
        tokenizer=Nucleotides(),
    )
""")
    tilth("build", "real", cwd=tmp_path)
    project = Project(tmp_path)
    from tilth.pipeline.tokenise import tokenise_subset

    pick(project, "held", "is_keeper", corpus="real", validation_where="meta['sequence'] = 'CHROMOSOME_X'")
    named = tokenise_subset(project.store, project.store.get_named("subset", "held"))
    files = [
        test_data / "lambda_phage" / "example" / "reference" / "lambda_virus.fa",
        test_data / "htslib_tests" / "test" / "ce.fa",
    ]
    letters = {"train": "", "validation": ""}
    for path in files:
        for record in path.read_text().split(">")[1:]:
            title, _, body = record.partition("\n")
            letters["validation" if title.startswith("CHROMOSOME_X") else "train"] += body.replace("\n", "").upper()
    for split, expected in letters.items():
        tokens = TokenSet.open(project.store.artifact(named.one(f"tokens.{split}")).path)
        ids = np.asarray(tokens.tokens)
        assert tokens.tokenizer().decode(ids[ids != tokens.separator_id]) == expected
    (gc,) = sql(project, "select avg(dna_gc_fraction) as gc from real where source = 'phage'").to_pylist()
    assert 0.45 < gc["gc"] < 0.55


def test_the_page_on_dna_runs_as_it_stands_there(repository: Path, tmp_path: Path, tilth: Callable[..., Any]) -> None:
    page = (repository / "docs" / "dna.md").read_text()
    python, console = (part.split("```")[0] for part in (page.split("```python\n")[1], page.split("```\n$ tilth build")[1]))
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "dna.py").write_text(f'"""As docs/dna.md has it."""\n{python}')
    (tmp_path / "ce11").mkdir()
    rng = random.Random(4)
    for name in ("chrI", "chrX"):
        text = "".join(rng.choices("ACGTacgt", k=20_000))
        (tmp_path / "ce11" / f"{name}.fa.gz").write_bytes(gzip.compress(f">{name} ce11\n{text}\n".encode()))
    letters = "".join(rng.choices("acgt", k=60))
    record = (
        "LOCUS       P1   60 bp    DNA     circular PLN 11-OCT-2001\nDEFINITION  x\nVERSION     P1.1\nFEATURES             L\n"
        f"     CDS             complement(join(51..60,1..5))\nORIGIN\n        1 {letters}\n//\n"
    )
    (tmp_path / "plastid.gbff.gz").write_bytes(gzip.compress(record.encode()))
    (tmp_path / "promoters.bed").write_text("chrI\t100\t400\tp1\t0\t-\n")
    names = "".join(f"@attribute 'attribute_{i}' {{A,C,G,T}}\n" for i in range(1, 5))
    (tmp_path / "splice.arff").write_text(
        f"@relation s\n@attribute name string\n{names}@attribute Class {{EI,N}}\n@data\nx,A,C,G,T,EI\n"
    )
    tilth("build", "dna", cwd=tmp_path)
    commands = [line.removeprefix("$ tilth ") for line in console.splitlines() if line.startswith("$ tilth ")]
    assert len(commands) == 2
    outputs = [tilth(*shlex.split(command), cwd=tmp_path).stdout for command in commands]
    assert "6 of 9 documents (3 train, 3 validation)" in outputs[0]
    assert "chrX" in outputs[1]
    found = sql(Project(tmp_path), "select source, text, meta['label'] as label from dna where source <> 'worm' order by source")
    assert [(row["source"], row["label"]) for row in found.to_pylist()] == [
        ("plastids", None),
        ("promoters", "promoter"),
        ("splice", "EI"),
    ]
    assert found.to_pylist()[2]["text"] == "ACGT"
    turned = "".join(PAIRS[letter] for letter in reversed((letters[50:60] + letters[:5]).upper()))
    assert found.to_pylist()[0]["text"] == turned
