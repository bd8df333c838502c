"""Where each page stands in the navigation. A page that is not named here still gets in, at the end."""

from __future__ import annotations

from collections.abc import Iterable

GROUPS: dict[str, tuple[str, ...]] = {
    "Start": ("index.md", "quickstart.md", "from-a2a-sdk.md", "from-bindu.md", "from-celery.md"),
    "Write an agent": (
        "agents.md",
        "testing.md",
        "cards.md",
        "adapters.md",
        "webhooks.md",
        "several-agents.md",
    ),
    "Operate": (
        "deploy.md",
        "operating.md",
        "runbook.md",
        "tracing.md",
        "cli.md",
        "configuration.md",
        "security.md",
        "limits.md",
        "retention.md",
        "faults.md",
        "redis.md",
        "performance.md",
    ),
    "What holds": ("guarantees.md", "chaos.md", "conformance.md"),
    "Reference": ("api.md", "errors.md", "extension.md", "skill-inputs.md"),
    "How it is made": ("architecture.md", "contributing.md", "changelog.md", "reporting.md"),
}
DECISIONS, SOURCES = "decisions/", "source/"


def navigation(pages: Iterable[str]) -> dict[str, list[str]]:
    """The groups with the pages that are there. `pages` are paths below the site's root, as `decisions/002-asyncpg.md`.

    Shown sources are reached by the links to them; they have no place of their own.
    """
    there = {page for page in pages if not page.startswith(SOURCES)}
    decisions = sorted(page for page in there if page.startswith(DECISIONS))
    groups = {title: [page for page in named if page in there] for title, named in GROUPS.items()}
    rest = there.difference(decisions, *groups.values())
    groups["How it is made"] += sorted(rest)
    # The one that says what a decision is comes first.
    groups["Decisions"] = sorted(decisions, key=lambda page: (not page.endswith("README.md"), page))
    return groups
