-- How long eco dynos were awake, for the account that had the app then. An app that is gone still counts for its month.
CREATE TABLE eco_hours (
    account_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    app_id TEXT NOT NULL,
    month BIGINT NOT NULL,
    milliseconds BIGINT NOT NULL,
    PRIMARY KEY (account_id, app_id, month)
);

-- An eco dyno that is awake: since when that is not counted.
ALTER TABLE dyno ADD COLUMN eco_since BIGINT;
CREATE INDEX dyno_eco ON dyno (app_id) WHERE eco_since IS NOT NULL;
