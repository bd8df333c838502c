"""`perdure top`: what goes on, on a terminal, with the keys of htop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar
from uuid import UUID

from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Header, Input, Label, Static

from perdure.cli.fleet import DEAD_AFTER, how_silent
from perdure.cli.forms import ago, lasting, one_line
from perdure.errors import PerdureError
from perdure.operating import Operator
from perdure.owners import shown
from perdure.storage.operators import TaskFilter, TaskLine, WorkerStatus, by_liveliness
from perdure.tasks import TaskState

_STYLES = {
    TaskState.SUBMITTED: "yellow",
    TaskState.WORKING: "bold cyan",
    TaskState.INPUT_REQUIRED: "magenta",
    TaskState.AUTH_REQUIRED: "magenta",
    TaskState.COMPLETED: "green",
    TaskState.FAILED: "bold red",
    TaskState.CANCELED: "dim",
    TaskState.REJECTED: "red",
}
_VIEWS: Sequence[TaskState | None] = (
    None,
    TaskState.WORKING,
    TaskState.SUBMITTED,
    TaskState.FAILED,
    TaskState.INPUT_REQUIRED,
)


class Sure(ModalScreen[bool]):
    """Asks before something is done."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]
    CSS = (
        "Sure { align: center middle } Sure Label { padding: 1 3; border: round $accent; background: $panel }"
    )

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        yield Label(f"{self._question}  (y/n)", markup=False)

    def action_answer(self, yes: bool) -> None:
        self.dismiss(yes)


class Top(App[None]):
    """Tasks, workers and what waits, a second old at most."""

    TITLE = "perdure top"
    CSS = """
    #figures { height: 3; padding: 0 1 }
    #workers { height: auto; max-height: 8; border-bottom: solid $panel }
    #tasks { height: 1fr }
    #filter { dock: bottom; display: none }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,f10", "quit", "Quit", key_display="F10"),
        Binding("f4,slash", "filter", "Filter", key_display="F4"),
        Binding("f5,s", "state", "State", key_display="F5"),
        Binding("f9,k", "cancel", "Cancel", key_display="F9"),
        Binding("r", "retry", "Retry"),
        Binding("d", "drain", "Drain worker"),
        Binding("z,space", "pause", "Pause", key_display="Z"),
    ]

    def __init__(self, operator: Operator, *, every: float = 1.0) -> None:
        super().__init__()
        self._operator = operator
        self._every = every
        self._paused = False
        self._view = 0
        self._text: str | None = None
        self._lines: dict[str, TaskLine] = {}
        self._beats: dict[str, WorkerStatus] = {}

    def compose(self) -> ComposeResult:
        yield Header(show_clock=True)
        yield Static(id="figures", markup=True)
        yield DataTable(id="workers", cursor_type="row", zebra_stripes=True)
        yield DataTable(id="tasks", cursor_type="row", zebra_stripes=True)
        yield Input(id="filter", placeholder="words of the first message, or an id; empty for all")
        yield Footer()

    async def on_mount(self) -> None:
        self._table("workers").add_columns("WORKER", "WHERE", "UP", "SLOTS", "LAG", "SILENT", "")
        self._table("tasks").add_columns("TASK", "STATE", "AGE", "ATTEMPT", "WORKER", "OWNER", "SAYS")
        self._table("tasks").focus()
        await self.look()
        self.set_interval(self._every, self.look)

    async def look(self) -> None:
        """Read everything anew, unless paused."""
        if self._paused:
            return
        storage = self._operator.storage
        try:
            counts, oldest = await storage.waiting()
            page = await storage.find_tasks(TaskFilter(state=_VIEWS[self._view], text=self._text))
            workers = by_liveliness(await storage.list_workers(), DEAD_AFTER)
        except PerdureError as error:
            self.query_one("#figures", Static).update(f"[bold red]{one_line(str(error), 200)}[/]")
            return
        self._show_figures(counts, oldest, workers)
        self._beats = {worker.beat.worker_id: worker for worker in workers}
        self._lines = {str(line.task_id): line for line in page.lines}
        self._fill("workers", {name: _worker_row(worker) for name, worker in self._beats.items()})
        self._fill("tasks", {name: _task_row(line) for name, line in self._lines.items()})

    def _show_figures(self, counts: Any, oldest: float | None, workers: Sequence[WorkerStatus]) -> None:
        states = (
            TaskState.SUBMITTED,
            TaskState.WORKING,
            TaskState.INPUT_REQUIRED,
            TaskState.AUTH_REQUIRED,
        )
        told = "   ".join(f"{state} [{_STYLES[state]}]{counts.get(state, 0)}[/]" for state in states)
        there = [worker.beat for worker in workers if not worker.is_lost(DEAD_AFTER)]
        used, slots = sum(beat.running for beat in there), sum(beat.slots for beat in there)
        alarm = "bold red" if (oldest or 0) > 60 else "bold"
        shown = _VIEWS[self._view] or "all states"
        wanted = f", with {self._text!r}" if self._text else ""
        self.query_one("#figures", Static).update(
            f"{told}\noldest waiting [{alarm}]{lasting(oldest)}[/]   slots [bold]{used}/{slots}[/]\nshown: {shown}{wanted}"
        )

    def _fill(self, name: str, rows: dict[str, tuple[str, ...]]) -> None:
        """The rows, the cursor where it was."""
        table = self._table(name)
        here = self._selected(name)
        table.clear()
        for key, row in rows.items():
            table.add_row(*row, key=key)
        if here in rows:
            table.move_cursor(row=table.get_row_index(here))

    # ------------------------------------------------------------------ keys

    def action_state(self) -> None:
        """Show the next state."""
        self._view = (self._view + 1) % len(_VIEWS)
        self.run_worker(self.look(), exclusive=True)

    def action_pause(self) -> None:
        """Stand still, or go on."""
        self._paused = not self._paused
        self.sub_title = "paused" if self._paused else ""

    def action_filter(self) -> None:
        """Ask for words."""
        field = self.query_one("#filter", Input)
        field.display = True
        field.focus()

    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """The words are there."""
        self._text = event.value.strip() or None
        event.input.display = False
        self._table("tasks").focus()
        await self.look()

    def action_cancel(self) -> None:
        """Cancel the selected task; by force where it has been canceled and is still held."""
        if line := self._lines.get(self._selected("tasks") or ""):
            how = self._operator.force_cancel if line.state.terminal else self._operator.cancel
            self._ask_and_do(f"Cancel {line.task_id}?", lambda: how(line.task_id))

    def action_retry(self) -> None:
        """Try the selected task again."""
        if line := self._lines.get(self._selected("tasks") or ""):
            self._ask_and_do(f"Retry {line.task_id}?", lambda: self._retried(line.task_id))

    async def _retried(self, task_id: UUID) -> str:
        return f"retried as {await self._operator.retry(task_id)}"

    def action_drain(self) -> None:
        """Drain the selected worker, or let it go on."""
        if worker := self._beats.get(self._selected("workers") or ""):
            name, drain = worker.beat.worker_id, not worker.asked_to_drain
            question = f"{'Drain' if drain else 'Resume'} worker {name}?"
            self._ask_and_do(question, lambda: self._operator.drain(name, drain))

    def _ask_and_do(self, question: str, act: Callable[[], Awaitable[str]]) -> None:
        async def do() -> None:
            if not await self.push_screen_wait(Sure(question)):
                return
            try:
                self.notify(await act(), markup=False)
            except PerdureError as error:
                self.notify(str(error), severity="error", markup=False)
            await self.look()

        self.run_worker(do())

    # ------------------------------------------------------------------ tables

    def _table(self, name: str) -> DataTable[str]:
        table: DataTable[str] = self.query_one(f"#{name}", DataTable)
        return table

    def _selected(self, name: str) -> str | None:
        table = self._table(name)
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value


def _task_row(line: TaskLine) -> tuple[Any, ...]:
    from rich.text import Text

    says = Text(one_line(line.error or line.text, 100), style="red" if line.error else "")
    return (
        str(line.task_id),
        Text(line.state.value, style=_STYLES[line.state]),
        ago(line.created_at),
        str(line.attempt),
        line.holder,
        Text(one_line(shown(line.owner), 24)),
        says,
    )


def _worker_row(worker: WorkerStatus) -> tuple[Any, ...]:
    from rich.text import Text

    beat = worker.beat
    mark = "draining" if worker.drains else ""
    return (
        beat.worker_id,
        Text(one_line(beat.name, 40)),
        ago(worker.started_at),
        f"{beat.running}/{beat.slots}",
        lasting(beat.loop_lag),
        lasting(worker.silent),
        how_silent(worker) or mark,
    )
