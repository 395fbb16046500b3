-- Teams, who is in them, and the apps that they have. app.owner_id of a team's app is who brought it in.
CREATE TABLE team (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE team_member (
    id TEXT PRIMARY KEY,
    team_id TEXT NOT NULL REFERENCES team (id) ON DELETE CASCADE,
    account_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    UNIQUE (team_id, account_id)
);
CREATE INDEX team_member_account ON team_member (account_id);

ALTER TABLE app ADD COLUMN team_id TEXT REFERENCES team (id);
ALTER TABLE app ADD COLUMN locked BIGINT NOT NULL DEFAULT 0;
CREATE INDEX app_team ON app (team_id);
CREATE INDEX collaborator_account ON collaborator (account_id);

-- An app on its way to another account.
CREATE TABLE app_transfer (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    owner_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    recipient_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    state TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX app_transfer_app ON app_transfer (app_id);
