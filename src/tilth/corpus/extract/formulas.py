"""Puts the formulas of a page into its text as LaTeX between dollar signs, where the reader sees them.

Sources of LaTeX, the better first (those of OpenWebMath, arXiv:2310.06786, section 3.1): the TeX annotation or `alttext`
of MathML (MathML 3, 5.1), the scripts of MathJax 2, the delimiters of MathJax and KaTeX, `alt` texts and URLs of
images that were set from LaTeX. MathML without any is set as LaTeX by rule, for the elements that schools use. AsciiMath
stays what it is, between the backticks that it is written in on other pages.
"""

from __future__ import annotations

import html as entities
import re
from typing import Any
from urllib.parse import unquote_plus

HINT = re.compile(
    r"<(?:\w+:)?math\b|math/(?:tex|asciimath|mml)|katex|mathjax|mwe-math|\\\(|\\\[|latex|mathtex"
    r"|class=[\"']?(?:[^\"'<>]{0,80}\s)?(?:tex|math|texrender|equation_image|ql-img)\b", re.I
)  # fmt: skip
MATHML, ANNOTATIONS = (", ".join(f"{prefix}{name}" for prefix in ("", "m\\:", "mml\\:")) for name in ("math", "annotation"))
TEX_TYPES = re.compile(r"(?:application|text)/x-(?:tex|latex)|latex|tex", re.I)
IMAGE_CLASSES = re.compile(
    r"(?:^|\s)(?:latex|tex|math|mwe-math-fallback-image-\w+|texrender|equation_image|ql-img-\w+)(?:\s|$)", re.I
)
IMAGE_URLS = re.compile(
    r"(?:latex\.codecogs\.com/\w+(?:\.\w+)?|/latex\.php|/mathtex\.cgi|/mimetex\.cgi|/texify\.php|chart\.\w+\.com/chart\?cht=tx)",
    re.I,
)
DISPLAY_STYLE = re.compile(r"^\{?\\(?:displaystyle|textstyle)\s*(.*?)\}?$", re.S)
RENDERED = (
    ".katex-html, .MathJax_Preview, .MathJax_Display, .MathJax, .MathJax_SVG, .MathJax_CHTML, .mjx-chtml, .MJXc-display, "
    ".MJX_Assistive_MathML"
)
DELIMITED = re.compile(r"\\\((?P<inline>(?:(?!\\\().){1,2000}?)\\\)|\\\[(?P<display>(?:(?!\\\[).){1,5000}?)\\\]", re.S)
OPERATORS = {
    "×": r"\times", "·": r"\cdot", "⋅": r"\cdot", "÷": r"\div", "±": r"\pm", "≤": r"\le", "≥": r"\ge", "≠": r"\ne",
    "≈": r"\approx", "∞": r"\infty", "∑": r"\sum", "∏": r"\prod", "∫": r"\int", "→": r"\to", "⇒": r"\Rightarrow", "∈": r"\in",
    "∂": r"\partial",
    "−": "-", "⁡": "", "⁢": " ", "⁣": "", "{": r"\{", "}": r"\}", "α": r"\alpha", "β": r"\beta", "γ": r"\gamma",
    "δ": r"\delta", "ε": r"\epsilon", "θ": r"\theta", "λ": r"\lambda", "μ": r"\mu", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma",
    "φ": r"\phi", "ω": r"\omega", "Δ": r"\Delta", "Σ": r"\Sigma", "Ω": r"\Omega", "∇": r"\nabla", "√": r"\surd", "…": r"\dots",
}  # fmt: skip
FUNCTIONS = re.compile(r"sin|cos|tan|cot|sec|csc|log|ln|exp|lim|max|min|det|dim|ker|arg|deg|gcd|sup|inf")
MAX_MATHML_DEPTH = 60


def has_formulas(html: str) -> bool:
    """Whether a page may have formulas: a cheap look that passes every page without over."""
    return HINT.search(html) is not None


def mark_formulas(tree: Any) -> int:
    """Replace the formulas of a parsed page by their LaTeX, in place; returns how many there were."""
    document = tree.document
    n_found = 0
    for node in document.query_selector_all("script"):
        kind = (node.getattr("type") or "").lower()
        if kind.startswith("math/tex"):
            n_found += _replace(tree, _host(node), entities.unescape(node.text), "display" in kind)
        elif kind.startswith("math/asciimath"):
            n_found += _put(tree, _host(node), f"`{' '.join(entities.unescape(node.text).split())}`")
        elif kind.startswith("math/mml"):
            n_found += _replace_mathml(tree, _host(node), type(tree).parse(node.text).document.query_selector("math"))
    for node in document.query_selector_all(MATHML):
        n_found += _replace_mathml(tree, _host(node), node)
    for node in document.query_selector_all("img"):
        if tex := image_tex(node.getattr("class") or "", node.getattr("src") or "", node.getattr("alt") or ""):
            n_found += _replace(tree, node, tex, display=False)
    for node in document.query_selector_all(RENDERED):
        if node.parent is not None:
            node.parent.remove_child(node)
    return n_found


def image_tex(classes: str, src: str, alt: str) -> str | None:
    """The LaTeX of an image that was set from it; None for any other image."""
    if IMAGE_URLS.search(src):
        return alt if "\\" in alt or "^" in alt or "_" in alt else unquote_plus(src.partition("?")[2]).removeprefix("cht=tx&chl=")
    return alt or None if IMAGE_CLASSES.search(classes) else None


def dollars(text: str) -> str:
    r"""`\(..\)` and `\[..\]` of running text as `$..$` and `$$..$$`."""

    def change(match: re.Match[str]) -> str:
        return _wrapped(match["inline"] or match["display"], match["display"] is not None)

    return DELIMITED.sub(change, text) if "\\(" in text or "\\[" in text else text


def mathml_tex(node: Any, depth: int = 0) -> str:
    """Presentation MathML as LaTeX, by the elements of MathML 3, chapter 3; what is unknown gives its parts."""
    if depth > MAX_MATHML_DEPTH:
        return ""
    name = (node.tag or "").lower().rpartition(":")[2]
    if name in ("mi", "mn", "mo", "mtext", "ms"):
        return _token(name, node.text.strip())
    parts = [mathml_tex(child, depth + 1) for child in node.child_nodes if child.tag and child.tag[0] not in "#"]
    parts = [*parts, "", "", ""]
    match name:
        case "mfrac":
            return rf"\frac{{{parts[0]}}}{{{parts[1]}}}"
        case "msqrt":
            return rf"\sqrt{{{' '.join(parts).strip()}}}"
        case "mroot":
            return rf"\sqrt[{parts[1]}]{{{parts[0]}}}"
        case "msup" | "mover":
            return f"{_group(parts[0])}^{{{parts[1]}}}"
        case "msub" | "munder":
            return f"{_group(parts[0])}_{{{parts[1]}}}"
        case "msubsup" | "munderover":
            return f"{_group(parts[0])}_{{{parts[1]}}}^{{{parts[2]}}}"
        case "mtr":
            return " & ".join(part for part in parts if part)
        case "mtable":
            return r"\begin{matrix} " + r" \\ ".join(part for part in parts if part) + r" \end{matrix}"
        case "annotation" | "annotation-xml":
            return ""
    return " ".join(part for part in parts if part)


def _token(name: str, text: str) -> str:
    if name == "mtext":
        return rf"\text{{{text}}}" if text else ""
    if FUNCTIONS.fullmatch(text):
        return f"\\{text}"
    return OPERATORS.get(text, text)


def _group(tex: str) -> str:
    return tex if len(tex) == 1 or (tex.startswith("\\") and tex[1:].isalpha()) else f"{{{tex}}}"


def _replace_mathml(tree: Any, host: Any, node: Any) -> int:
    if node is None:
        return 0
    tex = next(
        (
            note.text
            for note in node.query_selector_all(ANNOTATIONS)
            if TEX_TYPES.fullmatch((note.getattr("encoding") or "").strip())
        ),
        "",
    )
    tex = tex.strip() or (node.getattr("alttext") or "").strip() or mathml_tex(node)
    return _replace(tree, host, tex, node.getattr("display") == "block" or "mode=display" in (node.getattr("mode") or ""))


def _host(node: Any) -> Any:
    """The outermost element that stands for one formula: MediaWiki and KaTeX keep its picture beside its MathML."""
    host, above = node, node.parent
    for _ in range(6):
        if above is None or above.tag in (None, "body", "html", "p", "td", "li"):
            break
        classes = above.getattr("class") or ""
        if (
            re.search(r"(?:^|\s)(?:mwe-math-element\S*|katex|katex-display|MathJax\S*)(?:\s|$)", classes)
            or above.tag == "mjx-container"
        ):
            host = above
        above = above.parent
    return host


def _replace(tree: Any, node: Any, tex: str, display: bool) -> int:
    return _put(tree, node, _wrapped(tex, display or "katex-display" in (node.getattr("class") or "")))


def _put(tree: Any, node: Any, text: str) -> int:
    if node.parent is None or not text or node.parent.tag == "head":
        return 0
    node.parent.replace_child(tree.create_text_node(text), node)
    return 1


def _wrapped(tex: str, display: bool) -> str:
    tex = " ".join(tex.split()).strip("$").strip()
    if match := DISPLAY_STYLE.match(tex):
        inner = match[1].strip()
        tex = inner if inner.count("{") == inner.count("}") else tex
    if not tex:
        return ""
    return f"$${tex}$$" if display else f"${tex}$"
