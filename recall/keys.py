"""recall keys new: keys of the API, of which the service gets the hash alone."""

from typing import Annotated

import typer

from recall.options import StrictCommand
from recall.terminal import err, last_line
from service.access.keys import Scope, new_key

keys = typer.Typer(no_args_is_help=True, help="Keys of the service's API: `recall serve --api-keys-file FILE`.")


@keys.command(cls=StrictCommand)
def new(
    name: Annotated[str, typer.Argument(help="Name of its holder; it stands in metrics.")],
    scope: Annotated[list[Scope], typer.Option(help="The right that it gives; may be repeated.")],
    rate: Annotated[
        float | None, typer.Option(help="Most requests a second; more get 429. Default: no limit but the service's.")
    ] = None,
) -> None:
    """Make a key.

    Nothing is stored. The last line is JSON: the key, for its holder, and the line for the service's file of keys,
    which holds its hash.
    """
    secret, key = new_key(name, scope, rate)
    err.print(f"the key of {name}: give it to its holder, it is shown this once; the line goes into the service's file")
    last_line({"key": secret, "line": key.line})
