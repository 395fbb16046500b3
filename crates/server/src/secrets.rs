//! The node's secrets on disk: the master key and the owner's first credentials.
