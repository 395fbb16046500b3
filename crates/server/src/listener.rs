//! The API listener: plain HTTP and TLS on one port, told apart by the first byte.
