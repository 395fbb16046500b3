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
use crate::team::TeamRole;

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
    /// An app or a team: take up or give up one's own access.
    OwnAccess,
    /// An app: rename, transfer, destroy, and say who else has access.
    Manage,
    /// An app or a team: give others access, or the app to them. Whoever gets it reads the config vars.
    Share,
    /// An account: see it.
    ViewAccount,
    /// An account: change it and whatever logs in as it.
    ChangeAccount,
    /// An account: list what it has, and what the node has to offer.
    Browse,
    /// An account: make something new in its name.
    Create,
    /// A team: see that it is there, and one's own role.
    ViewTeam,
    /// A team: see who is in it, and all its apps.
    ViewMembers,
    /// A team: bring apps in.
    AddTeamApp,
    /// A team: rename, delete, and say who is in it.
    ManageTeam,
    /// The node: see what all apps do, in numbers and in lists.
    SeeNode,
    /// The node: its accounts and settings.
    Administer,
    /// The node: say who its admins are.
    Appoint,
}

/// What it is done to.
#[derive(Debug, Clone, Copy)]
pub enum Object<'a> {
    App(&'a Relation),
    Account(AccountId),
    /// With the principal's role in it.
    Team(Option<TeamRole>),
    Node,
}

/// What somebody is to an app.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Relation {
    pub is_owner: bool,
    /// As a collaborator.
    pub permissions: Permissions,
    /// In the team that has the app.
    pub team_role: Option<TeamRole>,
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
            Self::View | Self::Fetch | Self::Browse | Self::ViewTeam | Self::ViewMembers | Self::SeeNode => {
                Scope::Read
            }
            Self::ReadConfig => Scope::ReadProtected,
            Self::WriteConfig | Self::Push | Self::Release | Self::Run | Self::Share => Scope::WriteProtected,
            Self::Operate
            | Self::Change
            | Self::OwnAccess
            | Self::Manage
            | Self::Create
            | Self::AddTeamApp
            | Self::ManageTeam => Scope::Write,
            Self::ViewAccount => Scope::Identity,
            Self::ChangeAccount | Self::Administer | Self::Appoint => Scope::Global,
        }
    }

    /// The permissions of an app any of which is enough; none for verbs of other objects.
    pub fn permissions(self) -> &'static [Permission] {
        use Permission::{Deploy, Manage, Operate, View};
        match self {
            Self::View | Self::OwnAccess => &[View, Deploy, Operate, Manage],
            Self::Fetch | Self::Push => &[Deploy],
            Self::ReadConfig | Self::WriteConfig | Self::Release | Self::Run => &[Deploy, Operate],
            Self::Operate => &[Operate],
            Self::Change => &[Operate, Manage],
            Self::Manage | Self::Share => &[Manage],
            Self::ViewAccount
            | Self::ChangeAccount
            | Self::Browse
            | Self::Create
            | Self::ViewTeam
            | Self::ViewMembers
            | Self::AddTeamApp
            | Self::ManageTeam
            | Self::SeeNode
            | Self::Administer
            | Self::Appoint => &[],
        }
    }
}

/// Whether `principal` may do `verb` to `object`.
///
/// An app's owner may do everything to it, a collaborator what its permissions say. A team's admins may do everything
/// to its apps, its members and viewers see them. The node's owner may do everything to every app and team; an admin of
/// the node sees every team, sees and operates every app, but neither destroys nor gives one away. An account belongs to
/// itself. The node is its owner's and its admins'; who these are, the owner says.
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
        Object::Team(role) => {
            let role = team_role(principal.role, role).ok_or(Refusal::Stranger)?;
            let yes = match verb {
                Verb::ViewTeam | Verb::OwnAccess => true,
                Verb::ViewMembers => role != TeamRole::Collaborator,
                Verb::AddTeamApp => matches!(role, TeamRole::Admin | TeamRole::Member),
                Verb::ManageTeam | Verb::Share => role == TeamRole::Admin,
                _ => false,
            };
            allowed(yes, Refusal::Forbidden)
        }
        Object::Node => {
            let yes = match principal.role {
                Role::Owner => matches!(verb, Verb::SeeNode | Verb::Administer | Verb::Appoint),
                Role::Admin => matches!(verb, Verb::SeeNode | Verb::Administer),
                Role::Member => false,
            };
            allowed(yes, Refusal::Forbidden)
        }
    }
}

/// Everything that an account of this role may do to an app that it stands in this relation to.
fn app_permissions(role: Role, relation: &Relation) -> Permissions {
    use Permission::{Deploy, Operate, View};
    if relation.is_owner || role == Role::Owner || relation.team_role == Some(TeamRole::Admin) {
        return Permission::ALL.into();
    }
    let mut permissions = relation.permissions.clone();
    if matches!(relation.team_role, Some(TeamRole::Member | TeamRole::Viewer)) {
        permissions.insert(View);
    }
    if role == Role::Admin {
        permissions.extend([View, Deploy, Operate]);
    }
    permissions
}

/// What an account of this role on the node is in a team that it is this in.
fn team_role(role: Role, own: Option<TeamRole>) -> Option<TeamRole> {
    let of_node = match role {
        Role::Owner => Some(TeamRole::Admin),
        Role::Admin => Some(TeamRole::Viewer),
        Role::Member => None,
    };
    // The first is the one that may do more.
    [own, of_node].into_iter().flatten().min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    const ALL: [Verb; 23] = [
        Verb::View,
        Verb::Fetch,
        Verb::ReadConfig,
        Verb::WriteConfig,
        Verb::Push,
        Verb::Release,
        Verb::Run,
        Verb::Operate,
        Verb::Change,
        Verb::OwnAccess,
        Verb::Manage,
        Verb::Share,
        Verb::ViewAccount,
        Verb::ChangeAccount,
        Verb::Browse,
        Verb::Create,
        Verb::ViewTeam,
        Verb::ViewMembers,
        Verb::AddTeamApp,
        Verb::ManageTeam,
        Verb::SeeNode,
        Verb::Administer,
        Verb::Appoint,
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
        let all = "View Fetch ReadConfig WriteConfig Push Release Run Operate Change OwnAccess Manage Share";
        assert_eq!(app(&[Scope::Global]), all);
        assert_eq!(account(&[Scope::Global]), "ViewAccount ChangeAccount Browse Create");
        assert_eq!(app(&[Scope::Identity]), "");
        assert_eq!(account(&[Scope::Identity]), "ViewAccount");
        assert_eq!(app(&[Scope::Read]), "View Fetch");
        assert_eq!(account(&[Scope::Read]), "ViewAccount Browse");
        assert_eq!(app(&[Scope::ReadProtected]), "View Fetch ReadConfig");
        assert_eq!(app(&[Scope::Write]), "Operate Change OwnAccess Manage");
        assert_eq!(account(&[Scope::Write]), "Create");
        assert_eq!(
            app(&[Scope::WriteProtected]),
            "WriteConfig Push Release Run Operate Change OwnAccess Manage Share"
        );
        assert_eq!(app(&[Scope::ReadProtected, Scope::WriteProtected]), all);
        assert_eq!((app(&[]), account(&[])), (String::new(), String::new()));
    }

    #[test]
    fn each_permission_opens_what_herokus_table_says() {
        let app = |permissions: &[Permission]| {
            let permissions = permissions.iter().copied().collect();
            let relation = Relation { permissions, ..Relation::default() };
            allowed(Role::Member, &[Scope::Global], Object::App(&relation))
        };
        assert_eq!(app(&[]), "");
        assert_eq!(app(&[Permission::View]), "View OwnAccess");
        assert_eq!(
            app(&[Permission::Deploy]),
            "View Fetch ReadConfig WriteConfig Push Release Run OwnAccess"
        );
        assert_eq!(
            app(&[Permission::Operate]),
            "View ReadConfig WriteConfig Release Run Operate Change OwnAccess"
        );
        assert_eq!(app(&[Permission::Manage]), "View Change OwnAccess Manage Share");
    }

    #[test]
    fn the_nodes_admins_operate_every_app_and_only_its_owner_takes_one_away() {
        let foreign = Relation::default();
        let app = |role| allowed(role, &[Scope::Global], Object::App(&foreign));
        assert_eq!(app(Role::Member), "");
        assert_eq!(
            app(Role::Admin),
            "View Fetch ReadConfig WriteConfig Push Release Run Operate Change OwnAccess"
        );
        assert!(app(Role::Owner).ends_with("Manage Share"));
        let node = |role| allowed(role, &[Scope::Global], Object::Node);
        assert_eq!(
            (node(Role::Member).as_str(), node(Role::Admin).as_str(), node(Role::Owner).as_str()),
            ("", "SeeNode Administer", "SeeNode Administer Appoint")
        );
        assert_eq!(allowed(Role::Admin, &[Scope::Read], Object::Node), "SeeNode");
        let other = Object::Account(AccountId(Uuid::from_u128(2)));
        assert_eq!(allowed(Role::Owner, &[Scope::Global], other), "");
    }

    #[test]
    fn a_teams_roles_open_the_team_and_its_apps() {
        let team = |role, own| allowed(role, &[Scope::Global], Object::Team(own));
        assert_eq!(team(Role::Member, None), "");
        assert_eq!(team(Role::Member, Some(TeamRole::Collaborator)), "OwnAccess ViewTeam");
        assert_eq!(team(Role::Member, Some(TeamRole::Viewer)), "OwnAccess ViewTeam ViewMembers");
        assert_eq!(team(Role::Member, Some(TeamRole::Member)), "OwnAccess ViewTeam ViewMembers AddTeamApp");
        let all = "OwnAccess Share ViewTeam ViewMembers AddTeamApp ManageTeam";
        assert_eq!(team(Role::Member, Some(TeamRole::Admin)), all);
        assert_eq!(team(Role::Owner, None), all);
        assert_eq!(team(Role::Admin, None), "OwnAccess ViewTeam ViewMembers");
        assert_eq!(team(Role::Admin, Some(TeamRole::Admin)), all, "what it is there itself counts too");
        let app = |team_role| {
            let relation = Relation { team_role: Some(team_role), ..Relation::default() };
            allowed(Role::Member, &[Scope::Global], Object::App(&relation))
        };
        assert!(app(TeamRole::Admin).ends_with("Manage Share"));
        assert_eq!(app(TeamRole::Member), "View OwnAccess");
        assert_eq!(app(TeamRole::Viewer), "View OwnAccess");
        assert_eq!(app(TeamRole::Collaborator), "");
    }
}
