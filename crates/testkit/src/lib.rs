//! What the tests of Ferroku stand on: a whole node, real clients, and checks of all that passes between them.
//!
//! Only tests and benchmarks use it. [`TestNode`] starts the real program on free ports, runs the official Heroku CLI
//! and git against it, checks every answer of the API against the Platform API's schema, and looks at the end
//! for anything that the node left on the machine. [`transcript`] runs tables of command lines.

pub mod command;
pub mod disk;
pub mod leak;
pub mod mask;
pub mod node;
pub mod pebble;
pub mod ports;
pub mod postgres;
pub mod requests;
pub mod schema;
pub mod traffic;
pub mod transcript;
pub mod tunnel;
pub mod wreck;

pub use command::CommandOutput;
pub use node::{NodeOptions, Owner, TestNode};
