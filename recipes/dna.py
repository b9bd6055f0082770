"""DNA models from your own sequences: Caduceus (both strands, masked) and HybriDNA (next nucleotide), then a classifier.

tilth build dna:genome fasta=genome.fa
tilth pick chromosomes "is_keeper and dna_n_fraction < 0.1" --from genome --validation-where "meta['sequence'] = 'chrX'"
tilth train dna:caduceus
tilth train dna:hybridna
tilth build dna:labelled table=promoters.tsv sequence=sequence label=label
tilth pick yes "meta['label'] = '1'" --from labelled
tilth pick no "meta['label'] = '0'" --from labelled
tilth train dna:classifier
tilth train dna:generator
tilth report
"""

from tilth import Corpus, Train
from tilth.corpus.sources.fasta import Fasta
from tilth.corpus.sources.sequence_tables import SequenceTables
from tilth.tokenize.nucleotides import Nucleotides


def genome(fasta: str = "genome.fa", window: int = 4096) -> Corpus:
    """The sequences of FASTA files, plain or packed, in windows."""
    return Corpus(sources=[Fasta("fasta", fasta, window=window)], signals=("nucleotides",), tokenizer=Nucleotides())


def labelled(table: str = "labelled.tsv", sequence: str = "sequence", label: str = "label", kmer: int = 0) -> Corpus:
    """Sequences with labels, one a row of a CSV, TSV or ARFF file; with kmer=6 as DNABERT writes them."""
    source = SequenceTables("table", table, sequence=sequence, label=label, kmer=kmer or None)
    return Corpus(sources=[source], signals=("nucleotides",), tokenizer=Nucleotides())


def caduceus(subset: str = "chromosomes", steps: int = 200, rcps: bool = True, seed: int = 0) -> Train:
    """Caduceus: masked nucleotides read both ways; with rcps the strands share all parameters, else they are drawn at random."""
    model = {"layers": "S*2", "d_model": 64, "d_ff": 0, "d_state": 16, "bidirectional": True, "rcps": rcps}
    settings = _settings(steps, seed) | {"objective": "masked", "reverse_complement": 0.0 if rcps else 0.5}
    return Train(subset=subset, model=model | {"complement": "tokenizer"}, settings=settings)


def hybridna(subset: str = "chromosomes", steps: int = 200, seed: int = 0) -> Train:
    """HybriDNA: one layer of attention in eight, no positions, the next nucleotide."""
    model = {"layers": "MMMA", "d_model": 64, "n_heads": 2, "d_state": 32, "ssm_head_dim": 32, "rope_theta": None}
    return Train(subset=subset, model=model, settings=_settings(steps, seed) | {"reverse_complement": 0.5})


def classifier(positive: str = "yes", negative: str = "no", initial: str = "caduceus", steps: int = 150, seed: int = 1) -> Train:
    """What a sequence is: the pretrained model with a head for two classes, each a subset."""
    settings = _settings(steps, seed, lr=1e-3) | {"objective": "classify", "global_batch": 32}
    return Train(subset={positive: 0.5, negative: 0.5}, initial=initial, model={"n_classes": 2}, settings=settings)


def generator(positive: str = "yes", negative: str = "no", initial: str = "hybridna", steps: int = 150, seed: int = 1) -> Train:
    """Sequences of a kind: the pretrained model reads the class first, as an id behind those of the twelve letters and marks."""
    settings = _settings(steps, seed, lr=1e-3) | {"objective": "conditional", "global_batch": 32}
    return Train(subset={positive: 0.5, negative: 0.5}, initial=initial, model={"vocab_size": 14}, settings=settings)


def _settings(steps: int, seed: int, lr: float = 4e-3) -> dict:
    return {
        "steps": steps,
        "seq_len": 512,
        "global_batch": 8,
        "lr": lr,
        "warmup_steps": max(steps // 10, 1),
        "checkpoint_every": 50,
        "eval_every": 50,
        "seed": seed,
    }
