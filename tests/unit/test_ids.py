"""Ids by name: what was stored by any version must have the same ones."""

from __future__ import annotations

from uuid import UUID, uuid5

from asyncpg.pgproto import pgproto

from perdure.ids import artifact_id, callback_id, message_id

TASK = UUID("019a1b2c-3d4e-7f60-8123-456789abcdef")


def test_an_id_by_name_is_a_uuid_of_version_5() -> None:
    assert artifact_id(TASK, 3) == str(uuid5(TASK, "artifact:3"))
    assert message_id(TASK, 2, -1) == str(uuid5(TASK, "message:2:-1"))
    assert callback_id(TASK, "clé") == str(uuid5(TASK, "callback:clé"))


def test_whatever_kind_of_uuid_the_task_has() -> None:
    assert artifact_id(pgproto.UUID(str(TASK)), 0) == artifact_id(TASK, 0)
