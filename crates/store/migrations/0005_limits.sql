-- How far the node's admin trusts an account: stranger or trusted.
ALTER TABLE account ADD COLUMN trust TEXT NOT NULL DEFAULT 'stranger';
-- What the sealed config vars of all releases of the app take.
ALTER TABLE app ADD COLUMN config_bytes BIGINT NOT NULL DEFAULT 0;
UPDATE app SET config_bytes = (SELECT COALESCE(SUM(LENGTH(sealed)), 0) FROM config_snapshot c WHERE c.app_id = app.id);
