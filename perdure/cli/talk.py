"""A talk with an agent on the terminal: send, show, and where a person is there, ask."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from perdure.cli.client import Client, Json, Place
from perdure.cli.screen import Screen
from perdure.cli.waiting import tell_what_it_waits_for
from perdure.errors import PerdureError, ServerRefused
from perdure.notes import SKILL_ID

_ENDS = {"TASK_STATE_COMPLETED": 0, "TASK_STATE_INPUT_REQUIRED": 3, "TASK_STATE_AUTH_REQUIRED": 3}


def talk(
    client: Client,
    text: str | None,
    *,
    task: str = "",
    context: str = "",
    skill: str = "",
    as_json: bool,
) -> int:
    """Say `text` (None: only listen), to one of the agent's skills where it is named, and show what comes; the exit code of
    `perdure.cli.send`."""
    place = Place(task_id=task, context_id=context)
    return asyncio.run(_Talk(client, place, Screen(as_json=as_json), skill).run(text))


class _Talk:
    """One task, from the message to its rest; and from there to the answer, where there is somebody to give it."""

    def __init__(self, client: Client, place: Place, screen: Screen, skill: str) -> None:
        self._client, self._place, self._screen, self._skill = client, place, screen, skill
        self._interrupted = asyncio.Event()

    async def run(self, text: str | None) -> int:
        """The exit code."""
        loop = asyncio.get_running_loop()
        with suppress(NotImplementedError):  # Windows: KeyboardInterrupt ends it at once
            loop.add_signal_handler(signal.SIGINT, self._interrupted.set)
        async with self._client:
            try:
                return await self._until_over(text)
            except PerdureError as error:
                self._screen.complain(str(error))
                if self._place.state or not isinstance(error, ServerRefused):  # it may be no task at all
                    self._hint_at_task()
                return 1
            finally:
                self._screen.close()

    async def _until_over(self, text: str | None) -> int:
        while True:
            left = await self._listened(text)
            if left is not None:
                return left
            code = _ENDS.get(self._place.state, 0 if not self._place.state else 1)
            if code != 3:
                return code
            answer = (
                await self._screen.ask("your answer")
                if self._place.state.endswith("INPUT_REQUIRED")
                else None
            )
            if not answer:
                where = f"--task {self._place.task_id} --to {self._client.url}"
                self._screen.tell(f'answer with: perdure send {where} "..."')
                return code
            text = answer

    async def _listened(self, text: str | None) -> int | None:
        """Show what comes until the task rests; an exit code when the person at the keyboard leaves before that."""
        listening = asyncio.create_task(self._listen(text))
        with self._told_what_it_waits_for():
            return await self._heard(listening)

    async def _heard(self, listening: asyncio.Task[None]) -> int | None:
        while True:
            interrupted = asyncio.create_task(self._interrupted.wait())
            await asyncio.wait((listening, interrupted), return_when=asyncio.FIRST_COMPLETED)
            interrupted.cancel()
            if listening.done():
                listening.result()
                return None
            self._interrupted.clear()
            left = await self._asked_to_leave(listening)
            if left is not None:
                listening.cancel()
                return left

    @contextmanager
    def _told_what_it_waits_for(self) -> Iterator[None]:
        if not self._screen.has_room:
            yield
            return
        telling = asyncio.create_task(
            tell_what_it_waits_for(self._client, self._place, self._screen.waits_for)
        )
        try:
            yield
        finally:
            telling.cancel()
            self._screen.waits_for("")

    async def _listen(self, text: str | None) -> None:
        if text is None:
            updates = self._client.follow(self._place, cut=self._screen.cut)
        else:
            self._place.last_event_id, message = "", _message(text, self._place, self._skill)
            updates = self._client.send(message, self._place, cut=self._screen.cut)
        async for update in updates:
            self._screen.show(update)

    async def _asked_to_leave(self, listening: asyncio.Task[None]) -> int | None:
        if not self._place.task_id:
            return 130
        asked = await self._screen.ask(
            "[d]etach, [c]ancel or go on", unless=(self._interrupted.wait(), asyncio.wait([listening]))
        )
        if listening.done():  # the question has answered itself
            return None
        if asked is None or asked[:1].lower() == "d":
            self._hint_at_task()
            return 130
        if asked[:1].lower() == "c":
            with suppress(PerdureError):  # it may have ended meanwhile: the stream tells
                await self._client.call("CancelTask", {"id": self._place.task_id})
        return None

    def _hint_at_task(self) -> None:
        if self._place.task_id:
            self._screen.tell(
                f"the task goes on: perdure tasks tail {self._place.task_id} --to {self._client.url}"
            )


def _message(text: str, place: Place, skill: str) -> Json:
    message: dict[str, Any] = {"messageId": str(uuid4()), "role": "ROLE_USER", "parts": [{"text": text}]}
    if skill:
        message["metadata"] = {SKILL_ID: skill}
    ids = {"taskId": place.task_id, "contextId": place.context_id}
    return message | {name: value for name, value in ids.items() if value}
