"""What commands have in common in their help: options, and the exit codes at its end."""

from __future__ import annotations

from typing import Annotated

import typer

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted."

JsonOption = Annotated[bool, typer.Option("--json", help="For programs.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
LimitOption = Annotated[int, typer.Option(min=1, max=10_000, help="How many at most.")]
