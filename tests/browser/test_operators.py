"""The operators' stories in a real browser, against real processes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import Stack, at, until
from tests.support.processes import Server

PAGES = (
    "",
    "/tasks",
    "/conversations",
    "/failures",
    "/workers",
    "/webhooks",
    "/audit",
    "/bulk?action=cancel",
)


def _repaired(stack: Stack) -> None:
    (stack.folder / "repaired").touch()


@pytest.mark.parametrize("redis", ["up", "down"])
def test_an_operator_finds_a_failed_task_sees_why_and_retries_it(
    stack: Stack, door: Server, page: Page, redis: str
) -> None:
    failed = door.send("fail Paris")
    if redis == "down":
        stack.services.redis.kill()
    page.goto("/ops")
    if redis == "down":
        expect(page.locator("#banner")).to_contain_text("Redis does not answer")
    page.get_by_role("link", name=re.compile("1 of 1 in the last hour")).click()
    page.get_by_role("link", name="BookingError").click()
    page.get_by_role("link", name="fail Paris").click()
    expect(page.locator(".timeline")).to_contain_text("no seat map for flight 585 to 'Paris'")
    page.get_by_text("Traceback", exact=True).click()
    expect(page.locator(".timeline pre")).to_contain_text("raise BookingError")
    assert "seat map" not in str(door.call("tasks/get", {"id": failed["id"]})), "callers are not told"
    _repaired(stack)
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator(".banner.good")).to_contain_text("This task is the retry")
    expect(page.locator("#live .panel").first).to_contain_text("completed")
    expect(page.locator("#live .facts")).to_contain_text("retry of")
    page.get_by_role("link", name="Audit").click()
    expect(page.locator("tbody tr")).to_contain_text("retried as")


def test_an_operator_frees_a_conversation_whose_handler_is_stuck(
    stack: Stack, door: Server, page: Page
) -> None:
    stuck = door.send(f"stuck {stack.folder}/never", blocking=False)
    behind = door.send("book a hotel", blocking=False, contextId=stuck["contextId"])
    until(lambda: at(door, stuck["id"], "working"))
    page.goto(f"/ops/tasks/{stuck['id']}")
    expect(page.locator(".progress")).to_contain_text("40 % reading 12 of 30 offers")
    page.locator("summary", has_text=re.compile("^Cancel$")).click()
    page.get_by_role("button", name="Cancel this task").click()
    expect(page.locator("#live")).to_contain_text("Its handler has not ended")
    assert at(door, behind["id"], "submitted")
    page.locator("summary", has_text="Force-cancel").click()
    page.get_by_role("button", name="Take the lease away").click()
    until(lambda: at(door, behind["id"], "completed"))
    (stack.folder / "never").touch()


def test_a_page_follows_what_happens_unless_it_is_paused(stack: Stack, door: Server, page: Page) -> None:
    task = door.send(f"wait {stack.folder}/gate", blocking=False)
    page.goto(f"/ops/tasks/{task['id']}")
    expect(page.locator("#live .state").first).to_have_text("working")
    (stack.folder / "gate").touch()
    expect(page.locator("#live .state").first).to_have_text("completed")
    page.goto("/ops/tasks")
    page.locator("#pause").click()
    expect(page.locator("#pause")).to_have_attribute("aria-pressed", "true")
    door.send("book a car")
    page.locator("#pause").click()
    expect(page.locator(".row-text").first).to_have_text("book a car")


def test_all_that_match_are_retried_after_a_look_at_their_number(
    stack: Stack, door: Server, page: Page
) -> None:
    for city in ("Paris", "Rome", "Oslo"):
        door.send(f"fail {city}")
    door.send("book a car")
    _repaired(stack)
    page.goto("/ops/tasks")
    page.get_by_label("State").select_option("failed")
    page.get_by_role("button", name="Search").click()
    expect(page).to_have_url(re.compile("state=failed"))
    expect(page.locator(".row")).to_have_count(3)
    page.get_by_role("link", name="Retry all").click()
    page.get_by_role("button", name="Retry 3 tasks").click()
    expect(page.locator(".banner.good")).to_have_text("3 done, 0 left as they were.")
    page.goto("/ops/tasks?state=completed")
    expect(page.locator(".row")).to_have_count(4)


def test_a_retry_may_have_other_words(stack: Stack, door: Server, page: Page) -> None:
    failed = door.send("fail Paris")
    page.goto(f"/ops/tasks/{failed['id']}")
    page.get_by_text("Retry with other words").click()
    page.get_by_label("The message").fill("book Paris")
    page.get_by_role("button", name="Send as a new task").click()
    expect(page.locator("h1")).to_have_text("book Paris")
    expect(page.locator("#live .state").first).to_have_text("completed")


def test_a_worker_is_drained_and_resumed(stack: Stack, door: Server, page: Page) -> None:
    page.goto("/ops/workers")
    page.get_by_role("button", name="Drain").click()
    expect(page.locator(".badge")).to_have_text("draining")
    task = door.send("book a car", blocking=False)
    page.get_by_role("button", name="Resume").click()
    until(lambda: at(door, task["id"], "completed"))


def test_what_a_task_says_is_text_and_nothing_else(stack: Stack, door: Server, page: Page) -> None:
    task = door.send("<img src=x onerror=alert(1)><script>alert(2)</script>")
    page.on("dialog", lambda dialog: pytest.fail(f"it ran: {dialog.message}"))
    page.goto(f"/ops/tasks/{task['id']}")
    expect(page.locator("h1")).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("main img").count() == 0


def test_every_page_can_be_read_without_javascript(door: Server, browser: Browser) -> None:
    task = door.send("fail Paris")
    context = browser.new_context(java_script_enabled=False, base_url=door.url)
    window = context.new_page()
    for path in (*PAGES, f"/tasks/{task['id']}"):
        window.goto(f"/ops{path}")
        expect(window.locator("h1")).to_be_visible()
    window.goto("/ops")
    expect(window.locator("svg.bars rect").first).to_be_visible()
    window.goto(f"/ops/tasks/{task['id']}")
    window.get_by_role("button", name="Retry", exact=True).click()
    expect(window.locator(".banner.good")).to_be_visible()
    context.close()


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(door: Server, browser: Browser, width: int, scheme: str) -> None:
    task = door.send("fail " + "a-city-with-a-name-that-never-ends" * 5)
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
        base_url=door.url,
    )
    window = context.new_page()
    for path in (*PAGES, f"/tasks/{task['id']}"):
        window.goto(f"/ops{path}")
        assert window.evaluate("document.documentElement.scrollWidth") <= width, path
        expect(window.locator("nav a[aria-current]")).to_be_in_viewport(ratio=1)
    context.close()


def test_it_is_used_by_keyboard(door: Server, page: Page) -> None:
    page.goto("/ops")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.locator("main :focus")).to_be_visible()


def test_the_assets_say_where_they_are_from() -> None:
    folder = Path(__file__).resolve().parents[2] / "api" / "assets" / "ops"
    for name in ("htmx", "uplot"):
        assert list((folder / name).glob("LICENSE*"))
        assert (folder / name / "VERSION").read_text()
