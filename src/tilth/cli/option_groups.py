"""Options under headings: a verb with many is read heading by heading, and says for each to what it applies."""

from __future__ import annotations

from typing import Any

import click


class GroupedOption(click.Option):
    """An option that stands under `group` in the help of a GroupedCommand."""

    def __init__(self, *arguments: Any, group: str = "", **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.group = group


class GroupedCommand(click.Command):
    """A command whose help lists options by their groups, in the order in which these first appear."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does, a heading for each group; options without one stand under `Options`, at the end."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            shown = parameter.get_help_record(ctx)
            if shown is not None and isinstance(parameter, click.Option):
                groups.setdefault(getattr(parameter, "group", ""), []).append(shown)
        for name in sorted(groups, key=lambda name: not name):  # stable: the nameless one last
            with formatter.section(name or "Options"):
                formatter.write_dl(groups[name])


def option(*names: str, group: str, **settings: Any) -> Any:
    """`click.option` under the heading `group`."""
    return click.option(*names, cls=GroupedOption, group=group, **settings)
