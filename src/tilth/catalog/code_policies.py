"""The published filters of source code as predicates: The Stack v2, StarCoder's data, SantaCoder's two.

Languages bear linguist's names. A document without a language is judged as one that no exception names.
"""

from __future__ import annotations

from tilth.catalog.policy import Clause, Policy, conditions

_LANGUAGE = "coalesce(language, '')"
# The language and the extension of the path, which StarCoder's table goes by: `GLSL.fsh`, `Makefile.` without one.
_LANGUAGE_AND_EXTENSION = r"coalesce(language, '') || '.' || lower(regexp_extract(coalesce(path, ''), '\.([^./]*)$', 1))"
_HTML = ("html_visible_chars", "html_visible_fraction")


def _one_of(what: str, names: str) -> str:
    quoted = ", ".join(f"'{name}'" for name in names.split("|"))
    return f"{what} in ({quoted})"


def _where(what: str, names: str, sql: str, word: str, family: str, *columns: str) -> Clause:
    """A condition on the documents whose language (and extension) is one of the names, parted by `|`."""
    return Clause(f"(not ({_one_of(what, names)}) or {sql})", word, family, columns)


def _but_where(what: str, names: str, sql: str, word: str, family: str, *columns: str) -> Clause:
    """A condition on all documents but those."""
    return Clause(f"({_one_of(what, names)} or {sql})", word, family, columns)


_LONG_LINES_ALLOWED = "HTML|JSON|Markdown|Roff|Roff Manpage|SMT|TeX|Text|XML"
_ALPHANUMERIC_INSTEAD = "Motorola 68K Assembly|WebAssembly"
_STEMS = _one_of("lower(parse_filename(coalesce(path, ''), true))", "readme|notes|todo|description|cmakelists")

_STACK_V2 = Policy(
    "stack-v2",
    "Lozhkov et al., StarCoder 2 and The Stack v2, arXiv:2402.19173, appendix A.1 (filters before training)",
    (
        *conditions("code_shape", ("n_lines", "<= 100000", "number of lines")),
        _but_where(_LANGUAGE, _LONG_LINES_ALLOWED, "mean_line_length <= 100", "mean line", "code_shape", "mean_line_length"),
        _but_where(_LANGUAGE, _LONG_LINES_ALLOWED, "max_line_length <= 1000", "longest line", "code_shape", "max_line_length"),
        *conditions("code_shape", ("max_line_length", "<= 100000", "longest line of all")),
        Clause("not says_generated", "not generated", "code_head", ("says_generated",)),
        _but_where(
            _LANGUAGE, _ALPHANUMERIC_INSTEAD, "alphabetic_fraction >= 0.25", "letters", "code_shape", "alphabetic_fraction"
        ),
        _where(
            _LANGUAGE, _ALPHANUMERIC_INSTEAD, "alphanumeric_fraction >= 0.25", "letters and digits", "code_shape",
            "alphanumeric_fraction",
        ),
        *conditions(
            "code_shape",
            ("longest_encoded_run", "<= 1024", "longest encoded run"),
            ("encoded_data_fraction", "<= 0.5", "encoded data"),
        ),
        _where(
            _LANGUAGE, "Text|JSON|YAML|Web Ontology Language|Graphviz (DOT)", "n_lines <= 512", "lines of data", "code_shape",
            "n_lines",
        ),
        _where(
            _LANGUAGE, "HTML", "(html_visible_chars >= 100 and html_visible_fraction >= 0.2)", "visible text", "code_html", *_HTML
        ),
        Clause(
            f"({_LANGUAGE} <> 'Text' or contains(lower(parse_filename(coalesce(path, ''))), 'requirement') or {_STEMS})",
            "named as documentation", "code_shape", (),
        ),
    ),
    beyond="drops what linguist calls generated or vendored, a list of extensions chosen by eye, files of 10 MiB and more (whose "
    "signals are null), and what ClamAV finds; licences, near-duplicates, opt-out and personal data are steps of their own",
)  # fmt: skip

# preprocessing/visual_inspection.csv, in linguist's names: 90 languages.
_STARCODER_LANGUAGES = (
    "Ada|Agda|Alloy|ANTLR|AppleScript|Assembly|Augeas|Awk|Batchfile|Bison|Bluespec|C|C++|C#|Clojure|CMake|CoffeeScript|"
    "Common Lisp|CSS|Cuda|Dart|Dockerfile|Elixir|Elm|Emacs Lisp|Erlang|F#|Fortran|GLSL|Go|Groovy|Haskell|HTML|Idris|Isabelle|"
    "Java|Java Server Pages|JavaScript|JSON|Julia|Kotlin|Lean|Literate Agda|Literate CoffeeScript|Literate Haskell|Lua|Makefile|"
    "Maple|Markdown|Mathematica|MATLAB|OCaml|Pascal|Perl|PHP|PowerShell|Prolog|Protocol Buffer|Python|R|Racket|reStructuredText|"
    "RMarkdown|Ruby|Rust|SAS|Scala|Scheme|Shell|Smalltalk|Solidity|SPARQL|SQL|Stan|Standard ML|Stata|SystemVerilog|Tcl|Tcsh|TeX|"
    "Thrift|TypeScript|Verilog|VHDL|Visual Basic .NET|XSLT|Yacc|YAML|Zig|"
    "Wolfram Language|Visual Basic 6.0|VBA|VBScript|Awk|Fortran Free Form"  # today's names for some of these
)
_LEFT_OUT = (
    "C.cats|C.w|C#.csx|Clojure.cl2|Common Lisp.sexp|Erlang.xrl|Fortran.f77|GLSL.frg|GLSL.geo|GLSL.vrx|Groovy.grt|Mathematica.cdf|"
    "Mathematica.nbp|Mathematica.wlt|Pascal.dpr|Perl.al|Perl.ph|Perl.plx|Racket.rkt|Racket.rktd|Racket.rktl|reStructuredText.rest|"
    "SQL.pck|SQL.pls|SQL.tab|Standard ML.sig|Stata.ihlp|Stata.sthlp|TeX.aux|TeX.ltx|TeX.toc|VHDL.vhf|VHDL.vht|"
    "Visual Basic 6.0.frx|Bison.bison|Yacc.yy"
)
_NO_LINE_LIMIT = (
    "Assembly.asm|Bluespec.bsv|CMake.cmake|JSON.json|Mathematica.ma|Mathematica.nb|MATLAB.matlab|R.r|RMarkdown.rmd|SQL.sql|"
    "Stata.ado|Stata.do|Visual Basic 6.0.frm|reStructuredText.rst|Markdown.markdown|Markdown.md|Markdown.mkd|Markdown.mkdn|"
    "Markdown.ron|TeX.bbx|TeX.bib|TeX.cbx|TeX.dtx|TeX.ins|TeX.lbx|TeX.mkii|TeX.mkiv|TeX.mkvi|TeX.sty|TeX.tex"
)
_NO_ALPHANUMERIC_LIMIT = "SAS.sas|Mathematica.ma|Mathematica.nb|Visual Basic 6.0.frm"
_ALPHABETIC_QUARTER = (
    "Ada.ads|Augeas.aug|GLSL.fp|Maple.mpl|Mathematica.ma|Mathematica.nb|Mathematica.wl|MATLAB.matlab|Scheme.scm|Scheme.sld|"
    "Scheme.sps|SQL.prc|SystemVerilog.sv|VHDL.vhd|Visual Basic 6.0.bas|Yacc.y"
)
_BY_EXTENSION, _ALNUM, _ALPHA = _LANGUAGE_AND_EXTENSION, "alphanumeric_fraction", "alphabetic_fraction"

_STARCODER = Policy(
    "starcoder",
    "Li et al., StarCoder, arXiv:2305.06161, section 3; by language and extension: bigcode-dataset, preprocessing/filtering.py "
    "and visual_inspection.csv; sizes of JSON and YAML as in the paper",
    (
        Clause(_one_of(_LANGUAGE, _STARCODER_LANGUAGES), "languages", "code_shape", ()),
        Clause(f"not ({_one_of(_BY_EXTENSION, _LEFT_OUT)})", "extensions", "code_shape", ()),
        _but_where(_BY_EXTENSION, _NO_LINE_LIMIT, "max_line_length <= 1000", "longest line", "code_shape", "max_line_length"),
        _but_where(_BY_EXTENSION, _NO_LINE_LIMIT, "mean_line_length <= 100", "mean line", "code_shape", "mean_line_length"),
        _where(_BY_EXTENSION, "GLSL.fsh", "max_line_length <= 500", "longest line of a shader", "code_shape", "max_line_length"),
        _but_where(_BY_EXTENSION, _NO_ALPHANUMERIC_LIMIT, f"{_ALNUM} >= 0.25", "letters and digits", "code_shape", _ALNUM),
        _where(_BY_EXTENSION, _ALPHABETIC_QUARTER, f"{_ALPHA} >= 0.25", "letters", "code_shape", _ALPHA),
        _where(_LANGUAGE, "JSON|YAML", f"{_ALPHA} >= 0.5", "letters in data", "code_shape", _ALPHA),
        _but_where(_LANGUAGE, "XSLT", "not has_xml_head", "no XML", "code_head", "has_xml_head"),
        _where(
            _LANGUAGE, "HTML", "(html_visible_fraction > 0.2 and html_visible_chars > 100)", "visible text", "code_html", *_HTML
        ),
        _where(_LANGUAGE, "JSON|YAML", "n_chars between 50 and 5000", "size of data", "code_shape"),
    ),
    beyond="the table lists 267 pairs of language and extension: of the languages in it, only extensions it marks as left out go "
    "here; near-duplicates, opt-out, benchmarks and personal data are steps of their own",
)

_SANTACODER = "Allal et al., SantaCoder, arXiv:2301.03988, section 4.1, and bigcode-dataset, preprocessing/filtering.py"
_FERTILITY = " ".join(
    f"when '{language}' then n_chars >= {least} * greatest(n_tokens - 1, 1)"
    for language, least in (("Python", 2.5), ("Java", 2.9), ("JavaScript", 2.6))
)
_COMMENTS = Policy(
    "santacoder-comments",
    _SANTACODER,
    (
        Clause(_one_of(_LANGUAGE, "Python|Java|JavaScript"), "languages", "code_comments", ()),
        *conditions("code_comments", ("comment_fraction", "> 0.01", "some comments"), ("comment_fraction", "< 0.8", "some code")),
    ),
    beyond="counts docstrings without their indentation and Python's comments without #; here both are counted as they stand",
)
_TOKENS = Policy(
    "santacoder-fertility",
    _SANTACODER,
    (
        Clause(
            f"(case {_LANGUAGE} {_FERTILITY} else false end)", "characters a token", "tokens", ("n_tokens",),
            how="`tokenizer=Bpe(...)` to the arguments",
        ),
    ),
    beyond="the thresholds are for SantaCoder's tokenizer of 49,152 tokens; n_tokens are those of the corpus' own",
)  # fmt: skip

CODE_POLICIES = (_STACK_V2, _STARCODER, _COMMENTS, _TOKENS)
