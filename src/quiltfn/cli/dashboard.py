"""`quiltfn open`: the dashboard in a browser."""

import os
import sys
import webbrowser
from typing import Annotated
from urllib.parse import quote

from quiltfn.cli import show
from quiltfn.cli.parsing import Argument
from quiltfn.cli.session import Connection


def open(  # shadows the built-in, to be named like the command
    name_or_id: Annotated[
        str | None,
        Argument(
            metavar="NAME_OR_ID",
            help="Function to open (default: the list of functions).",
            completes="function",
        ),
    ] = None,
    *,
    connection: Connection,
) -> None:
    """Open the dashboard or a function's page in a browser, and print its address.

    Without a display, only print the address. The page asks for a key itself.
    """
    with connection.session(name_or_id) as at:
        address = f"{at.address}/ui/"
        if name_or_id is not None:
            address += f"#/functions/{quote(at.client.functions.get(name_or_id).id, safe='')}"
        at.print(address, show.encoded({"url": address}), show.say)
        if has_display() and not webbrowser.open(address):
            show.note("no browser could be opened: copy the address into your browser")


def has_display() -> bool:
    """Whether a browser can open a window; a browser in the terminal does not count."""
    if sys.platform in ("darwin", "win32"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
