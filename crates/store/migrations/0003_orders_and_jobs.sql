-- What was ordered of certificate authorities, for as long as it counts against their limits. app_id refers to no row: an
-- app that was destroyed has used up what it used up.
CREATE TABLE acme_order (
    app_id TEXT NOT NULL,
    begun_at BIGINT NOT NULL
);
CREATE INDEX acme_order_begun ON acme_order (begun_at);

-- A job that is done is nobody's any more: its row goes.
DELETE FROM job WHERE finished_at IS NOT NULL;
DROP INDEX job_open;
ALTER TABLE job DROP COLUMN finished_at;
CREATE INDEX job_due ON job (kind, lease_until);
