//! The control process's side of the connection to the router.
