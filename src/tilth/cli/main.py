"""The command `tilth`: finds the verb, and turns every error into three lines and an exit code."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click

import tilth
from tilth.cli import (
    code_verbs,
    corpus_verbs,
    dedup_verbs,
    distill_verbs,
    evaluate_verbs,
    foreign_verbs,
    forget_verbs,
    look_verbs,
    model_verbs,
    overlap_verbs,
    replay_verbs,
    score_verbs,
    serve_verbs,
)  # fmt: skip
from tilth.errors import TilthError, UserError, did_you_mean

STOPPED = 130


class Verbs(click.Group):
    """A group that answers an unknown verb with the nearest one, and lists verbs in the order of the work."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """As click does, with a better word for a typo."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise click.UsageError(f"There is no verb `{args[0]}`. {did_you_mean(args[0], self.commands)}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In order of definition."""
        return list(self.commands)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(tilth.__version__, prog_name="tilth")
def cli() -> None:
    """Build a corpus, query it, curate it, train on it, deploy one bit per weight, trace every token."""


for verb in (
    corpus_verbs.new,
    corpus_verbs.build,
    corpus_verbs.sql,
    corpus_verbs.pick,
    corpus_verbs.notice,
    model_verbs.train,
    distill_verbs.distill,
    evaluate_verbs.evaluate,
    model_verbs.deploy,
    serve_verbs.serve,
    replay_verbs.replay,
    model_verbs.trace,
    foreign_verbs.import_hf,
    foreign_verbs.export_hf,
    foreign_verbs.import_delta,
    model_verbs.why,
    score_verbs.score,
    score_verbs.fit,
    dedup_verbs.dedup,
    overlap_verbs.decontaminate,
    code_verbs.swhid,
    forget_verbs.forget,
    look_verbs.report,
    look_verbs.explain,
    look_verbs.ls,
    look_verbs.show,
    look_verbs.check,
):
    cli.add_command(verb)


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and exit: 0 done, 1 the work failed, 2 it cannot be as asked, 130 stopped."""
    gc.set_threshold(100_000)  # what imports leave lives on: to look through it time and again is an eighth of a start
    debug = "--debug" in (sys.argv if arguments is None else arguments) or bool(os.environ.get("TILTH_DEBUG"))
    try:
        code = cli.main(arguments, prog_name="tilth", standalone_mode=False)
    except click.ClickException as error:
        print(f"error: {_in_words(error)}", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("\nstopped; what is finished is kept, and the same command resumes", file=sys.stderr)
        code = STOPPED
    except TilthError as error:
        print(f"error: {error}", file=sys.stderr)
        _keep_traceback(debug)
        code = error.exit_code
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        kept = _keep_traceback(debug) or "`--debug` shows where"
        defect = TilthError(f"{type(error).__name__}: {error}", str(kept), "This is a defect of Tilth; please report it.")
        print(f"error: {defect}", file=sys.stderr)
        code = 1
    gc.freeze()  # nor does looking through it all free anything that the end of the process does not
    sys.exit(code if isinstance(code, int) else 0)


def _in_words(error: click.ClickException) -> UserError:
    """What click says of the words that were typed, in our three lines."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "tilth"
    return UserError(error.format_message(), command, f"`{command} --help` lists what can be typed.")


def _keep_traceback(debug: bool) -> Path | None:
    """Write the traceback to `.tilth/log/last.txt`; print it as well with --debug."""
    text = traceback.format_exc()
    if debug:
        print(text, file=sys.stderr)
    log = Path.cwd() / ".tilth" / "log"
    if not (Path.cwd() / ".tilth").is_dir():
        return None
    try:
        log.mkdir(exist_ok=True)
        (log / "last.txt").write_text(text)
    except OSError:
        return None
    return log / "last.txt"
