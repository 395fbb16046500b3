-- Pipelines: apps in stages, and what was promoted from one to others. One of owner_id and team_id is set.
CREATE TABLE pipeline (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    owner_id TEXT REFERENCES account (id) ON DELETE CASCADE,
    team_id TEXT REFERENCES team (id) ON DELETE CASCADE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE pipeline_coupling (
    id TEXT PRIMARY KEY,
    pipeline_id TEXT NOT NULL REFERENCES pipeline (id) ON DELETE CASCADE,
    app_id TEXT NOT NULL UNIQUE REFERENCES app (id) ON DELETE CASCADE,
    stage TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX pipeline_coupling_pipeline ON pipeline_coupling (pipeline_id);

CREATE TABLE pipeline_promotion (
    id TEXT PRIMARY KEY,
    pipeline_id TEXT NOT NULL REFERENCES pipeline (id) ON DELETE CASCADE,
    source_app_id TEXT NOT NULL,
    source_release_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX pipeline_promotion_pipeline ON pipeline_promotion (pipeline_id);

-- release_id: what the promotion released; neither that nor error_message: it has not come to this target yet.
CREATE TABLE pipeline_promotion_target (
    id TEXT PRIMARY KEY,
    promotion_id TEXT NOT NULL REFERENCES pipeline_promotion (id) ON DELETE CASCADE,
    app_id TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    release_id TEXT,
    error_message TEXT
);
CREATE INDEX pipeline_promotion_target_promotion ON pipeline_promotion_target (promotion_id);
