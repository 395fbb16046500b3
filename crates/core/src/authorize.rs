//! Who may do what: the one place that decides.
//!
//! In: a [`Principal`] (an account and the scopes of the token that it came with), a [`Verb`], and the [`Object`] that it
//! is done to. Out: yes, or the [`Refusal`] that says what is missing. Two things must agree: the token's scopes must
//! cover the verb, and the account must stand in a relation to the object that allows it.
//!
//! `docs/authorization.md` is this table for people; a test walks every route with every role and compares.
//!
//! Source: devcenter "OAuth" (scopes), "App Permissions and Allowed Actions" (view, deploy, operate, manage).

use crate::AccountId;
use crate::account::Role;
use crate::collaborator::{Permission, Permissions};
use crate::oauth_authorization::{Scope, Scopes};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct Principal<'a> {
    pub account_id: AccountId,
    /// On the node as a whole.
    pub role: Role,
    /// What the access token may be used for.
    pub scopes: &'a Scopes,
}

/// What somebody wants to do to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// An app: see it and what belongs to it, its log included, but not its config vars.
    View,
    /// An app: fetch its code.
    Fetch,
    /// An app: read the values of its config vars.
    ReadConfig,
    /// An app: change its config vars.
    WriteConfig,
    /// An app: choose what code is built, which then runs with the config vars at hand.
    Push,
    /// An app: put an older release or slug in force, and its config vars with it.
    Release,
    /// An app: run commands in a dyno, which see the config vars.
    Run,
    /// An app: scale, restart, domains, certificates, features, maintenance.
    Operate,
    /// An app: change some of its settings; which of them, [`Verb::Operate`] and [`Verb::Manage`] tell.
    Change,
    /// An app: give up one's own access.
    Leave,
    /// An app: rename, transfer, destroy, and say who else has access.
    Manage,
    /// An account: see it.
    ViewAccount,
    /// An account: change it and whatever logs in as it.
    ChangeAccount,
    /// An account: list what it has, and what the node has to offer.
    Browse,
    /// An account: make something new in its name.
    Create,
    /// The node: see what all apps do, in numbers and in lists.
    SeeNode,
    /// The node: its accounts and settings.
    Administer,
}

/// What it is done to.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    App(&'a Relation),
    Account(AccountId),
    Node,
}

/// What somebody is to an app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relation {
    pub is_owner: bool,
    /// As a collaborator.
    pub permissions: Permissions,
}

/// Why not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The token was given for less than this.
    Scope(Scope),
    /// The account has nothing to do with the object.
    Stranger,
    /// It has, but may not do this.
    Forbidden,
}

impl Verb {
    /// The scope that a token needs; a wider one serves too.
    pub fn scope(self) -> Scope {
        match self {
            Self::View | Self::Fetch | Self::Browse | Self::SeeNode => Scope::Read,
            Self::ReadConfig => Scope::ReadProtected,
            Self::WriteConfig | Self::Push | Self::Release | Self::Run => Scope::WriteProtected,
            Self::Operate | Self::Change | Self::Leave | Self::Manage | Self::Create => Scope::Write,
            Self::ViewAccount => Scope::Identity,
            Self::ChangeAccount | Self::Administer => Scope::Global,
        }
    }

    /// The permissions of an app any of which is enough; none for verbs of other objects.
    pub fn permissions(self) -> &'static [Permission] {
        use Permission::{Deploy, Manage, Operate, View};
        match self {
            Self::View | Self::Leave => &[View, Deploy, Operate, Manage],
            Self::Fetch | Self::Push => &[Deploy],
            Self::ReadConfig | Self::WriteConfig | Self::Release | Self::Run => &[Deploy, Operate],
            Self::Operate => &[Operate],
            Self::Change => &[Operate, Manage],
            Self::Manage => &[Manage],
            Self::ViewAccount
            | Self::ChangeAccount
            | Self::Browse
            | Self::Create
            | Self::SeeNode
            | Self::Administer => &[],
        }
    }
}

/// Whether `principal` may do `verb` to `object`.
///
/// An app's owner may do everything to it, a collaborator what its permissions say. The node's owner may do
/// everything to every app; an admin sees and operates every app, but neither destroys nor gives one away. An account
/// belongs to itself. The node is its owner's and its admins'.
///
/// # Errors
/// What is missing.
pub fn authorize(principal: Principal<'_>, verb: Verb, object: Object<'_>) -> Result<(), Refusal> {
    if !principal.scopes.allow(verb.scope()) {
        return Err(Refusal::Scope(verb.scope()));
    }
    let allowed = |yes: bool, otherwise| if yes { Ok(()) } else { Err(otherwise) };
    match object {
        Object::App(relation) => {
            let may = app_permissions(principal.role, relation);
            if may.is_empty() {
                return Err(Refusal::Stranger);
            }
            allowed(verb.permissions().iter().any(|one| may.contains(one)), Refusal::Forbidden)
        }
        Object::Account(id) => {
            let of_account =
                matches!(verb, Verb::ViewAccount | Verb::ChangeAccount | Verb::Browse | Verb::Create);
            allowed(of_account && principal.account_id == id, Refusal::Stranger)
        }
        Object::Node => {
            let of_node = matches!(verb, Verb::SeeNode | Verb::Administer);
            allowed(of_node && matches!(principal.role, Role::Owner | Role::Admin), Refusal::Forbidden)
        }
    }
}

/// Everything that an account of this role may do to an app that it stands in this relation to.
fn app_permissions(role: Role, relation: &Relation) -> Permissions {
    use Permission::{Deploy, Operate, View};
    if relation.is_owner || role == Role::Owner {
        return Permission::ALL.into();
    }
    let mut permissions = relation.permissions.clone();
    if role == Role::Admin {
        permissions.extend([View, Deploy, Operate]);
    }
    permissions
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const ALL: [Verb; 17] = [
        Verb::View,
        Verb::Fetch,
        Verb::ReadConfig,
        Verb::WriteConfig,
        Verb::Push,
        Verb::Release,
        Verb::Run,
        Verb::Operate,
        Verb::Change,
        Verb::Leave,
        Verb::Manage,
        Verb::ViewAccount,
        Verb::ChangeAccount,
        Verb::Browse,
        Verb::Create,
        Verb::SeeNode,
        Verb::Administer,
    ];
    const ME: AccountId = AccountId(Uuid::from_u128(1));

    /// The verbs that are allowed, by their first letters.
    fn allowed(role: Role, scopes: &[Scope], object: Object<'_>) -> String {
        let scopes = Scopes::from_iter(scopes.iter().copied());
        let principal = Principal { account_id: ME, role, scopes: &scopes };
        let verbs = ALL.iter().filter(|verb| authorize(principal, **verb, object).is_ok());
        verbs.map(|verb| format!("{verb:?}")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_scope_opens_what_herokus_article_says() {
        let own = Relation { is_owner: true, ..Relation::default() };
        let app = |scopes: &[Scope]| allowed(Role::Member, scopes, Object::App(&own));
        let account = |scopes: &[Scope]| allowed(Role::Member, scopes, Object::Account(ME));
        let all = "View Fetch ReadConfig WriteConfig Push Release Run Operate Change Leave Manage";
        assert_eq!(app(&[Scope::Global]), all);
        assert_eq!(account(&[Scope::Global]), "ViewAccount ChangeAccount Browse Create");
        assert_eq!(app(&[Scope::Identity]), "");
        assert_eq!(account(&[Scope::Identity]), "ViewAccount");
        assert_eq!(app(&[Scope::Read]), "View Fetch");
        assert_eq!(account(&[Scope::Read]), "ViewAccount Browse");
        assert_eq!(app(&[Scope::ReadProtected]), "View Fetch ReadConfig");
        assert_eq!(app(&[Scope::Write]), "Operate Change Leave Manage");
        assert_eq!(account(&[Scope::Write]), "Create");
        assert_eq!(app(&[Scope::WriteProtected]), "WriteConfig Push Release Run Operate Change Leave Manage");
        assert_eq!(app(&[Scope::ReadProtected, Scope::WriteProtected]), all);
        assert_eq!((app(&[]), account(&[])), (String::new(), String::new()));
    }

    #[test]
    fn each_permission_opens_what_herokus_table_says() {
        let app = |permissions: &[Permission]| {
            let relation = Relation { is_owner: false, permissions: permissions.iter().copied().collect() };
            allowed(Role::Member, &[Scope::Global], Object::App(&relation))
        };
        assert_eq!(app(&[]), "");
        assert_eq!(app(&[Permission::View]), "View Leave");
        assert_eq!(app(&[Permission::Deploy]), "View Fetch ReadConfig WriteConfig Push Release Run Leave");
        assert_eq!(
            app(&[Permission::Operate]),
            "View ReadConfig WriteConfig Release Run Operate Change Leave"
        );
        assert_eq!(app(&[Permission::Manage]), "View Change Leave Manage");
    }

    #[test]
    fn the_nodes_admins_operate_every_app_and_only_its_owner_takes_one_away() {
        let foreign = Relation::default();
        let app = |role| allowed(role, &[Scope::Global], Object::App(&foreign));
        assert_eq!(app(Role::Member), "");
        assert_eq!(
            app(Role::Admin),
            "View Fetch ReadConfig WriteConfig Push Release Run Operate Change Leave"
        );
        assert!(app(Role::Owner).ends_with("Manage"));
        let node = |role| allowed(role, &[Scope::Global], Object::Node);
        assert_eq!(
            (node(Role::Member).as_str(), node(Role::Admin).as_str(), node(Role::Owner).as_str()),
            ("", "SeeNode Administer", "SeeNode Administer")
        );
        assert_eq!(allowed(Role::Admin, &[Scope::Read], Object::Node), "SeeNode");
        let other = Object::Account(AccountId(Uuid::from_u128(2)));
        assert_eq!(allowed(Role::Owner, &[Scope::Global], other), "");
    }
}
