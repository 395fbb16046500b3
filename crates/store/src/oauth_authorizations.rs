//! OAuth authorizations: their rows.
