"""One self-contained HTML file about a store: what came in, what was kept and why, what was trained on it."""

from tilth.report.write import write_report

__all__ = ["write_report"]
