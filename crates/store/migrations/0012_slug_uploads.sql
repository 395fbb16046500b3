-- Slugs that clients make themselves: announced by a row here, which becomes one of the table slug once the archive has come.
CREATE TABLE slug_upload (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    commit_sha TEXT,
    commit_description TEXT,
    stack TEXT NOT NULL,
    process_types TEXT NOT NULL,
    buildpack_provided_description TEXT,
    sha256 TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX slug_upload_app ON slug_upload (app_id);

-- Of the archive that a client uploaded; null for what a build made.
ALTER TABLE slug ADD COLUMN archive_sha256 TEXT;
