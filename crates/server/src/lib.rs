//! The shell where the parts of Ferroku meet: API handlers, git, builds, reconcilers, the supervisor.
//!
//! A library so that tests reach its modules; `main.rs` is the thin binary `ferrokud`.

pub mod access;
pub mod acm;
pub mod admin_command;
pub mod api;
pub mod app_destruction;
pub mod args;
pub mod auth;
pub mod builds;
pub mod certificate;
pub mod control;
pub mod crash_point;
pub mod disk;
pub mod dynos;
pub mod env_command;
pub mod error;
pub mod events;
pub mod fetch;
pub mod git;
pub mod listener;
pub mod log_stream;
pub mod login;
pub mod mail;
pub mod metrics;
pub mod node;
pub mod pages;
pub mod people;
pub mod process_secrets;
pub mod rate_limit;
pub mod release_output;
pub mod rendezvous;
pub mod router_link;
pub mod router_main;
pub mod secrets;
pub mod ssh;
pub mod supervisor;
pub mod tls;
