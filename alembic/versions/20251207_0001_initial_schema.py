"""The initial schema: contexts, tasks, their events and feedback, workers, and the document views."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

VIEWS = {
    "task_documents": """
SELECT t.task_id, t.owner, t.context_id, t.state AS status, t.status_message, t.status_timestamp,
       (SELECT coalesce(jsonb_agg(CASE e.kind WHEN 'message' THEN e.payload
                                              ELSE e.payload #> '{status,message}' END ORDER BY e.seq), '[]'::jsonb)
          FROM task_events e
         WHERE e.task_id = t.task_id AND e.attempt <> ALL (t.lost_attempts)
           AND (e.kind = 'message'
                OR (e.kind = 'status' AND e.seq <> t.status_seq AND e.payload #> '{status,message}' IS NOT NULL))
       ) AS history,
       (SELECT coalesce(jsonb_agg(a.artifact ORDER BY a.first_seq), '[]'::jsonb)
          FROM (SELECT min(c.opened) AS first_seq,
                       jsonb_set((array_agg(c.artifact ORDER BY c.seq) FILTER (WHERE c.seq = c.base))[1], '{parts}',
                                 jsonb_agg(p.part ORDER BY c.seq, p.ord)) AS artifact
                  FROM (SELECT e.seq, e.payload -> 'artifact' AS artifact,
                               e.payload #>> '{artifact,artifactId}' AS artifact_id,
                               min(e.seq) OVER same AS opened,
                               max(e.seq) FILTER (WHERE NOT coalesce((e.payload ->> 'append')::boolean, false))
                                   OVER same AS base
                          FROM task_events e
                         WHERE e.task_id = t.task_id AND e.kind = 'artifact' AND e.attempt <> ALL (t.lost_attempts)
                        WINDOW same AS (PARTITION BY e.payload #>> '{artifact,artifactId}')) c
                 CROSS JOIN LATERAL jsonb_array_elements(c.artifact -> 'parts') WITH ORDINALITY AS p(part, ord)
                 WHERE c.seq >= c.base
                 GROUP BY c.artifact_id) a
       ) AS artifacts,
       t.metadata, t.created_at, t.updated_at
  FROM tasks t
""",
    "context_documents": """
SELECT c.owner, c.context_id,
       (SELECT coalesce(jsonb_agg(m.payload ORDER BY m.position, m.seq), '[]'::jsonb)
          FROM (SELECT t.position, e.seq,
                       CASE e.kind WHEN 'message' THEN e.payload ELSE e.payload #> '{status,message}' END AS payload
                  FROM tasks t
                  JOIN task_events e ON e.task_id = t.task_id AND e.attempt <> ALL (t.lost_attempts)
                 WHERE t.owner = c.owner AND t.context_id = c.context_id
                   AND (e.kind = 'message' OR (e.kind = 'status' AND e.payload #> '{status,message}' IS NOT NULL))
                UNION ALL
                SELECT a.position, 0, a.payload
                  FROM context_messages a
                 WHERE a.owner = c.owner AND a.context_id = c.context_id) m
       ) AS messages,
       c.metadata, c.created_at, c.updated_at
  FROM contexts c
""",
}


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "contexts",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("context_id", sa.Text(), nullable=False),
        sa.Column("metadata", JSONB, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("last_position", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("running_task", sa.UUID(), nullable=True),
        sa.Column("waiting", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("char_length(context_id) BETWEEN 1 AND 512", name=op.f("ck_contexts_context_id")),
        sa.CheckConstraint("waiting >= 0", name=op.f("ck_contexts_waiting")),
        sa.PrimaryKeyConstraint("owner", "context_id", name=op.f("pk_contexts")),
    )
    op.create_index("ix_contexts_metadata", "contexts", ["metadata"], unique=False, postgresql_using="gin")
    op.create_index(
        "ix_contexts_page",
        "contexts",
        ["owner", sa.literal_column("updated_at DESC"), sa.literal_column("context_id DESC")],
        unique=True,
    )
    op.create_table(
        "workers",
        sa.Column("worker_id", sa.Text(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("running", sa.Integer(), nullable=False),
        sa.Column("draining", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column(
            "started_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "beat_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("worker_id", name=op.f("pk_workers")),
    )
    op.create_table(
        "context_messages",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("context_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["owner", "context_id"],
            ["contexts.owner", "contexts.context_id"],
            name=op.f("fk_context_messages_owner_context_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("owner", "context_id", "position", name=op.f("pk_context_messages")),
    )
    op.create_table(
        "tasks",
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("context_id", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'submitted'::text"), nullable=False),
        sa.Column("status_message", JSONB, nullable=True),
        sa.Column(
            "status_timestamp",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("status_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("metadata", JSONB, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "lost_attempts", ARRAY(sa.Integer()), server_default=sa.text("'{}'::integer[]"), nullable=False
        ),
        sa.Column("failures", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_holder", sa.Text(), nullable=True),
        sa.Column("lease_token", sa.UUID(), nullable=True),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("write_no", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("last_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("message_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("read_seq", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "due_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
        ),
        sa.Column("dispatch", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column(
            "dispatched_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column(
            "updated_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state <> 'submitted' OR lease_token IS NULL", name=op.f("ck_tasks_submitted_is_free")
        ),
        sa.CheckConstraint(
            "state <> 'working' OR lease_token IS NOT NULL", name=op.f("ck_tasks_working_is_held")
        ),
        sa.CheckConstraint(
            "state IN ('submitted', 'working', 'input-required', 'auth-required', 'completed', 'failed', 'canceled', 'rejected')",
            name=op.f("ck_tasks_state"),
        ),
        sa.CheckConstraint(
            "(lease_token IS NULL) = (lease_holder IS NULL) AND (lease_token IS NULL) = (lease_until IS NULL)",
            name=op.f("ck_tasks_lease"),
        ),
        sa.CheckConstraint("read_seq <= message_seq AND message_seq <= last_seq", name=op.f("ck_tasks_seqs")),
        sa.ForeignKeyConstraint(
            ["owner", "context_id"],
            ["contexts.owner", "contexts.context_id"],
            name=op.f("fk_tasks_owner_context_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("task_id", name=op.f("pk_tasks")),
    )
    op.create_index("ix_tasks_context", "tasks", ["owner", "context_id", "position"], unique=True)
    op.create_index(
        "ix_tasks_due",
        "tasks",
        ["due_at", "task_id"],
        unique=False,
        postgresql_where=sa.text("state = 'submitted' AND lease_token IS NULL"),
    )
    op.create_index(
        "ix_tasks_leased",
        "tasks",
        ["lease_token"],
        unique=False,
        postgresql_where=sa.text("lease_token IS NOT NULL"),
    )
    op.create_index(
        "ix_tasks_line",
        "tasks",
        ["owner", "context_id", "position"],
        unique=False,
        postgresql_where=sa.text("state = 'submitted'"),
    )
    op.create_index("ix_tasks_metadata", "tasks", ["metadata"], unique=False, postgresql_using="gin")
    op.create_index(
        "ix_tasks_page",
        "tasks",
        ["owner", sa.literal_column("status_timestamp DESC"), sa.literal_column("task_id DESC")],
        unique=False,
    )
    op.create_index(
        "ix_tasks_state",
        "tasks",
        ["owner", "state", sa.literal_column("status_timestamp DESC"), sa.literal_column("task_id DESC")],
        unique=False,
    )
    op.create_table(
        "task_events",
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("payload", JSONB, nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("kind IN ('message', 'artifact', 'status')", name=op.f("ck_task_events_kind")),
        sa.CheckConstraint("first_seq BETWEEN 1 AND seq", name=op.f("ck_task_events_first_seq")),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.task_id"], name=op.f("fk_task_events_task_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("task_id", "seq", name=op.f("pk_task_events")),
    )
    op.create_table(
        "task_feedback",
        sa.Column("feedback_id", sa.UUID(), nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("feedback", sa.Text(), nullable=False),
        sa.Column("rating", sa.SmallInteger(), nullable=True),
        sa.Column("metadata", JSONB, server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.CheckConstraint("rating BETWEEN 1 AND 5", name=op.f("ck_task_feedback_rating")),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.task_id"], name=op.f("fk_task_feedback_task_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("feedback_id", name=op.f("pk_task_feedback")),
    )
    op.create_index(
        "ix_task_feedback_task", "task_feedback", ["task_id", "created_at", "feedback_id"], unique=False
    )
    for view, query in VIEWS.items():
        op.execute(f"CREATE VIEW {view} AS {query}")


def downgrade() -> None:
    """Drop everything."""
    for view in reversed(VIEWS):
        op.execute(f"DROP VIEW {view}")
    for table in ("task_feedback", "task_events", "tasks", "context_messages", "contexts", "workers"):
        op.drop_table(table)
