"""The ``hubstate`` command. Each subcommand's module is imported when it is called, not before.

Exit codes: 0 done; 1 failed (of diff: they differ); 2 the call or a reference is off; 3 not found;
4 model and weights differ; 5 damaged bytes; 6 not reachable or offline; 7 somebody else was first;
8 the gate refused; 130 interrupted, 143 by SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NoReturn

import click

from hubstate.blobs import describe_error
from hubstate.cli.output import frozen, printable
from hubstate.errors import GateRefused, HubstateError, StructureMismatch

__all__ = ["cli", "main"]

_COMMANDS = {
    "bundle": "Carry what a lock file pins across an air gap, in one tar file.",
    "cache": "List, verify, prune and remove what is cached.",
    "diff": "Compare two releases or weights files, tensor by tensor.",
    "export": "Write the weights of a release in another format.",
    "fetch": "Download a release, verified, and say where it is.",
    "import": "Bring weights from .pth, .npz, HDF5, Flax or Julia.",
    "lock": "Pin the releases that a project uses, in a file.",
    "models": "List the models that can be built, and their known weights.",
    "publish": "Publish a model as one release, after it passed the gate.",
    "show": "Show what a release or a weights file holds.",
    "warm": "Fill a cache ahead of time, and prove that it is full.",
}


class _LazyGroup(click.Group):
    """A group that knows its commands' names and first lines without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"hubstate.cli.{cmd_name}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(_COMMANDS.items()))


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hubstate")
@frozen
def cli() -> None:
    """Publish and fetch pretrained PyTorch weights, with an account of every tensor.

    \b
    Example:
      hubstate publish org/name --builder resnet18 --weights model.safetensors --license mit
      hubstate fetch org/name@main

    HUBSTATE_REGISTRY names the registry (a folder or a URL), HUBSTATE_CACHE the cache folders,
    HUBSTATE_OFFLINE=1 forbids every request.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    words = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in words
    try:
        with _terminable():
            code = cli.main(words, prog_name="hubstate", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except StructureMismatch as error:
        _report(error, error.tell(rest="--json lists all of them"), as_json=as_json)
        sys.exit(error.exit_code)
    except HubstateError as error:
        _report(error, str(error), as_json=as_json)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _report(error, error.format_message(), as_json=True) if as_json else error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt) as error:
        _interrupted(error.__cause__ or error)
    except RuntimeError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Python 3.11 wraps one in a class body
            _interrupted(error.__cause__)
        raise
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:
        _report(error, describe_error(error), as_json=as_json)
        sys.exit(1)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Heed SIGTERM, which the first process of a container does not unless it says so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> NoReturn:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(error: BaseException) -> NoReturn:
    click.echo("interrupted: nothing was left half-written", err=True)
    sys.exit(143 if isinstance(error, _Terminated) else 130)


def _report(error: Exception, message: str, *, as_json: bool) -> None:
    if not as_json:
        click.echo(f"error: {printable(message)}", err=True)
        return
    body: dict[str, object] = {"kind": type(error).__name__, "message": message}
    if isinstance(error, StructureMismatch):
        body["issues"] = [issue._asdict() for issue in error.issues]
    if isinstance(error, GateRefused):
        body["problems"] = list(error.problems)
    with contextlib.suppress(OSError):  # what went wrong may be that nothing can be printed
        click.echo(json.dumps({"error": body}, indent=2))
