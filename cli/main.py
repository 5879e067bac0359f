"""The program `hybridsearch`: its verbs, the options they share, and the end of every error."""

import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hybridsearch import __version__
from hybridsearch.cli import bench, doctor, export, pareto, resume, search, show, spaces, status, table, train, ui
from hybridsearch.cli.session import DEFAULT_ROOT, Session
from hybridsearch.errors import HybridSearchError, InvalidSetting

WITH_VALUE = ("--root", "--store", "--tracking")
FLAGS = ("-v", "--verbose", "-q", "--quiet")
UsageError: type[Exception] = typer.BadParameter.__bases__[0]
"""What typer raises for a wrong command line; where its class lives depends on typer's version."""

PLAIN = (
    ("Value error, ", ""),
    ("Input should be greater than or equal to", "must be at least"),
    ("Input should be less than or equal to", "must be at most"),
    ("Input should be a valid integer, .*", "expected a whole number"),
    ("Input should be a valid number, .*", "expected a number"),
)
"""What typer's checks of values say, and the same in plain words."""

app = typer.Typer(
    name="hybridsearch",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
app.command("search", short_help="Start a search, from a preset or a YAML file.", epilog=search.EXAMPLES)(search.search)
app.command("resume", short_help="Go on with a study, also after a crash.", epilog=resume.EXAMPLES)(resume.resume)
app.command("status", short_help="List the studies, or show how one stands.", epilog=status.EXAMPLES)(status.status)
app.command("pareto", short_help="Show the front of a study.", epilog=pareto.EXAMPLES)(pareto.pareto)
app.command("export", short_help="Write an architecture of a study as YAML.", epilog=export.EXAMPLES)(export.export)
app.command("train", short_help="Train an architecture on text, and let it write.", epilog=train.EXAMPLES)(train.train)
app.add_typer(spaces.app, name="spaces", short_help="List, show, check and sample search spaces.")
app.add_typer(table.app, name="table", short_help="Build and show tables of finished trainings.")
app.command("bench", short_help="Measure throughput of architectures side by side.", epilog=bench.EXAMPLES)(bench.bench)
app.command("doctor", short_help="Check what works on this machine.", epilog=doctor.EXAMPLES)(doctor.doctor)
app.command("ui", short_help="Serve MLflow's pages of the studies.", epilog=ui.EXAMPLES)(ui.ui)


def _version(asked: bool) -> None:
    if asked:
        show.line(f"hybridsearch {__version__}")
        raise typer.Exit


EXAMPLES = show.examples(
    "hybridsearch doctor",
    "hybridsearch search quickstart",
    "hybridsearch status quickstart",
    "hybridsearch export quickstart --pick knee --out best.yaml",
    "hybridsearch train best.yaml --data book.txt",
)


@app.callback(epilog=EXAMPLES)
def options(
    context: typer.Context,
    root: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", envvar="HYBRIDSEARCH_ROOT", help="Folder of the store, of MLflow and of every study."
        ),
    ] = DEFAULT_ROOT,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL", envvar="HYBRIDSEARCH_STORE", help="Database URL; default: a SQLite file in the root."
        ),
    ] = None,
    tracking: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow tracking URI, or `none`; default: a SQLite file in the root."),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks of errors.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show results only, no progress.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Search for hybrid linear/full-attention language models: recall against measured throughput.

    The options below may stand before or after a verb.
    """
    if tracking not in (None, "none"):
        from hybridsearch.reporting import mlflow_places

        mlflow_places.check(str(tracking))
    context.obj = Session(root=root, store=store, tracking=tracking, verbose=verbose, quiet=quiet)


def main() -> None:
    """Run the command line of this process, and end with its exit code."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: `hybridsearch status >&-`
            setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115 - as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):  # a description may hold letters that the terminal's encoding has not
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run a command line.

    Returns:
        0; 1 for an unexpected error; 2 for wrong input; 3 when nothing meets the constraints; 130 when interrupted.
    """
    verbose = "-v" in arguments or "--verbose" in arguments
    try:
        shared, rest = hoist(arguments)
        code = app(args=[*shared, *rest], prog_name="hybridsearch", standalone_mode=False)
        sys.stdout.flush()
    except UsageError as error:
        return _usage(error)
    except HybridSearchError as error:
        return _explain(str(error), error.exit_code, verbose)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except BrokenPipeError:  # the reader, `head` for instance, has enough
        _write_nowhere()
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC or error.filename is not None:
            return _unexpected(error, verbose)
        _write_nowhere()
        return _explain(
            "the disk that standard output goes to is full; free some space, or write elsewhere", 1, verbose
        )
    except Exception as error:
        return _unexpected(error, verbose)
    return code if isinstance(code, int) else 0


def _unexpected(error: Exception, verbose: bool) -> int:
    text = f"unexpected {type(error).__name__}: {error}"
    return _explain(text if verbose else f"{text}; run again with -v", 1, verbose)


def _write_nowhere() -> None:
    """What is still buffered for standard output is dropped: Python must not complain when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def hoist(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The shared options, wherever they stand, and everything else.

    Raises:
        InvalidSetting: a value is missing.
    """
    shared: list[str] = []
    rest: list[str] = []
    left = list(arguments)
    while left:
        word = left.pop(0)
        if word == "--":
            rest += [word, *left]
            break
        if word in WITH_VALUE:
            if not left:  # said here: at its place before the verb it would take the verb for its value
                raise InvalidSetting(f"option {word} needs a value; see `hybridsearch --help`")
            shared += [word, left.pop(0)]
        elif word in FLAGS or word.startswith(tuple(f"{option}=" for option in WITH_VALUE)):
            shared.append(word)
        else:
            rest.append(word)
    return shared, rest


def _usage(error: Exception) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        show.note(context.get_help() if context else str(error))
        return 2
    text = str(getattr(error, "format_message", lambda: str(error))())
    for words, plain in PLAIN:
        text = re.sub(words, plain, text)
    where = f"; see `{context.command_path} --help`" if context else ""
    show.failure(text.rstrip(".") + where)
    return 2


def _explain(text: str, code: int, verbose: bool) -> int:
    if verbose:
        import traceback

        traceback.print_exc()
    show.failure(text)
    return code
