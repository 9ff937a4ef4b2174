"""The command line. Every command is a thin reader or writer over `postsale.app`; nothing is decided here."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; errors of ours become one readable line and a documented exit status."""
    from postsale.cli.commands import app
    from postsale.cli.common import err, status_of
    from postsale.errors import PostSaleError

    try:
        app()
    except PostSaleError as error:
        err.print(f"[bold red]{type(error).__name__}[/]: {error}", markup=True, soft_wrap=True)
        sys.exit(status_of(error))
    except BrokenPipeError:
        sys.exit(0)
