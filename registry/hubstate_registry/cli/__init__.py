"""The command line: ``hubstate-registry serve DIR`` and what an operator needs beside it."""

from __future__ import annotations

import click
from sqlalchemy.exc import DatabaseError

from hubstate_registry import __version__
from hubstate_registry.cli.people import org, token, user
from hubstate_registry.cli.serve import serve
from hubstate_registry.cli.upkeep import backup, fsck, gc, import_folder, log
from hubstate_registry.errors import RegistryError

__all__ = ["main"]


class Commands(click.Group):
    """A group whose commands end with one line, not a traceback, when they are refused."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except RegistryError as error:
            raise click.ClickException(error.message) from error
        except BrokenPipeError:
            raise  # whoever read the output has seen enough
        except (OSError, DatabaseError) as error:
            raise click.ClickException(str(getattr(error, "orig", error))) from error


@click.group(cls=Commands)
@click.version_option(__version__, prog_name="hubstate-registry")
def main() -> None:
    """Run a model registry that stock Hugging Face clients publish to and fetch from.

    Every command takes the registry's folder, DIR, and may run while the server does.

    \b
    Example:
      hubstate-registry serve /srv/models --host 0.0.0.0 --port 8080
      hubstate-registry user add /srv/models ada
      hubstate-registry token create /srv/models ada --scope '*=write'
    """


for command in (serve, user, org, token, fsck, gc, backup, import_folder, log):
    main.add_command(command)
