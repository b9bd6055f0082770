"""LaTeX papers: comments, macros, inputs, encodings, what is kept of a paper; the rules are RedPajama-V1's, repaired."""

from __future__ import annotations

import contextlib
import re
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.extract.tex import Paper, extract_tex
from tilth.corpus.extract.tex_comments import strip_comments, strip_dead_branches
from tilth.corpus.extract.tex_macros import expand_macros
from tilth.corpus.extract.tex_project import decode_tex, read_project, top_level_files
from tilth.corpus.extract.tex_tokens import TexError

FRAME = "\\documentclass{article}\n%s\\begin{document}\n%s\n\\end{document}\nafterwards\n"


def paper(body: str, preamble: str = "", before_sections: str = "drop", **others: str) -> Paper:
    files = {"main.tex": (FRAME % (preamble, body)).encode()} | {
        name.replace("__", "."): text.encode() for name, text in others.items()
    }
    return extract_tex(files, before_sections)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a\n% gone\nb", "a\nb"),
        ("a\n   % gone\nb", "a\nb"),
        ("text % gone\nb", "text\nb"),
        ("good.% gone\nb", "good.%\nb"),  # RedPajama-V1: "good\nb"
        ("100\\% stays % goes\nb", "100\\% stays\nb"),
        ("line\\\\% gone\nb", "line\\\\%\nb"),  # two backslashes escape nothing
        ("{%\n x}", "{%\n x}"),
        ("end % gone", "end"),
        ("end% gone", "end"),
        ("\\url{http://a.b/%7Ec} % gone", "\\url{http://a.b/%7Ec}"),
        ("\\verb|%| x % gone", "\\verb|%| x"),
        ("\\begin{verbatim}\n% stays\n\\end{verbatim}\n% gone\n", "\\begin{verbatim}\n% stays\n\\end{verbatim}\n"),
        ("\\begin{lstlisting}[a=b]\nx % stays\n\\end{lstlisting}", "\\begin{lstlisting}[a=b]\nx % stays\n\\end{lstlisting}"),
        (
            "\\lstnewenvironment{code}{}{}\n\\begin{code}\n% stays\n\\end{code}",
            "\\lstnewenvironment{code}{}{}\n\\begin{code}\n% stays\n\\end{code}",
        ),
        ("\\lstinline{a % b} % gone", "\\lstinline{a % b}"),
        ("% \\begin{verbatim}\na % gone\n", "a\n"),
        ("a\n\\begin{comment}\nx % y\n\\end{comment}\nb", "a\n\nb"),
        ("a\\begin{comment}never closed", "a"),
        ("\\begin{verbatim} never closed % gone\nb", "\\begin{verbatim} never closed\nb"),
    ],
)
def test_comments(source: str, expected: str) -> None:
    assert strip_comments(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("a\n\\iffalse\nx\n\\fi\nb", "a\nb"),
        ("\\iffalse no\\else yes\\fi.", "yes."),
        ("\\iftrue yes\\else no\\fi.", "yes."),
        ("\\if0 no\\fi yes", "yes"),
        ("\\iffalse \\ifx a b \\fi no \\fi yes", "yes"),
        ("\\newif\\ifmine\\iffalse \\ifmine \\fi no\\fi yes", "\\newif\\ifmine yes"),
        ("\\iffalse \\ifunknown no\\fi yes", "yes"),
        ("\\ifmmode a\\else b\\fi", "\\ifmmode a\\else b\\fi"),
        ("\\iffalse never closed", "\\iffalse never closed"),
        ("\\begin{verbatim}\\iffalse\\end{verbatim} a \\fi", "\\begin{verbatim}\\iffalse\\end{verbatim} a \\fi"),
    ],
)
def test_branches_never_taken(source: str, expected: str) -> None:
    assert strip_dead_branches(source).replace("\\newif\\ifmineyes", "\\newif\\ifmine yes") == expected


@pytest.mark.data
def test_comments_as_arxiv_latex_cleaner_removes_them(test_data: Path) -> None:
    folder = test_data / "arxiv_cleaner/test_data"
    ours = strip_dead_branches(strip_comments((folder / "tex/main.tex").read_text()))
    theirs = (folder / "tex_arXiv_true/main.tex").read_text()
    # Theirs was made with commands and pictures to delete besides: what they are is taken from both.
    ours = re.sub(r"\\mytodo\{Do this later\}", "", ours)
    ours = re.sub(r"\\mytodo\{This.*?supported\.\}", "%", ours, flags=re.DOTALL)
    ours = re.sub(r"\\begin\{mynote\}.*?\\end\{mynote\}", "", ours, flags=re.DOTALL)
    ours = re.sub(
        r"\\tikzsetnextfilename\{test1\}\n\\begin\{tikzpicture\}.*?\\end\{tikzpicture\}",
        r"\\includegraphics{ext_tikz/test1.pdf}",
        ours,
        flags=re.DOTALL,
    )
    ours = re.sub(r"hello test \\red\{hello\ntest \\red\{hello\}\}", "hello test hello\ntest hello", ours)
    ours = ours[: ours.index("\\end{document}")]
    theirs = theirs[: theirs.index("\\end{document}")]
    assert [line for line in ours.splitlines() if line.strip()] == [line for line in theirs.splitlines() if line.strip()]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("\\newcommand{\\R}{\\mathbb{R}}|$\\R^n$", "$\\mathbb{R}^n$"),
        ("\\newcommand*\\R{\\mathbb{R}}|$x\\in\\R$", "$x\\in\\mathbb{R}$"),
        ("\\def\\eps{\\varepsilon}|\\eps x", "\\varepsilon x"),
        ("\\def\\a{{x}{y{z}}}|\\a", "{x}{y{z}}"),  # RedPajama-V1 ends at the first brace
        ("\\def\\a{A}\\def\\b{\\a\\a}|\\b", "AA"),
        ("\\newcommand{\\be}{\\begin{equation}}|\\be x", "\\begin{equation} x"),
        ("\\newcommand{\\x}{1}\\renewcommand{\\x}{2}|\\x", "2"),
        ("\\newcommand{\\x}{1}\\providecommand{\\x}{2}|\\x", "1"),
        ("\\def\\x{1}\\let\\y\\x\\def\\x{2}|\\y\\x", "12"),
        ("\\let\\al=\\alpha|\\al", "\\alpha"),
        ("\\NewDocumentCommand{\\x}{}{one}|\\x", "one"),
        ("\\NewDocumentCommand{\\x}{m}{one #1}|\\x{a}", "\\x{a}"),
        ("\\DeclareMathOperator*{\\argmin}{arg\\,min}|\\argmin_x", "\\operatorname*{arg\\,min}_x"),
        ("\\newcommand{\\x}[1]{a#1}|\\x{b}", "\\x{b}"),
        ("\\newcommand{\\x}[0]{a}|\\x.", "a."),
        ("\\def\\x#1{a#1}|\\x b", "\\x b"),
        ("\\def\\lda{LDA\\xspace}|\\lda is", "LDA is"),
        ("\\def\\name{LDA}|\\bf\\name", "\\bf LDA"),
        ("\\def\\pair{ab}|$x^\\pair$", "$x^{ab}$"),
        ("\\def\\ten{10}|$\\frac\\ten2$", "$\\frac{10}2$"),
        ("\\def\\x{\\x}|\\x", "\\x"),
        ("\\def\\a{\\b}\\def\\b{\\a}|\\a", "\\a"),
        ("\\def\\x{1}|\\verb|\\x| \\x", "\\verb|\\x| 1"),
        ("\\def\\x{1}|{\\def\\x{2}\\x}\\x", "{\\def\\x{2}2}1"),
        ("\\def\\x{1}|{\\gdef\\x{2}}\\x", "{\\gdef\\x{2}}2"),
        ("\\def\\x{1}|\\\\x \\xy", "\\\\x \\xy"),
        ("\\def\\section{no}|\\section", "\\section"),
        ("\\def\\x{\\@foo}|\\x", "\\x"),
        ("\\def\\x{never closed|\\x", "\\x"),
    ],
)
def test_macros(source: str, expected: str) -> None:
    definitions, _, use = source.partition("|")
    text, _ = expand_macros(f"{definitions}\n----{use}")
    assert text.partition("----")[2] == expected


def test_a_macro_bomb_is_refused() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    lines = [f"\\def\\{a}{{\\{b}\\{b}\\{b}\\{b}}}" for a, b in pairwise(letters)]
    with pytest.raises(TexError) as caught:
        expand_macros("\n".join([*lines, "\\def\\z{lol}", "\\a"]))
    assert caught.value.reason == "macro_bomb"


def test_inputs_come_in_order_and_once_around_a_cycle() -> None:
    found = paper(
        "\\section{A}\\input{one}\\input two \\include{sub/three}\\input{none}", one__tex="ONE\\input{main}\\input{one}\n",
        two__tex="TWO\n\\endinput\nnever", **{"sub/three__tex": "THREE \\input{four}", "sub/four__tex": "FOUR"},
    )  # fmt: skip
    assert re.findall(r"ONE|TWO|THREE|FOUR|never", found.text) == ["ONE", "TWO", "THREE", "FOUR"]
    assert found.files == ("main.tex", "one.tex", "two.tex", "sub/three.tex", "sub/four.tex")
    assert found.missing == ("none",)
    assert "\\input{none}" in found.text


def test_a_subfile_adds_its_body_only() -> None:
    found = paper("\\section{A}\\subfile{part}", part__tex="\\documentclass[main]{subfiles}\\begin{document}BODY\\end{document}")
    assert "BODY" in found.text
    assert "documentclass" not in found.text


@pytest.mark.parametrize(("files", "reason"), [(40, "too_deep"), (None, "input_bomb")])
def test_inputs_without_end_are_refused(files: int | None, reason: str) -> None:
    if files:
        others = {f"f{i}__tex": f"\\input{{f{i + 1}}}" for i in range(files)}
    else:
        others = {f"f{i}__tex": f"\\input{{f{i + 1}}}" * 20 for i in range(10)}
    with pytest.raises(TexError) as caught:
        paper("\\section{A}\\input{f0}", **others)
    assert caught.value.reason == reason


def test_an_input_from_outside_of_the_package_is_missing() -> None:
    assert paper("\\section{A}\\input{../../etc/passwd}\\input{/etc/passwd}").missing == ("../../etc/passwd", "/etc/passwd")


@pytest.mark.parametrize("header", ["section", "subsection*", "chapter", "part", "paragraph", "subparagraph", "section[short]"])
def test_what_precedes_the_first_section_goes(header: str) -> None:
    assert paper(f"front\n\\{header}{{Name}}\ntext").text == f"\\{header}{{Name}}\ntext\n"


@pytest.mark.parametrize(
    "tail",
    [
        "\\appendix",
        "\\begin{thebibliography}{9}",
        "\\bibliography{refs}",
        "\\begin{references}",
        "\\printbibliography",
        "\\begin{appendices}",
    ],
)
def test_appendix_and_bibliography_go(tail: str) -> None:
    body = f"\\section{{A}}\nsee \\appendixname \\bibliographystyle{{plain}}\n\\begin{{verbatim}}{tail}\\end{{verbatim}} x\n{tail} gone"
    assert paper(body).text.endswith("\\end{verbatim} x\n")


def test_title_and_abstract_stay_by_default() -> None:
    body = "\\title[Short]{Long\\thanks{Grant.} \\\\ Name}\n\\author{A. B.}\n\\maketitle\n\\begin{abstract}\nWe show.\n\\end{abstract}\nepigraph\n\\section{One}\ntext"
    found = paper(body, before_sections="front_matter")
    assert (
        found.text
        == "\\title{Long\\thanks{Grant.} \\\\ Name}\n\n\\begin{abstract}\nWe show.\n\\end{abstract}\n\n\\section{One}\ntext\n"
    )
    assert found.title == "Long Name"
    assert paper(body).text == "\\section{One}\ntext\n"


def test_a_paper_without_sections_is_kept_unless_they_are_asked_for() -> None:
    body = "\\title{T}\\maketitle\\begin{abstract}A\\end{abstract}\nA letter."
    found = paper(body, before_sections="front_matter")
    assert found.text == "\\title{T}\n\n\\begin{abstract}A\\end{abstract}\n\nA letter.\n"
    assert found.n_sections == 0
    with pytest.raises(TexError) as caught:
        paper(body)
    assert caught.value.reason == "no_section"


def test_macros_of_the_papers_own_package_count() -> None:
    found = paper("\\section{A}\\sys", preamble="\\usepackage{graphicx,ours}\n", ours__sty="\\newcommand{\\sys}{SystemX}")
    assert "SystemX" in found.text


@pytest.mark.parametrize(
    ("files", "main"),
    [
        ({"a.tex": "\\input{b}", "ms.tex": "\\documentclass{a}\\begin{document}x\\end{document}", "b.tex": "x"}, "ms.tex"),
        (
            {
                "z.tex": "\\documentclass{a}\\begin{document}" + "x" * 99 + "\\end{document}",
                "a.tex": "\\documentclass{a}\\begin{document}x\\end{document}",
            },
            "z.tex",
        ),
        (
            {
                "z.tex": "\\documentclass{a}\\begin{document}long\\end{document}",
                "main.tex": "\\documentclass{a}\\begin{document}x\\end{document}",
            },
            "main.tex",
        ),
        ({"c.tex": "% \\documentclass{a}\\begin{document}", "d.tex": "\\documentstyle{a}\\begin{document}"}, "d.tex"),
        ({"plain.tex": "\\magnification=1200 text\\bye", "macros.tex": "\\def\\a{b}"}, "plain.tex"),
        ({"sub/main.tex": "\\begin{document}", "other.tex": "\\documentclass{a}\\begin{document}"}, "other.tex"),
        ({"paper": "\\documentclass{a}\\begin{document}", "fig.sty": "x"}, "paper"),
    ],
)
def test_the_main_file(files: dict[str, str], main: str) -> None:
    assert top_level_files(read_project({name: text.encode() for name, text in files.items()}))[0] == main


@pytest.mark.parametrize(
    "directives", [b"b.tex toplevelfile\nfig.png ignore\n", b'{"sources": [{"filename": "b.tex", "usage": "toplevel"}]}']
)
def test_arxivs_directives_decide(directives: bytes) -> None:
    files = {
        name: b"\\documentclass{a}\\begin{document}\\section{%s}\\end{document}" % name.encode() for name in ("main.tex", "b.tex")
    }
    assert extract_tex(files, "drop", directives).main == "b.tex"


@pytest.mark.parametrize(
    ("encoding", "preamble", "named"),
    [
        ("utf-8", "", "utf-8"),
        ("utf-8-sig", "", "utf-8"),
        ("utf-16", "", "utf-16-le"),
        ("utf-16-be", "", "utf-16-be"),
        ("iso-8859-1", "\\usepackage[latin1]{inputenc}", "iso-8859-1"),
        ("mac_roman", "\\usepackage[applemac]{inputenc}", "mac_roman"),
        ("cp1250", "\\usepackage[cp1250]{inputenc}", "cp1250"),
        ("cp850", "\\usepackage[cp850]{inputenc}", "cp850"),
        ("iso-8859-1", "% !TEX encoding = iso-8859-1", "iso-8859-1"),
    ],
)
def test_encodings(encoding: str, preamble: str, named: str) -> None:
    text = f"{preamble}\n\\section{{Über die Größe}}\nschöne Grüße\n" * 3
    assert decode_tex(text.encode(encoding)) == (text, named)


def test_a_part_is_decoded_as_its_paper_declares() -> None:
    files = {"main.tex": FRAME % ("\\usepackage[latin2]{inputenc}", "\\section{A}\\input{b}"), "b.tex": "příliš žluťoučký"}
    found = extract_tex({name: text.encode("iso-8859-2") for name, text in files.items()}, "drop")
    assert "příliš žluťoučký" in found.text


@pytest.mark.parametrize("data", [b"%PDF-1.4\n...", b"\0\1\2\3" * 100, b"%!PS-Adobe"])
def test_what_is_no_text_is_refused(data: bytes) -> None:
    with pytest.raises(TexError) as caught:
        extract_tex({"a.tex": data})
    assert caught.value.reason == "binary"


@pytest.mark.parametrize(
    "piece",
    [
        "\\begin{verbatim}",
        "\\def\\a{",
        "\\def\\a{\\a}\\a",
        "\\newcommand{\\a}[",
        "\\title{",
        "\\section[",
        "\\verb|",
        "%",
        "\\iffalse",
        "\\url{",
        "{",
        "}",
        "\\input{a}",
        "\\\\",
    ],
)
def test_time_is_linear_in_what_is_left_open(piece: str) -> None:
    text = (FRAME % ("", "\\section{A}" + piece * 15_000)).encode()
    start = time.process_time()
    with contextlib.suppress(TexError):
        extract_tex({"main.tex": text})
    assert time.process_time() - start < 5


@given(st.text(alphabet="ab %\\{}[]|\n$^", max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_text_ends_in_text_or_a_reason(body: str) -> None:
    with contextlib.suppress(TexError):
        assert paper("\\section{S} " + body, before_sections="front_matter").text.strip()


@given(st.lists(st.sampled_from(["word", "\\%", "\\\\", "\\verb|%|", "% c\n", " ", "\n", "{", "}", "\\alpha"]), max_size=30))
def test_comments_once_removed_stay_removed(parts: list[str]) -> None:
    once = strip_comments("".join(parts))
    assert strip_comments(once) == once
    assert "c\n" not in once.replace("\\verb|%|", "")


@pytest.mark.data
def test_emcee_keeps_its_text_and_loses_its_bibliography(test_data: Path) -> None:
    found = extract_tex({"ms.tex": (test_data / "emcee_paper/document/ms.tex").read_bytes()})
    assert found.n_sections == 8
    assert found.n_macros == 128
    assert found.text.startswith("\\title{\\project{emcee}: The MCMC Hammer}\n\n\\begin{abstract}")
    assert "\\bibitem" not in found.text
    assert not re.search(r"(?m)^\s*%", found.text)
