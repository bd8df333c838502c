"""Pictures of each page for the docs, of a stack with an hour behind it: `make screenshots`."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode

from playwright.sync_api import Browser

from perdure.local import local_services
from tests.browser.conftest import AGENT, opened_browser, opened_stack
from tests.e2e.conftest import Stack, until
from tests.support.processes import ROOT, Server, sending

IMAGES = ROOT / "docs" / "images"
CITIES = ("Paris", "Oslo", "Lisbon", "Kyoto", "Lima", "Cairo", "Quito")

# As if it had happened all through the last hour.
_SPREAD = """
UPDATE tasks SET status_timestamp = status_timestamp - shift.by, created_at = status_timestamp - shift.by - shift.run - shift.wait
  FROM (SELECT task_id, make_interval(secs => 3500 * power(random(), 0.8)) AS by,
               make_interval(secs => 0.4 + random() * random() * 9) AS run,
               make_interval(secs => 0.01 + random() * random() * 0.4) AS wait FROM tasks) shift
 WHERE tasks.task_id = shift.task_id AND state IN ('completed', 'failed');
UPDATE task_events e SET created_at = t.created_at + make_interval(secs => 0.01 + random() * random() * 0.4)
  FROM tasks t WHERE t.task_id = e.task_id AND e.worker IS NOT NULL AND t.state IN ('completed', 'failed');
UPDATE task_failures f SET created_at = t.status_timestamp FROM tasks t WHERE t.task_id = f.task_id;
UPDATE task_events e SET created_at = t.status_timestamp FROM tasks t WHERE t.task_id = e.task_id AND e.seq = t.status_seq;
UPDATE workers SET started_at = started_at - interval '3 hours';
"""


def main() -> None:
    """Make them all."""
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        local_services(None, fsync=False) as services,
        opened_stack(Path(folder), services) as stack,
    ):
        stack.settings |= {"AGENT": AGENT, "WORKER__SLOTS": "8"}
        door, _ = stack.front_door()
        stack.worker()
        stack.worker()
        shown = lived(stack, door)
        with opened_browser() as browser:
            for name, path in shown.items():
                picture(browser, door, name, path)
            picture(browser, door, "ops-overview-dark", "/ops", scheme="dark")
            picture(browser, door, "ops-overview-phone", "/ops", width=390)


def lived(stack: Stack, door: Server) -> dict[str, str]:
    """Let the stack have a busy hour; which pages to look at."""
    dice = random.Random(7)  # noqa: S311 - the same pictures each time
    for number in range(260):
        city = dice.choice(CITIES)
        words = f"fail {city}" if number % 13 == 0 else f"book a train to {city}"
        door.send(words, blocking=number % 20 == 0)
    failed = door.send("fail Paris")
    until(lambda: stack.rows("SELECT count(*) FROM tasks WHERE state = 'submitted'")[0][0] == 0)
    stack.run(_SPREAD)
    for city in CITIES[:5]:
        door.send(f"wait for the offers of {city}", blocking=False)
    asked = door.send("book a flight?")
    door.send("retry Oslo", blocking=False)
    for words in ("then a hotel", "and a car"):
        door.send(words, blocking=False, contextId=failed["contextId"])
    talk = door.send("wait for the offers of Quito", blocking=False)
    for words in ("then a hotel", "and a car"):
        door.send(words, blocking=False, contextId=talk["contextId"])
    told = sending("book a train to Lima")
    nobody = {"url": "https://hooks.example.com/a2a"}
    told["configuration"]["pushNotificationConfig"] = nobody
    door.call("message/send", told)
    until(lambda: stack.rows("SELECT count(*) FROM webhook_attempts")[0][0] > 0)
    until(lambda: stack.rows("SELECT count(*) FROM tasks WHERE state = 'working'")[0][0] == 6)
    assert asked["status"]["state"] == "input-required"
    of_talk = urlencode({"owner": "anonymous", "context": talk["contextId"]})
    return {
        "ops-overview": "/ops",
        "ops-tasks": "/ops/tasks",
        "ops-task": f"/ops/tasks/{failed['id']}",
        "ops-task-running": f"/ops/tasks/{talk['id']}",
        "ops-conversation": f"/ops/conversation?{of_talk}",
        "ops-conversations": "/ops/conversations",
        "ops-failures": "/ops/failures",
        "ops-workers": "/ops/workers",
        "ops-webhooks": "/ops/webhooks",
    }


def picture(
    browser: Browser,
    door: Server,
    name: str,
    path: str,
    *,
    scheme: Literal["light", "dark"] = "light",
    width: int = 1180,
) -> None:
    """One of them, at most a screen and a half high."""
    height = 1500 if width < 500 else 860
    window = browser.new_page(
        base_url=door.url, color_scheme=scheme, viewport={"width": width, "height": height}
    )
    window.goto(path)
    window.locator("#pause").wait_for(timeout=10_000)
    window.screenshot(path=IMAGES / f"{name}.png")
    window.close()


if __name__ == "__main__":
    main()
