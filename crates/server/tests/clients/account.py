#!/usr/bin/env python3
"""Makes an account in the SQLite store of a running node and prints an API key of it: account.py DATABASE EMAIL."""

import hashlib
import secrets
import sqlite3
import sys
import time
import uuid

database, email = sys.argv[1:]
now, account, token = int(time.time() * 1000), str(uuid.uuid4()), "HRKU-" + secrets.token_hex(20)
connection = sqlite3.connect(database, timeout=60)
with connection:
    connection.execute(
        "INSERT INTO account (id, email, password_hash, role, created_at, updated_at) VALUES (?, ?, '', 'member', ?, ?)",
        (account, email, now, now),
    )
    connection.execute(
        "INSERT INTO oauth_authorization (id, account_id, description, scope, token_hash, token_redacted, created_at,"
        " updated_at) VALUES (?, ?, 'test', '[\"global\"]', ?, '', ?, ?)",
        (str(uuid.uuid4()), account, hashlib.sha256(token.encode()).hexdigest(), now, now),
    )
print(token)
