//! The wire types of Heroku's Platform API v3 as Ferroku speaks it, and a small typed client.
//!
//! Wire types are apart from the domain types of `ferroku-core`: each noun has
//! one constructor from the domain types (`app::App::new(...)`), so that a
//! change of either side shows up in one place. Every resource carries all
//! properties that Heroku's published schema gives it; where Heroku answers
//! `null`, so does Ferroku.
//!
//! Source: <https://devcenter.heroku.com/articles/platform-api-reference> and its JSON schema.

pub mod account;
pub mod app;
pub mod app_feature;
pub mod app_transfer;
pub mod build;
pub mod buildpack_installation;
pub mod client;
pub mod collaborator;
pub mod config_var;
pub mod domain;
pub mod dyno;
pub mod dyno_size;
pub mod error;
pub mod formation;
pub mod garbage;
pub mod key;
pub mod log_session;
pub mod node_account;
pub mod oauth_authorization;
pub mod oauth_client;
pub mod pipeline;
pub mod rate_limit;
pub mod reference;
pub mod region;
pub mod release;
pub mod slug;
pub mod sni_endpoint;
pub mod source;
pub mod stack;
pub mod team;
pub mod timestamp;

pub use client::{Client, ClientError};
pub use timestamp::Timestamp;
