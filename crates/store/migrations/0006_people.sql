-- Of a deleted account the row stays, under an address that is nobody's: releases and builds name who made them.
-- totp_sealed: the shared secret, AAD "account/<id>/1"; without totp_enabled_at it is only offered. totp_last_step: of the
-- last code that was taken; it and older ones are not taken again.
ALTER TABLE account ADD COLUMN suspended_at BIGINT;
ALTER TABLE account ADD COLUMN deleted_at BIGINT;
ALTER TABLE account ADD COLUMN totp_sealed TEXT;
ALTER TABLE account ADD COLUMN totp_enabled_at BIGINT;
ALTER TABLE account ADD COLUMN totp_last_step BIGINT;

-- is_login: made by a password or in a browser, so that it ends when the password changes.
ALTER TABLE oauth_authorization ADD COLUMN is_login BIGINT NOT NULL DEFAULT 0;

-- What a link in a letter proves. token_hash: lower-case hex SHA-256. Taken once.
CREATE TABLE mailed_token (
    token_hash TEXT PRIMARY KEY,
    purpose TEXT NOT NULL,
    email TEXT NOT NULL,
    account_id TEXT REFERENCES account (id) ON DELETE CASCADE,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (purpose, email)
);

-- second_factor_due: 1 while only the password has been given.
CREATE TABLE browser_session (
    id TEXT PRIMARY KEY,
    account_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    token_hash TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    second_factor_due BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX browser_session_account ON browser_session (account_id);

CREATE TABLE recovery_code (
    account_id TEXT NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    code_hash TEXT NOT NULL,
    PRIMARY KEY (account_id, code_hash)
);
