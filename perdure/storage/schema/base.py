"""What the tables are made of."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

VERSION_TABLE = "perdure_alembic_version"


def json_column(name: str) -> sa.Column[object]:
    """An object, empty at first."""
    return sa.Column(name, JSONB, nullable=False, server_default=sa.text("'{}'::jsonb"))


def time_column(name: str) -> sa.Column[object]:
    """A time, now at first."""
    return sa.Column(
        name, sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
    )


def count_column(name: str, kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    """A number, 0 at first."""
    return sa.Column(name, kind, nullable=False, server_default=sa.text("0"))
