"""Writes rule_decisions.json: what datatrove's filters, and dolma's tagger, say of texts made here and of the reference documents.

    TILTH_TEST_DATA=... python tests/quality_signals/record_rules.py

Needs datatrove 0.10.1 with spaCy 3.8.18 for all but `dolma`, which dolma 1.2.1 fills in where that is installed instead
(the two do not share an environment). What cannot be recorded anew stays as it is.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("rule_decisions.json")

PIECES = (
    "Mr.Smith don't can't've cannot. it's It’s U.S. (U.S.) e.g., i.e. 8a.m. 10am, well-known a--b a---b a—b x/y and/or w/o "
    "http://example.com/a?b#c user@host.org mailto:a@b.co 8.8.8.8 10.0.0.1 172.16.3.4 example.com:8080/x www.a.b 1.5 3,000 $5 US$5 "
    "5km/h 10% 20°C. 20°C.) C++ C# foo_bar foo=bar 'quoted' \"quoted\" ''double'' ‘s ’s’ :) :-) :)) 8) <3 (: ): =D o.O ._. ^_^ "
    "... .... .. … …… a...b hello...world end.Next A.B.C. v.s. vs. Ph.D.'s y'all how'd'y ¯\\(ツ)/¯ 中文。句子 日本語、テスト Привет,мир "
    "café-au-lait 🙂🙂 ☎123 №5 ½cup a\u00a0b a\u200bb \u2329x\u232a -- --- -5 +5 5+5 5*-5 2^10 [1] {x} <b>bold</b> \\n #tag @user &amp; 1st 2nd"
)
WORDS = (
    "the of and to be that have with this place makes privacy policy use cookies uses JavaScript javascript lorem ipsum terms [1] "
    '[23] [edit] [citation needed] [] { } - • ... … # ## end. stop! what? "quoted" coo\u212aies İ the the a a 12 1 1 11 111 '
    "reader quietly walked through gardens where children played every morning."
)
BREAKS = (
    " ",
    " ",
    " ",
    " ",
    " ",
    "\n",
    "\n",
    "\n\n",
    "\n\n\n",
    "\r\n",
    "\r",
    "\x0b",
    "\u2028",
    "\t",
    "  ",
    ". ",
    "! ",
    ".\n",
    ".\n",
)
PROSE = (
    "The town lies on the river, and most of its people have lived there for generations with little thought of moving. "
    "In spring the water rises to the second step of the mill. Nobody remembers when it last went over the third! "
    "Would you believe that the baker still opens at four? He says that the bread does not wait, and that he will not either. "
    "On market days the square is full of carts, and the inn serves soup to anyone who asks for it.\n"
)


def made_texts() -> list[str]:
    """Texts near the rules' thresholds and at their edges."""
    source, words = random.Random(20260101), WORDS.split(" ")
    texts = [
        "",
        " ",
        "\n",
        "word",
        PROSE,
        PROSE * 2,
        PROSE * 40,
        PROSE + "{",
        PROSE + "Lorem ipsum dolor sit amet.",
        "the be to of " * 20,
    ]
    texts += [PROSE.replace(" ", mark) for mark in ("\n", " # ", " ... ", " … ", " - ", "\n• ", "\n- ", "...\n")]
    texts += [" ".join(f"word{number}" for number in range(n)) + " the of" for n in (46, 47, 48, 49, 99996, 99997, 99998, 99999)]
    texts += [
        f"{PROSE}{line}\n"
        for line in ("Use javascript here now.", "We use cookies on this site.", "x" * 1001 + " is long now.", "Too few.")
    ]
    for n in range(70):
        vocabulary = source.sample(words, source.randint(4, len(words)))
        texts.append("".join(source.choice(vocabulary) + source.choice(BREAKS) for _ in range(source.randint(20, 160))))
        if n % 3 == 0:
            texts.append(PROSE * source.randint(0, 2) + texts.pop())
    return texts


def reference_texts() -> list[str] | None:
    """The documents of the RedPajama-V2 reference, where the test data is there."""
    path = Path(os.environ.get("TILTH_TEST_DATA", "")) / "rpv2_reference" / "docs.jsonl"
    return [json.loads(line)["raw_content"] for line in path.read_bytes().splitlines()] if path.is_file() else None


def datatrove_filters() -> dict[str, Callable[[str], tuple[Any, str]]]:
    """By name what a filter says of a text (True, or its reason to drop it) and the text that it leaves."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.filters.c4_filters import C4ParagraphFilter

    def asked(step: Any) -> Callable[[str], tuple[Any, str]]:
        def ask(text: str) -> tuple[Any, str]:
            document = Document(text=text, id="")
            found = step.filter(document)
            return (found if isinstance(found, bool) else found[1]), document.text

        return ask

    c4_any_end, fineweb = asked(C4QualityFilter(filter_no_terminal_punct=False)), asked(FineWebQualityFilter())

    def ask_both(text: str) -> tuple[Any, str]:
        found, left = c4_any_end(text)
        return fineweb(left) if found is True else (found, left)

    return {
        "gopher_quality": asked(GopherQualityFilter()),
        "gopher_repetition": asked(GopherRepetitionFilter()),
        "c4": asked(C4QualityFilter()),
        "c4_any_end": c4_any_end,
        "c4_paragraphs": asked(C4ParagraphFilter()),
        "fineweb": fineweb,
        "fineweb_after_c4": ask_both,
    }


def dolma_attributes() -> Callable[[str], dict[str, float]]:
    """What dolma's gopher_v1 says of a text."""
    from dolma.core.data_types import Document
    from dolma.taggers.gopher import GopherTagger

    tagger = GopherTagger()
    return lambda text: {span.type: span.score for span in tagger.predict(Document(source="", id="", text=text)).spans}


def main() -> None:
    """Record what can be recorded here."""
    record: dict[str, Any] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    texts = made_texts()
    # Long texts are made again, not stored.
    short = [number for number, text in enumerate(texts) if len(text) < 5000]
    try:
        asked = datatrove_filters()
        from datatrove.utils.text import split_into_words

        record["words"] = {piece: split_into_words(piece) for piece in PIECES.split(" ")} | {"all": split_into_words(PIECES)}
        record["decisions"] = {name: [ask(text)[0] for text in texts] for name, ask in asked.items()}
        record["c4_texts"] = {
            name: {str(number): asked[name](texts[number])[1] for number in short if asked[name](texts[number])[0] is True}
            for name in ("c4", "c4_any_end")
        }
        reference = reference_texts()
        if reference:
            kept = {name: "".join(str(int(ask(text)[0] is True)) for text in reference) for name, ask in asked.items()}
            record["reference_kept"] = kept
    except ModuleNotFoundError as error:
        print(f"datatrove's part stays as it is: {error}")
    try:
        tag = dolma_attributes()
        names = sorted(set().union(*(tag(texts[number]) for number in short)))
        record["dolma"] = {"names": names, "rows": [[tag(texts[number]).get(name, 0) for name in names] for number in short]}
    except ModuleNotFoundError as error:
        print(f"dolma's part stays as it is: {error}")
    written = json.dumps(record, ensure_ascii=True, indent=0, sort_keys=True)
    RECORD.write_text(re.sub(r"(?<=[\[,])\n(?=[^\"{\]])", "", written) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
