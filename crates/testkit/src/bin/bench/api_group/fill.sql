-- Accounts, apps, releases and their events, in SQL that both databases know. Names between colons are numbers that
-- fill.rs puts in. An id is its row's number in twelve digits behind a prefix.
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :LAST_ACCOUNT:)
INSERT INTO account (id, email, password_hash, role, created_at, updated_at)
SELECT '00000000-0000-4000-8000-' || substr(CAST(1000000000000 + n.i AS TEXT), 2), 'bench-' || n.i || '@example.com', '', 'member', 0, 0 FROM n;

WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :LAST_APP:)
INSERT INTO app (id, name, owner_id, stack, build_stack, region, uid_base, released_at, created_at, updated_at)
SELECT '00000001-0000-4000-8000-' || substr(CAST(1000000000000 + n.i AS TEXT), 2), 'app-' || n.i, '00000000-0000-4000-8000-' || substr(CAST(1000000000000 + (CASE WHEN n.i < :LISTED_APPS: THEN 0 ELSE 1 + n.i % :OTHER_ACCOUNTS: END) AS TEXT), 2),
    'heroku-24', 'heroku-24', 'us', :FIRST_UID: + CAST(n.i AS BIGINT) * :APP_UIDS:, 0, 0, 0 FROM n;

WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :LAST_APP:)
INSERT INTO collaborator (id, app_id, account_id, permissions, created_at, updated_at)
SELECT '00000002-0000-4000-8000-' || substr(CAST(1000000000000 + n.i AS TEXT), 2), '00000001-0000-4000-8000-' || substr(CAST(1000000000000 + n.i AS TEXT), 2),
    '00000000-0000-4000-8000-' || substr(CAST(1000000000000 + (CASE WHEN n.i < :LISTED_APPS: THEN 0 ELSE 1 + n.i % :OTHER_ACCOUNTS: END) AS TEXT), 2), '["view","deploy","operate","manage"]', 0, 0 FROM n;

WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < :LAST_APP:), m(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM m WHERE i < :LAST_RELEASE:)
INSERT INTO release (id, app_id, version, description, status, config_snapshot_id, account_id, created_at, updated_at)
SELECT substr(CAST(100000000 + m.i AS TEXT), 2) || '-0000-4000-8001-' || substr(CAST(1000000000000 + n.i AS TEXT), 2), '00000001-0000-4000-8000-' || substr(CAST(1000000000000 + n.i AS TEXT), 2), m.i + 1,
    'Set GREETING config vars', 'succeeded', (SELECT config_snapshot_id FROM release WHERE version = 3),
    '00000000-0000-4000-8000-' || substr(CAST(1000000000000 + (CASE WHEN n.i < :LISTED_APPS: THEN 0 ELSE 1 + n.i % :OTHER_ACCOUNTS: END) AS TEXT), 2), 0, 0 FROM n CROSS JOIN m;

INSERT INTO event (sequence, app_id, account_id, email, kind, log_message, remote_address, request_id, created_at)
SELECT 1000 + ROW_NUMBER() OVER (ORDER BY id), app_id, account_id, 'bench@example.com', 'release.create', description,
    '127.0.0.1', id, 0 FROM release WHERE created_at = 0;

-- The node goes on counting behind what it finds, and has told all of it in the logs.
UPDATE node_setting SET value = (SELECT CAST(MAX(sequence) AS TEXT) FROM event) WHERE key = 'event_sequence';
INSERT INTO node_setting (key, value) SELECT 'event_feed_cursor', CAST(MAX(sequence) AS TEXT) FROM event
WHERE 1 = 1 ON CONFLICT (key) DO UPDATE SET value = excluded.value;
UPDATE node_setting SET value = CAST(:LAST_APP: + 100 AS TEXT) WHERE key = 'app_count';
