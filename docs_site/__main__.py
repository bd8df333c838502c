"""`python -m docs_site [FOLDER]`: builds the site below FOLDER (build/docs). Exit code 1 if anything on it is wrong."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from docs_site.check import problems
from docs_site.stage import ROOT, DeadLink, configure, stage


def build(folder: Path) -> Path:
    """Builds below `folder`, which is emptied before, and gives the site's own folder. DeadLink, CalledProcessError."""
    shutil.rmtree(folder, ignore_errors=True)
    config = configure(folder, stage(folder / "docs"))
    program = Path(sys.executable).parent / "zensical"
    command = [str(program), "build", "--strict", "--config-file", str(config)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if done.returncode:
        print(done.stdout + done.stderr, file=sys.stderr)
        done.check_returncode()
    return folder / "site"


def main(folder: Path) -> int:
    try:
        site = build(folder)
    except DeadLink as error:
        print(f"make docs: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError:
        print("make docs: the site was not built: see above", file=sys.stderr)
        return 1
    wrong = problems(site)
    for line in wrong:
        print(f"make docs: {line}", file=sys.stderr)
    if not wrong:
        print(f"{site / 'index.html'}")
    return min(len(wrong), 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "docs"))
