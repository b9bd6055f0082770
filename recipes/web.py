"""A web corpus: crawled pages, Wikipedia, questions and answers, papers and books, with every signal of RedPajama-V2.

tilth build web data=path/to/files
tilth pick good "@gopher and is_keeper" --from web
tilth explain https://an.wikipedia.org/wiki/Escopete --from web
"""

from pathlib import Path

from tilth import Bpe, Corpus, MinHashParameters, RepeatedLines, Warc
from tilth.corpus import ArxivSource, Books, MediaWikiDump, StackExchange
from tilth.pipeline.recipe import Importance, Perplexity, QualityModel

SIGNALS = (
    "natural_language",
    "repetition",
    "lines",
    "stop_words",
    "language",
    "gopher",
    "gopher_repetition",
    "c4",
    "fineweb",
    "pii",
)


def corpus(data: str = "~/.cache/tilth-data", extract: str = "both", threshold: float = 0.7) -> Corpus:
    """What lies below `data`; change the patterns to where your own dumps are."""
    folder = Path(data).expanduser()
    return Corpus(
        sources=[
            Warc("web", f"{folder}/**/*.warc.gz", extract=extract),
            MediaWikiDump("wikipedia", f"{folder}/**/*.xml*.bz2"),
            StackExchange("stackexchange", f"{folder}/**/Posts.xml"),
            ArxivSource("arxiv", f"{folder}/**/*.tex"),
            Books("books", f"{folder}/pg_*/**/*.txt"),
        ],
        signals=SIGNALS,
        models=[
            QualityModel("wikipedia", "web", name="wikiref"),
            Perplexity("wikipedia", n_pieces=8_000),
            Importance("books", "web", name="books_importance"),
        ],
        # Pages repeat menus and footers; books and papers repeat lines that belong to them.
        edits=[RepeatedLines(sources=("web",), keep_empty=True)],
        near_duplicates=MinHashParameters(threshold=threshold),
        tokenizer=Bpe(8_192),
    )
