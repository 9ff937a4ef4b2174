"""The command line. Every command is a thin reader or writer over `postsale.app`; nothing is decided here."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run the command line; errors of ours become one readable line and a documented exit status."""
    from rich.markup import escape

    from postsale.cli.commands import app
    from postsale.cli.common import err, imported
    from postsale.cli.exits import status_of
    from postsale.errors import PostSaleError

    try:
        for module in filter(None, os.environ.get("POSTSALE_IMPORT", "").split(",")):
            imported(module.strip())  # declares the user's own kinds of signal
        app()
    except PostSaleError as error:
        err.print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True)
        sys.exit(status_of(error))
    except BrokenPipeError:
        sys.exit(0)
