-- Custom domains, certificates, automatic certificates, app features.

-- Automatic certificate management is on.
ALTER TABLE app ADD COLUMN acm BIGINT NOT NULL DEFAULT 0;

-- A certificate with its private key. acm: 1 when the node got it by itself. certificate: JSON with what the chain's
-- first certificate says. version rises with each new certificate of the endpoint.
-- sealed_private_key: AAD "sni_endpoint/<id>/<version>".
CREATE TABLE sni_endpoint (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    name TEXT NOT NULL UNIQUE,
    acm BIGINT NOT NULL DEFAULT 0,
    certificate_chain TEXT NOT NULL,
    certificate TEXT NOT NULL,
    version BIGINT NOT NULL,
    key_id TEXT NOT NULL,
    sealed_private_key TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX sni_endpoint_app ON sni_endpoint (app_id);

-- hostname: lower-case ASCII (IDNA), `*.example.com` for a wildcard; each belongs to one app of the node.
-- acm_due_at: when a certificate is to be ordered (again); null: as soon as automatic management is on.
CREATE TABLE domain (
    id TEXT PRIMARY KEY,
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    hostname TEXT NOT NULL UNIQUE,
    cname TEXT NOT NULL UNIQUE,
    status TEXT NOT NULL,
    sni_endpoint_id TEXT REFERENCES sni_endpoint (id) ON DELETE SET NULL,
    acm_status TEXT,
    acm_status_reason TEXT,
    acm_due_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX domain_app ON domain (app_id);

-- Only features that were ever switched have a row.
CREATE TABLE app_feature (
    app_id TEXT NOT NULL REFERENCES app (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    enabled BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (app_id, name)
);

-- The node's account at each certificate authority it ever used.
-- sealed_credentials: AAD "acme_account/<directory_url>/1".
CREATE TABLE acme_account (
    directory_url TEXT PRIMARY KEY,
    key_id TEXT NOT NULL,
    sealed_credentials TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
