-- The whole schema in one text for SQLite and PostgreSQL.
-- Ids are TEXT (lower-case uuid), times BIGINT milliseconds since the epoch, flags BIGINT 0/1.

CREATE TABLE node_setting (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
);

-- Counters. Taking a number locks the row until the commit, so that the numbers that readers
-- see never appear out of order. app_count only rises: a uid range is never given twice.
INSERT INTO node_setting (key, value) VALUES ('event_sequence', '0');
INSERT INTO node_setting (key, value) VALUES ('app_count', '0');

CREATE TABLE account (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL,
    last_login_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

-- token_hash: lower-case hex SHA-256 of the access token; the token itself is never stored.
CREATE TABLE oauth_authorization (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    description TEXT NOT NULL,
    scope TEXT NOT NULL,
    token_hash TEXT NOT NULL UNIQUE,
    token_redacted TEXT NOT NULL,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX oauth_authorization_account ON oauth_authorization (account_id);

CREATE TABLE app (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    owner_id TEXT NOT NULL REFERENCES account (id),
    stack TEXT NOT NULL,
    build_stack TEXT NOT NULL,
    region TEXT NOT NULL,
    maintenance BIGINT NOT NULL DEFAULT 0,
    uid_base BIGINT NOT NULL UNIQUE,
    buildpack_provided_description TEXT,
    repo_size_bytes BIGINT NOT NULL DEFAULT 0,
    slug_size_bytes BIGINT NOT NULL DEFAULT 0,
    restart_generation BIGINT NOT NULL DEFAULT 0,
    released_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX app_owner ON app (owner_id);

CREATE TABLE collaborator (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    account_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    permissions TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (app_id, account_id)
);

-- One immutable set of config vars as encrypted JSON; releases with the same vars share it.
-- Encryption: XChaCha20-Poly1305, AAD "config_snapshot/<id>/1".
CREATE TABLE config_snapshot (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    key_id TEXT NOT NULL,
    sealed TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX config_snapshot_app ON config_snapshot (app_id);

-- deleted_at: when its tree was removed to save space; a release of it cannot run any more.
CREATE TABLE slug (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    commit_sha TEXT,
    commit_description TEXT,
    stack TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    process_types TEXT NOT NULL,
    buildpack_provided_description TEXT,
    deleted_at BIGINT,
    created_at BIGINT NOT NULL
);
CREATE INDEX slug_app ON slug (app_id);
CREATE INDEX slug_digest ON slug (digest);

CREATE TABLE release (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    version BIGINT NOT NULL,
    description TEXT NOT NULL,
    status TEXT NOT NULL,
    slug_id TEXT REFERENCES slug (id),
    config_snapshot_id TEXT NOT NULL REFERENCES config_snapshot (id),
    account_id TEXT NOT NULL REFERENCES account (id),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (app_id, version)
);

CREATE TABLE build (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    account_id TEXT NOT NULL REFERENCES account (id),
    status TEXT NOT NULL,
    stack TEXT NOT NULL,
    buildpacks TEXT NOT NULL,
    source_version TEXT,
    slug_id TEXT REFERENCES slug (id),
    release_id TEXT REFERENCES release (id),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX build_app ON build (app_id, created_at);

-- pinned: 1 when detection found it, 0 when the user chose it.
CREATE TABLE buildpack_installation (
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    ordinal BIGINT NOT NULL,
    url TEXT NOT NULL,
    pinned BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (app_id, ordinal)
);

CREATE TABLE formation (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    process_type TEXT NOT NULL,
    command TEXT NOT NULL,
    quantity BIGINT NOT NULL,
    size TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (app_id, process_type)
);

-- A dyno row lives from the moment it is decided on until it has ended and its leftovers are gone;
-- ended rows are kept a while as history (state complete/crashed/down with ended_at set).
-- options: JSON with what a one-off was asked for (environment, terminal); sealed with AAD "dyno/<id>/1"
-- because the environment is secret. attached: 1 when a client is to attach before it starts.
-- Times that are set once and never unset: restart_requested_at (ps:restart of this dyno), stop_requested_at (ps:stop),
-- retired_at (its label is free for its successor; it may go on serving), draining_at (gets no new request),
-- stopping_at (SIGTERM was sent), ended_at (its process is gone). expires_at: when a one-off is to be stopped.
CREATE TABLE dyno (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    kind TEXT NOT NULL,
    process_type TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    release_id TEXT NOT NULL REFERENCES release (id),
    release_version BIGINT NOT NULL,
    restart_generation BIGINT NOT NULL,
    size TEXT NOT NULL,
    command TEXT NOT NULL,
    state TEXT NOT NULL,
    port BIGINT,
    address TEXT,
    attached BIGINT NOT NULL DEFAULT 0,
    options TEXT,
    exit_status BIGINT,
    restart_requested_at BIGINT,
    stop_requested_at BIGINT,
    retired_at BIGINT,
    draining_at BIGINT,
    stopping_at BIGINT,
    ended_at BIGINT,
    expires_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX dyno_app ON dyno (app_id, ended_at);

-- Crash back-off, per slot of the formation; forgotten at a new release and at a manual restart.
CREATE TABLE dyno_crash (
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    process_type TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    release_version BIGINT NOT NULL,
    restart_generation BIGINT NOT NULL,
    crashes BIGINT NOT NULL,
    next_start_at BIGINT NOT NULL,
    PRIMARY KEY (app_id, process_type, ordinal)
);

-- One row for each change, in the change's own transaction. sequence rises by one.
CREATE TABLE event (
    sequence BIGINT PRIMARY KEY,
    app_id TEXT,
    account_id TEXT NOT NULL,
    email TEXT NOT NULL,
    kind TEXT NOT NULL,
    log_message TEXT,
    remote_address TEXT,
    request_id TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX event_app ON event (app_id, sequence);

-- Fixed recipes that must be finished, or undone, after a crash.
CREATE TABLE job (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    app_id TEXT,
    payload TEXT NOT NULL,
    step TEXT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    lease_until BIGINT NOT NULL DEFAULT 0,
    finished_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX job_open ON job (finished_at, lease_until);
