"""Arguments and options that verbs on the user's own files share."""

from __future__ import annotations

import click

FILES = click.argument("files", nargs=-1, required=True, metavar="FILES...")
TEXT = click.option("--text", metavar="FIELD", help="The field or column of the text, where it is not told by the layout.")
ID = click.option("--id", "id_field", metavar="FIELD", help="The field or column of the document's id.")
COUNTS = click.option("--json", "as_data", is_flag=True, help="The counts as JSON.")
DEBUG = click.option("--debug", is_flag=True, help="Show tracebacks.")
