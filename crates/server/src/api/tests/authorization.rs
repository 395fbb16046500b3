//! Every route of the router table with every role, compared with `authorization.txt`, which a person can read.

use super::Api;
use crate::api;
use crate::listener::ClientConnection;
use crate::node::now_ms;
use axum::body::{Body, to_bytes};
use ferroku_core::account::Role;
use ferroku_core::app::App;
use ferroku_core::collaborator::Permission::{self, Deploy, Manage, Operate, View};
use ferroku_core::event::Actor;
use ferroku_core::oauth_authorization::{Scope, Scopes};
use ferroku_core::slug::ProcessTypes;
use ferroku_core::team::TeamRole;
use ferroku_core::{AccountId, AppId, AppTransferId, TeamId};
use ferroku_store::apps::{self, NewApp};
use ferroku_store::{
    StoreError, accounts, app_transfers, collaborators, formations, oauth_authorizations, team_members,
    teams, write,
};
use http::{Method, Request, StatusCode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use tower::ServiceExt;
use uuid::Uuid;

const APP: &str = "walk";
const OWNER: &str = "ada@example.com";
const TEAM: &str = "walkers";
const TEAM_APP: &str = "walk-together";
const SPARE: &str = "spare@example.com";
/// A body that no handler takes: whoever is let in is told so, and nothing happens.
const NO_BODY: &str = "[]";
/// Longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// A line of the table.
struct Row {
    method: Method,
    /// As in the router table; a query may follow.
    path: &'static str,
    body: &'static str,
    cells: Vec<&'static str>,
}

/// The table's columns and rows.
fn table() -> (Vec<&'static str>, Vec<Row>) {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/tests/authorization.txt");
    // Read, not included, so that a new row is no new build; it stays for as long as the test runs.
    let text: &'static str = std::fs::read_to_string(file).expect("the table").leak();
    let mut lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let columns = lines.next().expect("a header").split_whitespace().skip(2).collect();
    let row = |line: &'static str| {
        let mut words = line.split_whitespace().peekable();
        let method = words.next().expect("a method").parse().expect("a method");
        let path = words.next().expect("a path");
        let body = words.next_if(|word| word.starts_with("{\"")).unwrap_or(NO_BODY);
        Row { method, path, body, cells: words.collect() }
    };
    (columns, lines.map(row).collect())
}

/// Two apps, a person's and a team's, with all kinds of people around them.
struct World {
    api: Api,
    router: axum::Router,
    owner: Actor,
    /// The team's admin, who made its app.
    admin: Actor,
    team: TeamId,
    /// In the team, and a collaborator of both apps: who is removed.
    spare: AccountId,
    /// To whom the app is offered.
    recipient: AccountId,
    /// By the table's columns; None sends no credentials.
    tokens: BTreeMap<&'static str, Option<String>>,
    /// Of the person's app, by what they may do to it.
    collaborators: Vec<(AccountId, Vec<Permission>)>,
}

/// What the parameters in paths stand for, as long as it is there.
struct Ids {
    authorization: String,
    transfer: String,
}

impl World {
    async fn new() -> Self {
        let api = Api::start().await;
        let router = api::app(api.node.clone());
        let owner = actor(&api, OWNER, Role::Member).await;
        let mut tokens = BTreeMap::from([("none", None), ("nown", Some(api.owner.api_key.clone()))]);
        let scopes = [
            ("iden", Scope::Identity),
            ("read", Scope::Read),
            ("writ", Scope::Write),
            ("rdpr", Scope::ReadProtected),
            ("wrpr", Scope::WriteProtected),
            ("owne", Scope::Global),
        ];
        for (column, scope) in scopes {
            tokens.insert(column, Some(api.token(owner.account_id, &Scopes::from_iter([scope])).await));
        }
        let people: [(&str, Role, &[Permission]); 7] = [
            ("stra", Role::Member, &[]),
            ("coll", Role::Member, &[View, Deploy, Operate]),
            ("view", Role::Member, &[View]),
            ("depl", Role::Member, &[View, Deploy]),
            ("oper", Role::Member, &[View, Operate]),
            ("mana", Role::Member, &[View, Manage]),
            ("nadm", Role::Admin, &[]),
        ];
        let spare = api.account(SPARE, Role::Member).await;
        let mut collaborators = vec![(spare, vec![View])];
        for (column, role, permissions) in people {
            let id = api.account(&format!("{column}@example.com"), role).await;
            tokens.insert(column, Some(api.token(id, &Scopes::global()).await));
            if !permissions.is_empty() {
                collaborators.push((id, permissions.to_vec()));
            }
        }
        let recipient = collaborators[1].0;
        let admin = actor(&api, "tadm@example.com", Role::Member).await;
        tokens.insert("tadm", Some(api.token(admin.account_id, &Scopes::global()).await));
        let store = &api.node.store;
        let team = TeamId(Uuid::new_v4());
        teams::create(store, team, TEAM, &admin, 0).await.expect("a team");
        let roles =
            [("tmem", TeamRole::Member), ("tvie", TeamRole::Viewer), ("tcol", TeamRole::Collaborator)];
        for (column, role) in roles {
            let id = api.account(&format!("{column}@example.com"), Role::Member).await;
            tokens.insert(column, Some(api.token(id, &Scopes::global()).await));
            let account = accounts::find(store, id).await.expect("read").expect("made");
            team_members::put(store, team, &account, role, &admin, 0).await.expect("a member");
        }
        Self { api, router, owner, admin, team, spare, recipient, tokens, collaborators }
    }

    /// Makes an app, unless it is there.
    async fn restore_app(&self, name: &str, team: Option<TeamId>, owner: &Actor) -> App {
        let store = &self.api.node.store;
        let app = match apps::find(store, name).await.expect("read") {
            Some(app) => app,
            None => {
                let new = NewApp { id: AppId(Uuid::new_v4()), name, stack: "heroku-24", region: "us" };
                let app = apps::create_in(store, &new, team, owner, now_ms()).await.expect("an app");
                let types: ProcessTypes = [("web".to_owned(), "serve".to_owned())].into_iter().collect();
                let made: Result<(), StoreError> = async {
                    write!(store, tx => { formations::apply_process_types(&mut tx, app.id, &types, true, 5).await })
                }
                .await;
                made.expect("its process types");
                app
            }
        };
        let wanted = self.collaborators.iter().filter(|(id, _)| team.is_none() || *id == self.spare);
        for (id, permissions) in wanted {
            if collaborators::permissions(store, app.id, *id).await.expect("read").is_empty() {
                let permissions = permissions.iter().copied().collect();
                let made: Result<(), StoreError> = async {
                    write!(store, tx => { collaborators::create(&mut tx, app.id, *id, &permissions, 0).await })
                }
                .await;
                made.expect("a collaborator");
            }
        }
        app
    }

    /// Makes whatever a request may have taken away.
    async fn restore(&self) -> Ids {
        let store = &self.api.node.store;
        let app = self.restore_app(APP, None, &self.owner).await;
        self.restore_app(TEAM_APP, Some(self.team), &self.admin).await;
        if teams::role(store, self.team, self.spare).await.expect("read").is_none() {
            let spare = accounts::find(store, self.spare).await.expect("read").expect("made");
            let added = team_members::put(store, self.team, &spare, TeamRole::Viewer, &self.admin, 0);
            added.await.expect("a member");
        }
        let owner = self.owner.account_id;
        let account = accounts::find(store, owner).await.expect("read").expect("made");
        if account.role != Role::Member {
            let dismissed = accounts::set_role(store, owner, Role::Member, &self.owner, 0);
            dismissed.await.expect("an ordinary account again");
        }
        let transfer = match app_transfers::list_for_account(store, owner).await.expect("read").pop() {
            Some(transfer) => transfer.id,
            None => {
                let id = AppTransferId(Uuid::new_v4());
                let made = app_transfers::create(store, id, &app, self.recipient, &self.owner, 0);
                made.await.expect("a transfer");
                id
            }
        };
        let disposable = async || {
            let own = oauth_authorizations::list(store, owner, now_ms()).await.expect("read");
            own.into_iter().find(|one| one.scope == Scopes::default()).map(|one| one.id)
        };
        if disposable().await.is_none() {
            self.api.token(owner, &Scopes::default()).await;
        }
        let authorization = disposable().await.expect("just made");
        Ids { authorization: authorization.to_string(), transfer: transfer.to_string() }
    }

    /// What this row's request is answered, and whether who is refused has changed nothing.
    async fn ask_cleanly(&self, row: &Row, column: &str) -> (Ids, String, bool) {
        // What was asked for before may be written down a moment later, but not each time.
        const ATTEMPTS: usize = 5;
        let mut attempt = 1;
        loop {
            let ids = self.restore().await;
            let before = self.api.node.store.writes();
            let cell = self.ask(&row.method, row, column, &ids).await;
            let is_clean = cell == "ok" || self.api.node.store.writes() == before;
            if is_clean || attempt == ATTEMPTS {
                return (ids, cell, is_clean);
            }
            attempt += 1;
        }
    }

    /// What a request of this row, by this method, is answered when the column's role sends it.
    async fn ask(&self, method: &Method, row: &Row, column: &str, ids: &Ids) -> String {
        let app = if column.starts_with('t') { TEAM_APP } else { APP };
        let uri = concrete(row.path, app, ids);
        let client = ClientConnection { remote: ([127, 0, 0, 1], 9).into(), tls: false };
        let mut request = Request::builder().method(method).uri(&uri).extension(client);
        if let Some(token) = &self.tokens[column] {
            use base64::Engine;
            // The app as the user is what `/api/v2` wants, and nobody else minds.
            let basic = base64::engine::general_purpose::STANDARD.encode(format!("{app}:{token}"));
            request = request.header("authorization", format!("Basic {basic}"));
        }
        let request = request.body(Body::from(row.body)).expect("a request");
        let answer = self.router.clone().oneshot(request).await.expect("infallible");
        let status = answer.status();
        let is_git = row.path.contains("{repository}");
        // These nodes have no repositories: whoever is let in finds that git cannot be run.
        assert!(!status.is_server_error() || is_git, "{method} {uri} by {column}: {status}");
        let body = to_bytes(answer.into_body(), MAX_ANSWER_BYTES).await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => status.as_u16().to_string(),
            // That the owner has no such dyno is not the same as that others are not told.
            StatusCode::NOT_FOUND if HIDDEN.iter().any(|noun| body["resource"] == *noun) => "404".to_owned(),
            _ => "ok".to_owned(),
        }
    }
}

async fn actor(api: &Api, email: &str, role: Role) -> Actor {
    let account_id = api.account(email, role).await;
    Actor { account_id, email: email.to_owned(), remote_address: None, request_id: None }
}

/// What anybody may ask for: what proves who somebody is, links that are credentials themselves, and names of ours.
const OPEN_TO_ALL: [&str; 7] = [
    "/auth",
    "/password-resets",
    "/password-resets/{token}/actions/finalize",
    "/buildpacks/{name}",
    "/logs/{token}",
    "/streams/builds/{token}",
    "/streams/releases/{token}",
];

/// What is there for some and not for others: its 404 is a refusal.
const HIDDEN: [&str; 3] = ["app", "authorization", "app transfer"];

/// The path with something in place of its parameters.
fn concrete(path: &str, app: &str, ids: &Ids) -> String {
    let (repository, host) = (format!("{app}.git"), format!("{app}.localhost"));
    let parameters = [
        ("{account}", OWNER),
        ("{app}", app),
        ("{authorization}", &ids.authorization),
        ("{collaborator}", SPARE),
        ("{domain}", &host),
        ("{feature}", "http-session-affinity"),
        ("{formation}", "web"),
        ("{member}", SPARE),
        ("{release}", "1"),
        ("{repository}", &repository),
        ("{team}", TEAM),
        ("{transfer}", &ids.transfer),
        ("{type}", "web"),
        ("{user}", OWNER),
    ];
    let mut path = path.to_owned();
    for (name, value) in parameters {
        path = path.replace(name, value);
    }
    // Of the rest there is none.
    while let Some((before, after)) = path.split_once('{') {
        let rest = after.split_once('}').expect("closed").1;
        path = format!("{before}01234567-89ab-cdef-0123-456789abcdef{rest}");
    }
    path
}

#[tokio::test]
async fn every_route_lets_in_whom_the_table_says_and_nobody_else() {
    let (columns, rows) = table();
    let world = World::new().await;
    let known: BTreeSet<&str> = world.tokens.keys().copied().collect();
    assert_eq!(columns.iter().copied().collect::<BTreeSet<_>>(), known, "the table's columns are the roles");
    let mut wrong = Vec::new();
    for row in &rows {
        let mut seen = Vec::new();
        for column in &columns {
            let (ids, cell, is_clean) = world.ask_cleanly(row, column).await;
            if !is_clean {
                wrong.push(format!("{} {} by {column}: {cell}, but done", row.method, row.path));
            }
            // HEAD has no body, which alone says what a 404 is of.
            if row.method == Method::GET && cell != "404" {
                let head = world.ask(&Method::HEAD, row, column, &ids).await;
                if head != cell {
                    wrong.push(format!("HEAD {} by {column}: {head}, and GET {cell}", row.path));
                }
            }
            seen.push(cell);
        }
        if seen != row.cells {
            wrong.push(format!("{} {} {}", row.method, row.path, seen.join(" ")));
        }
    }
    let listed = |(method, path): &&(Method, &'static str)| {
        rows.iter().any(|row| row.method == *method && row.path.split('?').next() == Some(*path))
    };
    let routes = api::routes();
    let missing = routes.table().iter().filter(|route| !listed(route));
    wrong.extend(missing.map(|(method, path)| format!("{method} {path} has no row")));
    let is_route = |row: &&Row| {
        let path = row.path.split('?').next();
        routes.table().iter().any(|(method, known)| *method == row.method && path == Some(*known))
    };
    let open = rows.iter().filter(|row| row.cells[0] == "ok").map(|row| row.path);
    assert_eq!(open.collect::<Vec<_>>(), OPEN_TO_ALL, "what takes no credentials is few, and looked at");
    let gone = rows.iter().filter(|row| !is_route(row));
    wrong.extend(gone.map(|row| format!("{} {} is no route any more", row.method, row.path)));
    assert!(
        wrong.is_empty(),
        "authorization.txt says otherwise:\n{}\n{}",
        columns.join(" "),
        wrong.join("\n")
    );
}

#[tokio::test]
async fn a_token_of_any_scope_may_show_and_revoke_itself_and_nothing_else() {
    let api = Api::start().await;
    let account = api.account(OWNER, Role::Member).await;
    let other = api.token(account, &Scopes::default()).await;
    let token = api.token(account, &Scopes::from_iter([Scope::Write])).await;
    let hash = |token: &str| crate::auth::token_hash(&token.to_owned().into());
    let id = async |token: &str| {
        let found = accounts::by_token_hash(&api.node.store, &hash(token), now_ms()).await.expect("read");
        found.expect("good").1.id.to_string()
    };
    let (own_path, other_path) = (
        format!("/oauth/authorizations/{}", id(&token).await),
        format!("/oauth/authorizations/{}", id(&other).await),
    );
    let client = ferroku_api::Client::new(&api.url, &token);
    let ask = async |method: Method, path: &str| {
        client.request(method, path).send().await.expect("answered").status().as_u16()
    };
    assert_eq!(ask(Method::GET, &own_path).await, 200);
    for method in [Method::GET, Method::DELETE] {
        assert_eq!(ask(method, &other_path).await, 403);
    }
    assert_eq!(ask(Method::PATCH, &own_path).await, 403, "not to change itself");
    assert_eq!(ask(Method::POST, &format!("{own_path}/actions/regenerate-tokens")).await, 403);
    assert_eq!(ask(Method::GET, "/oauth/authorizations/~").await, 403);
    assert_eq!(ask(Method::DELETE, &own_path).await, 200);
    assert_eq!(ask(Method::GET, &own_path).await, 401, "revoked");
    id(&other).await;
}

#[tokio::test]
async fn who_has_an_account_cannot_be_asked_for_long() {
    let api = Api::start().await;
    let asker = api.member(OWNER).await;
    let other = api.member("other@example.com").await;
    api.account(SPARE, Role::Member).await;
    for (client, app) in [(&asker, APP), (&other, "walk-away")] {
        let made = client.request(Method::POST, "/apps").body(format!(r#"{{"name":"{app}"}}"#)).send().await;
        assert_eq!(made.expect("answered").status().as_u16(), 201);
    }
    let share = async |client: &ferroku_api::Client, app: &str, user: &str| {
        let request = client.request(Method::POST, &format!("/apps/{app}/collaborators"));
        let answer = request.body(format!(r#"{{"user":"{user}"}}"#)).send().await.expect("answered");
        answer.status().as_u16()
    };
    for round in 0..2 {
        let wanted = if round == 0 { 201 } else { 422 };
        assert_eq!(share(&asker, APP, SPARE).await, wanted, "a hit costs nothing");
    }
    for number in 0..crate::people::throttle::MISSES_PER_ACCOUNT {
        assert_eq!(share(&asker, APP, &format!("nobody{number}@example.com")).await, 422);
    }
    assert_eq!(share(&asker, APP, "nobody@example.com").await, 429);
    assert_eq!(share(&asker, APP, "other@example.com").await, 429, "hits look like misses");
    assert_eq!(share(&other, "walk-away", SPARE).await, 201, "somebody else");
}
