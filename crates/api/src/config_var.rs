//! `/apps/X/config-vars`: a flat object of strings; in a PATCH `null` removes.

pub use ferroku_core::config_var::{ConfigPatch, ConfigVars};
