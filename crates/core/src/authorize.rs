//! Who may do what: the one place that decides.

use crate::account::{Account, Role};
use crate::app::App;

/// What somebody wants to do to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// See it and what belongs to it.
    View,
    /// Change code, config, formation; run dynos.
    Operate,
    /// Destroy, rename, transfer.
    Manage,
}

/// What it is done to.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    App(&'a App, /* the actor is a collaborator */ bool),
    Account(&'a Account),
}

/// Whether `actor` may do `verb` to `object`.
///
/// The node's owner and admins may see and operate every app; an app's owner
/// may do everything to it; a collaborator everything but manage it. An
/// account belongs to itself.
pub fn authorize(actor: &Account, verb: Verb, object: Object<'_>) -> bool {
    match object {
        Object::App(app, collaborator) => {
            actor.id == app.owner_id
                || matches!(actor.role, Role::Owner | Role::Admin)
                || (collaborator && verb != Verb::Manage)
        }
        Object::Account(account) => actor.id == account.id || actor.role == Role::Owner,
    }
}
