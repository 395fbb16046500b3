-- Label of the one-off dyno that runs the release's command, such as release.1234; null: it has none.
ALTER TABLE release ADD COLUMN command_dyno TEXT;
-- 1: it goes back to an older release, with that one's config vars.
ALTER TABLE release ADD COLUMN is_rollback BIGINT NOT NULL DEFAULT 0;
-- The release process type is none of the formation's any more: it runs once for each release.
UPDATE formation SET quantity = 0 WHERE process_type = 'release';
