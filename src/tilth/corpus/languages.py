"""Names a file's programming or markup language by its name, for the languages that are common in source trees."""

from __future__ import annotations

NAMES = {
    "Assembly": "asm s", "Batchfile": "bat cmd", "C": "c", "C#": "cs", "C++": "cc cpp cxx hpp hh hxx", "C header": "h",
    "CMake": "cmake", "CSS": "css", "CUDA": "cu cuh", "Clojure": "clj", "Cython": "pyx pxd pxi", "D": "d", "Dart": "dart",
    "Elixir": "ex exs", "Elm": "elm", "Erlang": "erl hrl", "F#": "fs fsi", "Fortran": "f f90 f95 for", "GLSL": "glsl vert frag",
    "Go": "go", "Groovy": "groovy gradle", "HTML": "html htm xhtml", "Haskell": "hs", "INI": "ini cfg", "JSON": "json",
    "Java": "java", "JavaScript": "js mjs cjs jsx", "Julia": "jl", "Kotlin": "kt kts", "Less": "less", "Lua": "lua",
    "Markdown": "md markdown", "Nim": "nim", "Nix": "nix", "OCaml": "ml mli", "Objective-C": "m mm", "PHP": "php",
    "Perl": "pl pm", "PowerShell": "ps1 psm1", "Protocol Buffer": "proto", "Python": "py pyi pyw", "R": "r", "Ruby": "rb gemspec",
    "Rust": "rs", "SCSS": "scss", "SQL": "sql", "SVG": "svg", "Scala": "scala", "Scheme": "scm", "Shell": "sh bash zsh",
    "Swift": "swift", "TOML": "toml", "TeX": "tex sty cls", "Text": "txt", "TypeScript": "ts tsx", "Verilog": "v sv",
    "VimL": "vim", "Vue": "vue", "XML": "xml xsd xsl", "YAML": "yml yaml", "Zig": "zig", "reStructuredText": "rst",
}  # fmt: skip
BY_EXTENSION = {extension: name for name, extensions in NAMES.items() for extension in extensions.split()}
BY_NAME = {
    "makefile": "Makefile",
    "gnumakefile": "Makefile",
    "dockerfile": "Dockerfile",
    "cmakelists.txt": "CMake",
    "rakefile": "Ruby",
}


def language_of(path: str) -> str | None:
    """The language that a path's last part tells, or None."""
    name = path.replace("\\", "/").rpartition("/")[2].lower()
    stem, dot, extension = name.rpartition(".")
    return BY_NAME.get(name) or (BY_EXTENSION.get(extension) if dot and stem else None)
