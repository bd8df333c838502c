"""Tasks and conversations as documents."""

from __future__ import annotations

import sqlalchemy as sa

from perdure.storage.schema.base import metadata

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
"""The document shape for psql, reports and backups: what the tables say, as an object a task and an object a context."""

for _name, _query in VIEWS.items():
    for _when, _ddl in (
        ("after_create", f"CREATE VIEW {_name} AS {_query}"),
        ("before_drop", f"DROP VIEW IF EXISTS {_name}"),
    ):
        sa.event.listen(metadata, _when, sa.DDL(_ddl))  # type: ignore[no-untyped-call]
