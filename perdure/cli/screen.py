"""What a person sees of an answer: text as it comes on stdout, a progress bar and remarks on stderr."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from collections.abc import Coroutine, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.status import Status

Json = dict[str, Any]

_LOUD = {
    "TASK_STATE_FAILED": "the task failed",
    "TASK_STATE_REJECTED": "the task was rejected",
    "TASK_STATE_CANCELED": "the task was canceled",
}
_ASKS = ("TASK_STATE_INPUT_REQUIRED", "TASK_STATE_AUTH_REQUIRED")


class Screen:
    """Shows StreamResponses. With `as_json` each is a line of JSON, and nothing else is on stdout. NO_COLOR is respected."""

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._remarks = Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._waits: Status | None = None
        self._asking = False
        self._row = TaskID(0)
        self._at_start = True
        self._shown: dict[str, str] = {}
        self._held: list[Json] = []
        self._cut_by = ""

    def show(self, update: Json) -> None:
        """One StreamResponse; what comes while a question stands is shown after it."""
        if self._asking:
            self._held.append(update)
            return
        self._cut_by = ""
        if self._as_json:
            print(json.dumps(update, ensure_ascii=False), flush=True)
            return
        self.waits_for("")
        match update:
            case {"artifactUpdate": {"artifact": artifact, **how}}:
                self._artifact(artifact, append=bool(how.get("append")), last=bool(how.get("lastChunk")))
            case {"message": message}:
                self._say(_text(message) + "\n")
            case {"task": task}:
                for artifact in task.get("artifacts", ()):
                    self._artifact(artifact, append=False, last=True)
                self._status(task["status"], {})
            case {"statusUpdate": change}:
                self._status(change["status"], change.get("metadata", {}))

    def tell(self, remark: str) -> None:
        """A line on stderr."""
        self._fresh_line()
        self._remarks.print(remark, style="dim", markup=False)

    def complain(self, what: str) -> None:
        """The same of what went wrong."""
        self._fresh_line()
        self._remarks.print(f"perdure: {what}", style="red", markup=False)

    @property
    def has_room(self) -> bool:
        """Whether a line that comes and goes disturbs nobody: a person reads stderr, and no program what is said beside it."""
        return self._remarks.is_terminal and not self._as_json and not _is_pipe(sys.stdout.fileno())

    def waits_for(self, what: str) -> None:
        """What the task waits for, in place until something happens or it is ""; never over a question."""
        if not what or self._asking:
            self._no_waits()
        elif self._waits is None:
            self._fresh_line()
            self._waits = Status(escape(what), console=self._remarks)
            self._waits.start()
        else:
            self._waits.update(escape(what))

    def cut(self, why: str) -> None:
        """The connection broke, and is made again. Each reason is told once, however often that is tried."""
        if why != self._cut_by and not self._asking:
            self.tell(f"{why}; trying again ...")
            self._cut_by = why

    async def ask(self, question: str, *, unless: Sequence[Coroutine[Any, Any, Any]] = ()) -> str | None:
        """What is typed; None without a terminal, at its end, or when one of `unless` is over before that."""
        if not (sys.stdin.isatty() and self._remarks.is_terminal):
            for never in unless:
                never.close()
            return None
        self._fresh_line()
        self._remarks.print(f"{question}: ", end="", style="bold", markup=False)
        self._asking = True
        loop = asyncio.get_running_loop()
        typed: asyncio.Future[str] = loop.create_future()

        def read() -> None:
            if not typed.done():
                typed.set_result(sys.stdin.readline())

        loop.add_reader(sys.stdin, read)
        waits: list[asyncio.Future[Any]] = [typed, *map(asyncio.ensure_future, unless)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            return (typed.result().rstrip("\n") or "") if typed.done() and typed.result() else None
        finally:
            self._asking = False
            loop.remove_reader(sys.stdin)
            if not typed.done():
                self._remarks.print()
            for wait in waits:
                wait.cancel()
            held, self._held = self._held, []
            for update in held:
                self.show(update)

    def close(self) -> None:
        """Leave the terminal in order, and a file with its last line ended."""
        self._no_bar()
        if not self._at_start:
            self._say("\n")

    def _artifact(self, artifact: Json, *, append: bool, last: bool) -> None:
        name, text = artifact.get("artifactId", ""), _text(artifact)
        before = self._shown.get(name, "")
        if not append:
            if before and text == before:  # the whole of what has been shown in pieces
                return
            if before:
                self.tell("the agent starts its answer again:")
            before = ""
        self._shown[name] = before + text
        self._say(text)
        if last and not self._at_start:
            self._say("\n")

    def _status(self, status: Json, metadata: Json) -> None:
        state, text = status.get("state", ""), _text(status.get("message", {}))
        if progress := metadata.get("progress"):
            self._progress(progress)
        elif state in _LOUD:
            words = _words(status.get("message", {}))
            self.complain(f"{_LOUD[state]}: {words}" if words else _LOUD[state])
        elif state in _ASKS:
            self._say(text + "\n")
        elif text:
            self.tell(text)

    def _progress(self, progress: Json) -> None:
        if not self._remarks.is_terminal or not self._at_start:
            return
        if self._bar is None:
            columns = (
                SpinnerColumn(),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
            )
            self._bar = Progress(*columns, console=self._remarks, transient=True)
            self._row = self._bar.add_task("", total=None)
            self._bar.start()
        fraction = progress.get("fraction")
        self._bar.update(
            self._row,
            total=None if fraction is None else 1.0,
            completed=fraction or 0.0,
            description=progress.get("note") or "",
        )

    def _say(self, text: str) -> None:
        self._no_bar()
        sys.stdout.write(text)
        sys.stdout.flush()
        if text:
            self._at_start = text.endswith("\n")

    def _fresh_line(self) -> None:
        """For a remark. A file or a pipe has the answer without them."""
        self._no_bar()
        if not self._at_start and sys.stdout.isatty():
            self._say("\n")

    def _no_waits(self) -> None:
        if self._waits is not None:
            self._waits.stop()
            self._waits = None

    def _no_bar(self) -> None:
        self._no_waits()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _is_pipe(descriptor: int) -> bool:
    return stat.S_ISFIFO(os.fstat(descriptor).st_mode)


def _text(spoken: Json) -> str:
    """Text as it is, data as JSON, files as a remark; these two on lines of their own."""
    told = ""
    for part in spoken.get("parts", ()):
        if told and "text" not in part and not told.endswith("\n"):
            told += "\n"
        told += _part(part)
    return told


def _words(spoken: Json) -> str:
    """What it says to people: its texts, or what else there is where it has none."""
    texts = [part for part in spoken.get("parts", ()) if "text" in part]
    return _text({"parts": texts} if texts else spoken)


def _part(part: Json) -> str:
    match part:
        case {"text": text}:
            return str(text)
        case {"data": data}:
            return json.dumps(data, ensure_ascii=False, indent=2)
        case {"url": url}:
            return f"[{part.get('filename') or 'a file'}: {url}]"
    return f"[{part.get('filename') or 'a file'}: {len(part.get('raw', '')) * 3 // 4} bytes]"
