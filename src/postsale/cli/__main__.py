"""`python -m postsale.cli`: the command line without an installed script."""

from postsale.cli import main

main()
