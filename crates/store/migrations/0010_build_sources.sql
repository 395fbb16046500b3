-- Where a build's archive came from, when it was not pushed by git: without what may be a secret in it.
ALTER TABLE build ADD COLUMN source_url TEXT;
ALTER TABLE build ADD COLUMN source_checksum TEXT;
ALTER TABLE build ADD COLUMN source_description TEXT;
