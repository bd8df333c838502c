"""`python -m perdure`: the `perdure` command."""

from perdure.cli import main

main()
