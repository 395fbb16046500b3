//! Accounts: their rows.
