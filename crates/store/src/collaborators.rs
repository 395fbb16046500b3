//! Collaborators: their rows.
