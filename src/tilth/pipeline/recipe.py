"""What a recipe describes. A recipe is a Python function that returns one of these; it never runs work itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tilth.dedup.simhash.parameters import SimHash as SimHash  # recipes take it from here
from tilth.errors import RecipeError, did_you_mean
from tilth.pipeline.run_recipes import Distill as Distill
from tilth.pipeline.run_recipes import Train as Train
from tilth.tokenize.code_form import CodeForm as CodeForm
from tilth.tokenize.nucleotides import Nucleotides as Nucleotides
from tilth.tokenize.pretrained import PretrainedTokenizer as PretrainedTokenizer

if TYPE_CHECKING:
    from tilth.dedup.contamination.parameters import OverlapParameters
    from tilth.dedup.minhash.parameters import MinHashParameters
    from tilth.pipeline.interchange.datatrove_steps import DatatroveStep
    from tilth.pipeline.linguist import Linguist
    from tilth.pipeline.malware import Malware

# Families that need nothing but the text; others follow from the recipe's tokenizer and models.
DEFAULT_SIGNALS = ("natural_language", "repetition", "language", "code_shape")


@dataclass(frozen=True)
class Bpe:
    """A byte-level BPE tokenizer to train on the corpus: `max_bytes` of its text, taken evenly from all shards."""

    vocab_size: int = 4096
    max_bytes: int = 4_000_000


@dataclass(frozen=True)
class QualityModel:
    """A fastText classifier, documents of source `positive` against those of source `negative`: the signal `<name>_score`."""

    positive: str
    negative: str
    name: str = "quality"
    max_documents: int = 2_000  # of each class
    seed: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """What it is trained on."""
        return self.positive, self.negative


@dataclass(frozen=True)
class Perplexity:
    """An n-gram model with Kneser-Ney smoothing over SentencePiece pieces, trained on source `train_on`, as CCNet has it.

    Signals: `<name>`, and `<name>_bucket`: head below the `head`-th percentile of the document's language in this corpus,
    middle below the `tail`-th, else tail.
    """

    train_on: str
    name: str = "perplexity"
    order: int = 5
    n_pieces: int = 65_536  # fewer where the texts do not give as many; 0: words
    max_documents: int = 1_000_000
    head: float = 30.0
    tail: float = 60.0
    cutoffs_from: tuple[str, ...] = ()  # the sources whose documents decide the percentiles; by default all

    @property
    def sources(self) -> tuple[str, ...]:
        """What it is trained on."""
        return (self.train_on,)


@dataclass(frozen=True)
class Importance:
    """DSIR importance weights: how much more like source `target` than like source `source` a document is.

    Signals: `<name>` and `<name>_length_correction`, logarithms. `compat="redpajama-v2"` is that code's formula and hash.
    """

    target: str
    source: str
    name: str = "importance"
    max_documents: int = 500_000  # of each side
    compat: Literal["", "redpajama-v2"] = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """What it is trained on."""
        return self.target, self.source


@dataclass(frozen=True)
class RepeatedLines:
    """Cut the lines that groups of `group_shards` shards of a source hold more than once, as CCNet does.

    `remove_all_copies` leaves none of them, `keep_first` the first by (shard, row, line). Lines are compared without
    case, digits and punctuation. Empty lines go too, unless `keep_empty`. Only `sources` are cut, by default all.
    `unit="paragraph"` compares what blank lines part instead, by its normal text (digits count then, wrapping does not).
    """

    mode: str = "remove_all_copies"
    group_shards: int = 50
    keep_empty: bool = False
    sources: tuple[str, ...] = ()
    unit: Literal["line", "paragraph"] = "line"

    def __post_init__(self) -> None:
        if self.mode not in ("remove_all_copies", "keep_first"):
            raise RecipeError(f"RepeatedLines has no mode `{self.mode}`", fix="`remove_all_copies` or `keep_first`")
        if self.unit not in ("line", "paragraph"):
            raise RecipeError(f"RepeatedLines has no unit `{self.unit}`", fix="`line` or `paragraph`")
        if self.group_shards < 1:
            raise RecipeError("`group_shards` must be at least 1", where="RepeatedLines", fix="CCNet takes 50")


@dataclass(frozen=True)
class RepeatedSentences:
    """Cut every copy but the first of spans of `n` sentences, over all shards of `sources` (by default all) together, as C4.

    Sentences are compared by their normal text. `RepeatedSentences(min_words=50, min_sentences=3)` is FineWeb's setting:
    a document that loses something and has less left than that is emptied. Runs of fewer than `min_span_words` words stay.
    With `unit="line"` a sentence is a line.
    """

    n: int = 3
    unit: Literal["sentence", "line"] = "sentence"
    min_span_words: int = 0
    min_words: int = 0
    min_sentences: int = 0
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.unit not in ("sentence", "line"):
            raise RecipeError(f"RepeatedSentences has no unit `{self.unit}`", fix="`sentence` or `line`")
        if self.n < 1 or min(self.min_span_words, self.min_words, self.min_sentences) < 0:
            raise RecipeError("`n` must be at least 1 and no limit negative", where=str(self), fix="C4 takes 3 sentences")


@dataclass(frozen=True)
class RepeatedSpans:
    """Cut the spans of at least `min_tokens` words and marks that occur more than once, in one document or in several.

    As Lee et al. (arXiv:2107.06499) do, but on words: only white space is not compared. `keep_first` leaves the first copy by
    (shard, row), `remove_all_copies` none. Only `sources` are compared and cut, by default all.
    """

    min_tokens: int = 50
    mode: str = "keep_first"
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.mode not in ("remove_all_copies", "keep_first"):
            raise RecipeError(f"RepeatedSpans has no mode `{self.mode}`", fix="`keep_first` or `remove_all_copies`")
        if not 1 <= self.min_tokens <= 65_535:
            raise RecipeError("`min_tokens` must be 1 to 65,535", where="RepeatedSpans", fix="Lee et al. take 50")


@dataclass(frozen=True)
class RedactPersonalData:
    """Replace e-mail addresses, phone numbers and public IP addresses by placeholders."""


@dataclass(frozen=True)
class Redact:
    """Replace keys, passwords, e-mail and public IP addresses in source code by placeholders; None leaves a kind as it is.

    Offsets are kept as edits, so what is left still traces to its file. Only `sources` are redacted, by default all.
    """

    email: str | None = "<EMAIL>"
    key: str | None = "<KEY>"
    password: str | None = "<PASSWORD>"
    ip_address: str | None = "<IP_ADDRESS>"
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not any(value is not None for value in (self.email, self.key, self.password, self.ip_address)):
            raise RecipeError("`Redact` replaces nothing", where="Corpus(edits=...)", fix="Give one kind a placeholder.")


@dataclass(frozen=True)
class C4Lines:
    """Cut the lines that C4 cuts: without a terminal mark, of few words, with JavaScript, policies or braces."""


@dataclass(frozen=True)
class Notebooks:
    """Turn the JSON of Jupyter notebooks (documents whose path ends in `.ipynb`) into text, as StarCoder's data have it.

    `script`: code, with all else as comments. `structured`: `<jupyter_start>`, then Markdown, code and output by turns
    behind `<jupyter_text>`, `<jupyter_code>`, `<jupyter_output>`. What is no notebook stays as it is.
    """

    form: Literal["script", "structured"] = "script"

    def __post_init__(self) -> None:
        if self.form not in ("script", "structured"):
            raise RecipeError(f"Notebooks has no form `{self.form}`", fix="`script` or `structured`")


@dataclass(frozen=True)
class MarkdownProse:
    """Cut what is no prose from Markdown (documents whose language is Markdown, MDX, RMarkdown): front matter and comments.

    Comments in code stay. Only `sources` are cut, by default all.
    """

    front_matter: bool = True
    comments: bool = True
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.front_matter and not self.comments:
            raise RecipeError("`MarkdownProse` cuts nothing", where="Corpus(edits=...)", fix="Set one of its options to True.")


Edit = RepeatedLines | RepeatedSentences | RepeatedSpans | RedactPersonalData | Redact | C4Lines | Notebooks | MarkdownProse
OWN_EDITS = (RepeatedLines, RepeatedSentences, RepeatedSpans, RedactPersonalData, Redact, C4Lines, Notebooks, MarkdownProse)
REWRITING = (Notebooks,)  # what comes after it looks at the texts that it leaves
SCORING_STEPS = ("DatatroveStep", "Linguist", "Malware")  # by name: importing them costs more than a recipe may
COMPARING = (RepeatedLines, RepeatedSentences, RepeatedSpans)  # what a text loses depends on other texts


@dataclass(frozen=True)
class Decontaminate:
    """Mark the documents that hold parts of `benchmarks`: name -> file (JSON lines, JSON, CSV, Parquet).

    `fields` names the fields to look for, by benchmark, where their names do not tell. n-grams of `n_words` words, as GPT-3
    and Llama 2 take them; a text of fewer, but at least `min_words`, as a whole; substrings of `n_characters` letters and
    digits, as GPT-4 (50; 0: none); n-grams of `n_code` words and marks of code, whatever its names and indents (20; 0: none).
    What more than `max_items` items of a benchmark hold is not looked for.
    """

    benchmarks: Mapping[str, str]
    fields: Mapping[str, Sequence[str]] = field(default_factory=dict)
    n_words: int = 13
    min_words: int = 8
    n_characters: int = 0
    n_code: int = 0
    max_items: int = 10

    def __post_init__(self) -> None:
        if not self.benchmarks:
            raise RecipeError("Decontaminate has no benchmarks", fix='Decontaminate({"humaneval": "path/to/HumanEval.jsonl"})')
        for name in self.fields:
            if name not in self.benchmarks:
                raise RecipeError(
                    f"fields are given for `{name}`, which is no benchmark", fix=did_you_mean(name, self.benchmarks)
                )
        _ = self.parameters  # refuses what cannot be

    @property
    def parameters(self) -> OverlapParameters:
        """What counts as overlap."""
        from tilth.dedup.contamination.parameters import OverlapParameters

        return OverlapParameters(self.n_words, self.min_words, self.n_characters, self.n_code, self.max_items)


@dataclass(frozen=True)
class Corpus:
    """Sources to read, edits to make, signals to compute, duplicates to mark. Nothing is dropped: curating is SQL, later.

    A step of datatrove can be a signal (what it drops is told, not dropped) and an edit. Equal texts are always marked;
    `duplicates` names what else counts as a copy: `"normal_text"`, `"url"`, `SimHash(...)`, `Semantic(...)`. Each gives a
    column (`is_url_keeper`), while `is_keeper` stays with equal texts and `near_duplicates`.

    `keep` says which document of a cluster of duplicates is its keeper, as SQL to order by, the best first:
    `n_tokens desc, source = 'wikipedia' desc`; or by a name: longest, best_quality, most_permissive, earliest,
    `source:wikipedia,web`; or several of these, the first deciding. Nulls come last; of equals the first by shard and row stays.

    `training_form` says how training reads the files of repositories: `CodeForm(...)`; without, each document by itself.
    """

    sources: Sequence[Any]
    signals: Sequence[str | DatatroveStep | Linguist | Malware] = DEFAULT_SIGNALS
    resources: Mapping[str, str] = field(default_factory=dict)  # word lists and the like that signals need -> path
    edits: Sequence[Edit | DatatroveStep] = ()
    near_duplicates: MinHashParameters | None = None
    duplicates: Sequence[Any] = ()  # "normal_text", "url", SimHash(...), Semantic(...)
    decontaminate: Decontaminate | None = None
    tokenizer: Bpe | Nucleotides | PretrainedTokenizer | None = field(default_factory=Bpe)
    models: Sequence[QualityModel | Perplexity | Importance] = ()
    keep: str | Sequence[str] = ()
    training_form: CodeForm | None = None

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise RecipeError("a corpus needs at least one source", fix="Add one: `sources=[Folder('texts', 'path/to/texts')]`.")
        if self.training_form is not None and self.tokenizer is None:
            raise RecipeError("a training form needs a tokenizer", "Corpus(training_form=...)", "Give it one: `tokenizer=Bpe()`.")
        self._check_steps()
        self._check_duplicates()
        families = [*(_name_of(signal) for signal in self.signals), *(model.name for model in self.models)]
        formatters = [edit.name for edit in self.edits if not isinstance(edit, OWN_EDITS)]
        for what, given in (("sources", names), ("families of signals", families), ("edits", formatters)):
            twice = sorted({name for name in given if given.count(name) > 1})
            if twice:
                raise RecipeError(f"two {what} are named `{twice[0]}`", fix="Give each a name of its own.")
        own = [(type(edit), getattr(edit, "unit", "")) for edit in self.edits if isinstance(edit, OWN_EDITS)]
        if len(set(own)) < len(own):
            raise RecipeError("an edit is given twice", where="Corpus(edits=...)", fix="Give each kind once.")
        wanted = [(f"the model `{model.name}`", source) for model in self.models for source in model.sources]
        wanted += [
            (f"the model `{model.name}`", source)
            for model in self.models
            if isinstance(model, Perplexity)
            for source in model.cutoffs_from
        ]
        for edit in self.edits:
            if isinstance(edit, (*COMPARING, Redact, MarkdownProse)):
                wanted += [(f"`{type(edit).__name__}`", source) for source in edit.sources]
        for who, source in wanted:
            if source not in names:
                raise RecipeError(f"{who} wants a source `{source}`", fix=did_you_mean(source, names))

    def _check_steps(self) -> None:
        """Everything is Tilth's own or a step in its place, and documents are compared before any step changes texts."""
        for where, given, own in (("signals", self.signals, str), ("edits", self.edits, OWN_EDITS)):
            steps = SCORING_STEPS if where == "signals" else ("DatatroveStep",)
            for step in given:
                if not isinstance(step, own) and type(step).__name__ not in steps:
                    what = f"`Corpus({where}=...)` holds {_said(step)}"
                    raise RecipeError(what, fix=f"Name a step of datatrove: `DatatroveStep('a_name', {_said(step)})`.")
        for place, edit in enumerate(self.edits):
            before = self.edits[:place]
            if isinstance(edit, COMPARING) and any(
                isinstance(one, REWRITING) or not isinstance(one, OWN_EDITS) for one in before
            ):
                what = f"`{type(edit).__name__}` compares the texts as they were read"
                raise RecipeError(what, "Corpus(edits=...)", "Put it first.")

    def _check_duplicates(self) -> None:
        """Each method is known, and there once."""
        fixes = {
            "exact": "Leave it out: equal texts are always marked.",
            "simhash": "Give its settings: `SimHash()`.",
            "semantic": "Give its settings: `Semantic(...)`.",
        }
        methods = [given if isinstance(given, str) else type(given).__name__ for given in self.duplicates]
        for method in methods:
            if method not in ("normal_text", "url", "SimHash", "Semantic"):
                fix = 'Known: `"normal_text"`, `"url"`, `SimHash(...)`, `Semantic(...)`; MinHashParameters are `near_duplicates`.'
                raise RecipeError(f"`Corpus(duplicates=...)` holds `{method}`", fix=fixes.get(method, fix))
            if methods.count(method) > 1:
                raise RecipeError(f"`Corpus(duplicates=...)` holds `{method}` twice", fix="Give each method once.")


def _name_of(signal: str | DatatroveStep | Linguist | Malware) -> str:
    return signal if isinstance(signal, str) else signal.name


def _said(step: Any) -> str:
    return step.__name__ if isinstance(step, type) else f"{type(step).__name__}(...)"
