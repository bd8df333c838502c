"""The statements of webhooks: configs, the claims of deliveries, what follows from an attempt, the log, the sealing anew."""

from __future__ import annotations

_COLUMNS = "task_id, config_id, url, token, scheme, credentials, version, endpoint"

# $1 task_id, $2 owner, $3 config_id, $4 url, $5 token, $6 scheme, $7 credentials, $8 version, $9 endpoint. What waits is due at
# once; an empty line is put in order by its next claim.
SAVE = f"""
INSERT INTO webhook_configs AS c ({_COLUMNS})
SELECT t.task_id, $3, $4, $5, $6, $7, $8, $9 FROM tasks t WHERE t.task_id = $1 AND t.owner = $2
ON CONFLICT (task_id, config_id) DO UPDATE
   SET url = excluded.url, token = excluded.token, scheme = excluded.scheme, credentials = excluded.credentials,
       version = excluded.version, endpoint = excluded.endpoint,
       disabled = NULL, failing_since = NULL, due_at = clock_timestamp()
RETURNING c.config_id
"""
# $1 task_id, $2 owner, $3 config_id; or $3 the last one of the page before, or '', $4 rows
_CONFIG = f"""
SELECT w.{_COLUMNS.replace(", ", ", w.")}
  FROM webhook_configs w JOIN tasks t ON t.task_id = w.task_id WHERE w.task_id = $1 AND t.owner = $2"""
LOAD = f"{_CONFIG} AND w.config_id = $3"
LIST = f"{_CONFIG} AND w.config_id > $3 ORDER BY w.config_id LIMIT $4"
DELETE = """
DELETE FROM webhook_configs w USING tasks t
 WHERE w.task_id = $1 AND w.config_id = $3 AND t.task_id = w.task_id AND t.owner = $2
"""

# $1 token, $2 lease in seconds, $3 limit, $4 most of one endpoint, $5 failures that open a breaker. Endpoints are found one
# by one in the index, so that the longest line costs no more than the shortest.
CLAIM = f"""
WITH RECURSIVE lined(endpoint) AS (
        (SELECT c.endpoint FROM webhook_configs c WHERE c.due_at IS NOT NULL ORDER BY c.endpoint LIMIT 1)
        UNION ALL
        SELECT (SELECT c.endpoint FROM webhook_configs c
                 WHERE c.due_at IS NOT NULL AND c.endpoint > lined.endpoint ORDER BY c.endpoint LIMIT 1)
          FROM lined WHERE lined.endpoint IS NOT NULL),
    open AS (
        SELECT lined.endpoint,
               CASE WHEN e.failures >= $5 THEN 1 ELSE $4 END
               - (SELECT count(*) FROM webhook_configs h WHERE h.endpoint = lined.endpoint AND h.lease_token IS NOT NULL
                                                           AND h.lease_until > clock_timestamp()) AS room
          FROM lined LEFT JOIN webhook_endpoints e ON e.endpoint = lined.endpoint
         WHERE lined.endpoint IS NOT NULL AND (e.open_until IS NULL OR e.open_until <= clock_timestamp())),
    picked AS (
        SELECT due.task_id, due.config_id
          FROM open CROSS JOIN LATERAL (
               SELECT c.task_id, c.config_id, c.due_at FROM webhook_configs c
                WHERE c.endpoint = open.endpoint AND c.due_at <= clock_timestamp()
                  AND (c.lease_until IS NULL OR c.lease_until <= clock_timestamp())
                ORDER BY c.due_at LIMIT greatest(open.room, 0)) due
         ORDER BY due.due_at LIMIT $3),
    locked AS (
        SELECT c.task_id, c.config_id FROM webhook_configs c JOIN picked USING (task_id, config_id)
         WHERE c.due_at <= clock_timestamp() AND (c.lease_until IS NULL OR c.lease_until <= clock_timestamp())
         ORDER BY c.task_id, c.config_id FOR NO KEY UPDATE OF c SKIP LOCKED),
    held AS (
        UPDATE webhook_configs c SET lease_token = $1, lease_until = clock_timestamp() + make_interval(secs => $2)
          FROM locked WHERE c.task_id = locked.task_id AND c.config_id = locked.config_id
        RETURNING c.*),
    half AS (
        UPDATE webhook_endpoints e SET open_until = clock_timestamp() + make_interval(secs => $2)
         WHERE e.failures >= $5 AND e.endpoint IN (SELECT endpoint FROM held)),
    sent AS (
        UPDATE webhook_deliveries d SET attempts = d.attempts + 1, tries = d.tries + 1
          FROM held CROSS JOIN LATERAL (
               SELECT w.delivery_id FROM webhook_deliveries w
                WHERE w.task_id = held.task_id AND w.config_id = held.config_id AND w.state = 'waiting'
                ORDER BY w.seq LIMIT 1) head
         WHERE d.delivery_id = head.delivery_id AND d.state = 'waiting'
        RETURNING d.delivery_id, d.task_id, d.config_id, d.seq, d.owner, d.attempts, d.tries)
SELECT held.{_COLUMNS.replace(", ", ", held.")}, sent.delivery_id, sent.seq, sent.owner, sent.attempts, sent.tries,
       coalesce(extract(epoch FROM clock_timestamp() - held.failing_since), 0)::float8 AS failing_for,
       (SELECT t.trace_contexts FROM tasks t WHERE t.task_id = held.task_id) AS trace_contexts
  FROM held LEFT JOIN sent ON sent.task_id = held.task_id AND sent.config_id = held.config_id
"""

# $1 task_id, $2 config_id, $3 token
HOLD = """
SELECT true FROM webhook_configs WHERE task_id = $1 AND config_id = $2 AND lease_token = $3 FOR NO KEY UPDATE
"""
# $1 delivery_id, $2 attempt, $3 started_at, $4 seconds, $5 status, $6 error, $7 answer
RECORD = """
INSERT INTO webhook_attempts (delivery_id, attempt, started_at, seconds, status, error, answer, owner)
SELECT d.delivery_id, $2, $3, $4, $5, $6, $7, d.owner FROM webhook_deliveries d WHERE d.delivery_id = $1
ON CONFLICT DO NOTHING
"""
# $1 delivery_id, $2 state
END = "UPDATE webhook_deliveries SET state = $2, ended_at = clock_timestamp() WHERE delivery_id = $1"
UNSEND = """
UPDATE webhook_deliveries SET attempts = attempts - 1, tries = greatest(tries - 1, 0) WHERE delivery_id = $1
"""  # its tries may have begun anew meanwhile
# $1 task_id, $2 config_id, $3 why it is disabled or null, $4 seconds until the next attempt, $5 the delivery failed, or null
# where nothing was sent
LET_GO = """
UPDATE webhook_configs c
   SET lease_token = NULL, lease_until = NULL, disabled = coalesce($3, c.disabled),
       failing_since = CASE WHEN $5::boolean IS NULL THEN c.failing_since
                            WHEN $5 THEN coalesce(c.failing_since, clock_timestamp()) END,
       due_at = CASE WHEN $3::text IS NULL AND c.disabled IS NULL
                      AND EXISTS (SELECT FROM webhook_deliveries w WHERE w.task_id = c.task_id AND w.config_id = c.config_id
                                                                     AND w.state = 'waiting')
                     THEN clock_timestamp() + make_interval(secs => $4) END
 WHERE c.task_id = $1 AND c.config_id = $2
"""
# $1 endpoint, $2 failures that open it, $3 pause, $4 longest
BLAME = """
INSERT INTO webhook_endpoints AS e (endpoint, failures, open_until)
VALUES ($1, 1, CASE WHEN $2 <= 1 THEN clock_timestamp() + make_interval(secs => $3) END)
ON CONFLICT (endpoint) DO UPDATE
   SET failures = e.failures + 1,
       open_until = CASE WHEN e.failures + 1 >= $2
                         THEN clock_timestamp() + make_interval(secs => least($3 * 2 ^ least(e.failures + 1 - $2, 20), $4)) END
"""
CLOSE = "DELETE FROM webhook_endpoints WHERE endpoint = $1"

# $1 task_id, $2 seq, $3 whole. An event that was folded is inside of the next one that is there.
EVENTS = """
SELECT e.task_id, e.seq, e.first_seq, e.kind, e.attempt, e.payload, e.created_at
  FROM (SELECT * FROM task_events WHERE task_id = $1 AND seq >= $2 ORDER BY seq LIMIT 1) own
  JOIN tasks t ON t.task_id = own.task_id JOIN task_events e ON e.task_id = own.task_id
 WHERE e.seq <= own.seq AND (e.attempt = own.attempt OR e.attempt <> ALL (t.lost_attempts))
   AND (e.seq = own.seq OR $3 OR (own.kind = 'artifact' AND e.kind = 'artifact'
                                  AND e.payload #>> '{artifact,artifactId}' = own.payload #>> '{artifact,artifactId}'))
 ORDER BY e.seq
"""

# $1 rows, $2 $3 cursor or null; {where}: the filters that are given, with their parameters from $4 on, so that each kind of page
# has a plan of its own
DELIVERIES = """
SELECT d.*, c.endpoint, coalesce(c.disabled, '') AS disabled,
       CASE WHEN d.state = 'waiting' AND d.seq = (SELECT min(w.seq) FROM webhook_deliveries w
                                                   WHERE w.task_id = d.task_id AND w.config_id = d.config_id
                                                     AND w.state = 'waiting') THEN c.due_at END AS due_at,
       a.attempt, a.started_at, a.seconds, a.status, a.error, a.answer
  FROM webhook_deliveries d JOIN webhook_configs c ON c.task_id = d.task_id AND c.config_id = d.config_id
  LEFT JOIN LATERAL (SELECT * FROM webhook_attempts a WHERE a.delivery_id = d.delivery_id
                      ORDER BY a.attempt DESC LIMIT 1) a ON true
 WHERE (d.created_at, d.delivery_id) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::uuid, d.delivery_id)) {where}
 ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $1
"""
# $1 owner or null, $2 delivery_id
ATTEMPTS = """
SELECT a.* FROM webhook_attempts a JOIN webhook_deliveries d ON d.delivery_id = a.delivery_id
 WHERE d.delivery_id = $2 AND ($1::text IS NULL OR (d.owner = $1 AND d.config_id <> '')) ORDER BY a.attempt
"""
# $1 limit; {where}: the filters that are given, from $2 on. One whose state is another by the time that its line is held was
# settled or replayed meanwhile: it is left alone.
REPLAY = """
WITH chosen AS (
        SELECT d.delivery_id, d.task_id, d.config_id, d.state
          FROM webhook_deliveries d JOIN webhook_configs w ON w.task_id = d.task_id AND w.config_id = d.config_id
         WHERE (d.state <> 'waiting' OR w.disabled IS NULL) {where}
         ORDER BY d.created_at, d.delivery_id LIMIT $1),
    lines AS (
        SELECT c.task_id, c.config_id FROM webhook_configs c
         WHERE (c.task_id, c.config_id) IN (SELECT task_id, config_id FROM chosen)
         ORDER BY c.task_id, c.config_id FOR NO KEY UPDATE),
    again AS (
        UPDATE webhook_deliveries d SET state = 'waiting', ended_at = NULL, tries = 0
          FROM chosen JOIN lines USING (task_id, config_id)
         WHERE d.delivery_id = chosen.delivery_id AND d.state = chosen.state
        RETURNING d.task_id, d.config_id),
    due AS (
        UPDATE webhook_configs c SET due_at = CASE WHEN c.disabled IS NULL THEN clock_timestamp() END
          FROM (SELECT DISTINCT task_id, config_id FROM again) line
         WHERE c.task_id = line.task_id AND c.config_id = line.config_id)
SELECT count(*) FROM again
"""
# $1 owner or null, $2 task_id, $3 config_id
ENABLE = """
WITH enabled AS (
        UPDATE webhook_configs c SET disabled = NULL, failing_since = NULL, due_at = clock_timestamp()
          FROM tasks t
         WHERE c.task_id = $2 AND c.config_id = $3 AND t.task_id = c.task_id
           AND ($1::text IS NULL OR (t.owner = $1 AND c.config_id <> ''))
        RETURNING c.task_id, c.config_id),
    anew AS (
        UPDATE webhook_deliveries d SET tries = 0 FROM enabled
         WHERE d.task_id = enabled.task_id AND d.config_id = enabled.config_id AND d.state = 'waiting' AND d.tries > 0)
SELECT true FROM enabled
"""
# $1 limit
ENDPOINTS = """
WITH waiting AS (
        SELECT c.endpoint, count(*) AS waiting, min(d.created_at) AS oldest
          FROM webhook_deliveries d JOIN webhook_configs c USING (task_id, config_id)
         WHERE d.state = 'waiting' GROUP BY 1),
    disabled AS (SELECT c.endpoint, count(*) AS disabled FROM webhook_configs c WHERE c.disabled IS NOT NULL GROUP BY 1)
SELECT endpoint, coalesce(w.waiting, 0) AS waiting, w.oldest, coalesce(e.failures, 0) AS failures, e.open_until,
       coalesce(x.disabled, 0) AS disabled
  FROM waiting w FULL JOIN webhook_endpoints e USING (endpoint) FULL JOIN disabled x USING (endpoint)
 ORDER BY endpoint LIMIT $1
"""
# $1 seconds, $2 limit
FORGET = """
DELETE FROM webhook_deliveries WHERE delivery_id IN (
    SELECT delivery_id FROM webhook_deliveries WHERE ended_at < clock_timestamp() - make_interval(secs => $1)
     ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING true
"""
# $1 $2 the last one's task_id and config_id; in one transaction with the UPDATEs, so that no config changes in between
RESEAL_NEXT = f"""
SELECT {_COLUMNS} FROM webhook_configs
 WHERE (task_id, config_id) > ($1, $2) ORDER BY task_id, config_id LIMIT 100 FOR NO KEY UPDATE
"""
RESEAL = (
    "UPDATE webhook_configs SET url = $3, token = $4, credentials = $5 WHERE task_id = $1 AND config_id = $2"
)
