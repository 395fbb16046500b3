//! The node's own certificate authority and the certificate that the API listener shows.
