"""How tasks are kept and run: the database, the workers, a turn, what is deleted when it is old, the logs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from perdure.settings.values import Group, lower_case


class StorageSettings(Group):
    """`STORAGE__...`: the database. Times are seconds."""

    run_migrations_on_startup: bool = Field(True, description="Upgrade the schema when a process starts")
    pool_size: int = Field(10, ge=1, le=1000, description="Connections that a process keeps")
    max_overflow: int = Field(0, ge=0, le=1000, description="Connections beyond those, under load")
    pool_timeout: float = Field(10.0, gt=0, description="How long a request waits for a connection")
    connect_timeout: float = Field(5.0, gt=0, description="How long one attempt to connect may take")
    startup_timeout: float = Field(30.0, ge=0, description="How long a start waits for the database")
    statement_timeout: float = Field(10.0, gt=0, description="After this the server ends a statement")
    lock_timeout: float = Field(5.0, gt=0, description="After this a statement stops waiting for a lock")
    migration_lock_timeout: float = Field(
        3.0,
        gt=0,
        le=600,
        description="How long a migration waits for a table, with everybody behind it waiting too; then it lets them through "
        "and tries again, five times in all",
    )
    retry_timeout: float = Field(
        5.0, ge=0, description="How long a lost connection, deadlock or serialization failure is retried"
    )
    row_security: bool = Field(
        False,
        description="Front doors see one owner's rows at a time, see docs/security.md; "
        "needs `perdure migrate row-security on`",
    )
    prepared_statements: bool = Field(
        True,
        description="Off behind a PgBouncer before 1.21 in transaction mode: statements are prepared anew each time",
    )
    finished_tasks: int = Field(10_000, ge=0, description="Memory only: how many ended tasks are kept")


class WorkerSettings(Group):
    """`WORKER__...`: who runs turns. Times are seconds."""

    slots: int = Field(50, ge=1, le=10_000, description="Turns that one process runs at once")
    max_stuck: int = Field(
        5, ge=1, description="Handlers that do not end when told to; with so many of them the process exits"
    )
    lease: float = Field(15.0, gt=0, description="How long a task stays with a worker that gives no sign")
    lease_grace: float = Field(
        2.0, ge=0, description="What a lapsed lease is given on top before it is taken over"
    )
    grace: float = Field(20.0, ge=0, description="How long a stopping worker lets its turns finish")
    sweep_interval: float = Field(
        2.0, gt=0, description="How often forgotten and lapsed tasks are looked for"
    )
    beat_interval: float = Field(5.0, gt=0, description="How often a worker gives a sign of life")
    fold_after: float = Field(
        3600.0,
        ge=0,
        description="How long after its end the pieces of a task's streamed artifacts are put together",
    )
    health_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="A port for `/healthz`, `/readyz` and `/metrics` of `perdure worker`, on HOST",
    )
    poll_delay: float = Field(
        0.05, gt=0, description="How often stock arq looks for rings; `perdure worker` is woken"
    )


class TurnSettings(Group):
    """`TURNS__...`: one run of a handler."""

    timeout: float = Field(
        3600.0,
        gt=0,
        le=366 * 86400,
        description="Seconds that a turn may take at most; an agent or a message may say less",
    )
    patience: float = Field(
        10.0,
        gt=0,
        le=86400,
        description="Seconds that a handler which was told to stop is given; then it is left behind",
    )
    max_failures: int = Field(
        3, ge=0, description="How often a task is tried again after a failure that may pass"
    )
    retry_base: float = Field(
        1.0,
        gt=0,
        description="The first retry comes within so many seconds, each next one within twice as many",
    )
    retry_cap: float = Field(
        300.0,
        gt=0,
        description="The longest of these pauses; what a Retry or a Retry-After asks for may be more",
    )
    max_crashes: int = Field(3, ge=1, description="A task that was held by so many dying workers fails")
    history: int = Field(
        200, ge=1, le=10_000, description="How many messages of the conversation a handler gets"
    )
    max_artifact_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1024,
        le=128 * 1024 * 1024,
        description="One artifact, message or step of an agent; a turn that gives more fails",
    )
    max_output_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="All that one turn gives; one that gives more fails"
    )
    max_artifacts: int = Field(1000, ge=1, description="Artifacts of one task; a turn that makes more fails")
    chunk_interval: float = Field(0.05, ge=0, description="Seconds between two writes of streamed chunks")


class RetentionSettings(Group):
    """`RETENTION__...`: how long what has ended is kept, in seconds from its end. Not set: for ever."""

    completed: float | None = Field(None, ge=0, description="How long completed tasks are kept")
    failed: float | None = Field(None, ge=0, description="How long failed tasks are kept")
    canceled: float | None = Field(None, ge=0, description="How long canceled tasks are kept")
    rejected: float | None = Field(None, ge=0, description="How long rejected tasks are kept")
    events: float | None = Field(
        None,
        ge=0,
        description="How long the whole log of a task is kept; then what history, artifacts and status do not need goes",
    )
    actions: float | None = Field(None, ge=0, description="How long entries of the operators' audit are kept")
    archive: Path | None = Field(
        None, description="A folder that every task is written to, as a line of JSON, before it is deleted"
    )
    compress: bool = Field(True, description="Whether the files of the archive are compressed (gzip)")
    interval: float = Field(
        60.0, gt=0, description="Seconds between two looks for what is old, by all workers together"
    )


class LogSettings(Group):
    """`LOG__...`: what is said on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is said")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, else json"
    )

    contents: Literal["auto", "shown", "redacted"] = Field(
        "auto",
        description="The texts of errors, which may repeat what an agent was told: auto shows them on a terminal alone",
    )

    _lower = field_validator("level", "format", "contents", mode="before")(lower_case)
