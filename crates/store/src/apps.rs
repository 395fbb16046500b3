//! Apps.
//!
//! Creating one writes its first two releases too, so that every app always has a current release with a
//! config snapshot. Destroying one removes all its rows and leaves a job that takes away what it has on disk
//! and in memory; that job is the only trace by then.

use crate::acm::ORDER_JOB;
use crate::events::NewEvent;
use crate::node_settings::{APP_COUNT, take_number};
use crate::releases::{ConfigChange, NewRelease, SlugChange};
use crate::row::{Columns, failed, failed_or_taken};
use crate::{
    Connection, Result, Store, StoreError, app_transfers, collaborators, eco_hours, events, jobs, limits,
    releases, write,
};
use ferroku_core::app::App;
use ferroku_core::collaborator::Permission;
use ferroku_core::event::Actor;
use ferroku_core::release::FIRST_DESCRIPTIONS;
use ferroku_core::uids::{APP_UIDS, FIRST_APP_UID};
use ferroku_core::{AccountId, AppId, Millis, ReleaseId, TeamId};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;
use uuid::Uuid;

/// Kind of the job that finishes an app's destruction.
pub const DESTROY_JOB: &str = "app.destroy";

/// What is read of an app beside its row: how many of its process types are of size eco.
macro_rules! columns {
    () => {
        "*, (SELECT COUNT(*) FROM formation WHERE formation.app_id = app.id AND formation.size = 'eco') AS eco_types"
    };
}

/// A `SELECT` of whole apps, as one static text.
macro_rules! select {
    ($rest:literal) => {
        concat!("SELECT ", columns!(), " FROM app ", $rest)
    };
}

/// An `UPDATE` that gives whole apps.
macro_rules! returning {
    ($update:literal) => {
        concat!($update, " RETURNING ", columns!())
    };
}

/// An app to be made; its owner is the actor.
#[derive(Debug)]
pub struct NewApp<'a> {
    pub id: AppId,
    pub name: &'a str,
    pub stack: &'a str,
    pub region: &'a str,
}

/// What may be changed of an app; None leaves a thing as it is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct AppChange {
    pub name: Option<String>,
    pub maintenance: Option<bool>,
    pub build_stack: Option<String>,
}

impl AppChange {
    /// What is changed, in words.
    fn description(&self) -> String {
        let maintenance = self.maintenance.map(|on| if on { "on" } else { "off" });
        [
            self.name.as_ref().map(|name| format!("Rename to {name}")),
            maintenance.map(|state| format!("Turn maintenance mode {state}")),
            self.build_stack.as_ref().map(|stack| format!("Build on {stack} from now on")),
        ]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join("\n")
    }
}

/// Payload of a [`DESTROY_JOB`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destroyed {
    pub app_id: AppId,
    pub name: String,
    /// Digests of the app's slugs. Another app may have a slug of the same digest.
    pub slug_digests: Vec<String>,
}

/// Makes an app with its releases v1 and v2 and a uid range that no app ever had.
///
/// # Errors
/// [`StoreError::Taken`] when there is an app of this name; [`StoreError::Refused`] when the node
/// has run out of uid ranges.
pub async fn create(store: &Store, new: &NewApp<'_>, actor: &Actor, now: Millis) -> Result<App> {
    create_in(store, new, None, actor, now).await
}

/// As [`create`], in a team if one is given.
///
/// # Errors
/// As [`create`].
pub async fn create_in(
    store: &Store,
    new: &NewApp<'_>,
    team_id: Option<TeamId>,
    actor: &Actor,
    now: Millis,
) -> Result<App> {
    write!(store, tx => {
        limits::check(&mut tx, actor.account_id, |usage| usage.apps += 1).await?;
        let number = take_number(&mut tx, APP_COUNT).await? - 1;
        let app = App {
            id: new.id,
            name: new.name.to_owned(),
            owner_id: actor.account_id,
            team_id,
            locked: false,
            stack: new.stack.to_owned(),
            build_stack: new.stack.to_owned(),
            region: new.region.to_owned(),
            maintenance: false,
            acm: false,
            eco: false,
            uid_base: uid_base(number)?,
            buildpack_provided_description: None,
            repo_size_bytes: 0,
            slug_size_bytes: 0,
            restart_generation: 0,
            released_at: Some(now),
            created_at: now,
            updated_at: now,
        };
        insert(&mut tx, &app).await?;
        collaborators::create(&mut tx, app.id, app.owner_id, &Permission::ALL.into(), now).await?;
        let log_message = Some(format!("Create {}", app.name));
        let event = NewEvent { app_id: Some(app.id), actor, kind: "app.create", log_message };
        events::append(&mut tx, event, now).await?;
        for description in FIRST_DESCRIPTIONS {
            let release = NewRelease {
                id: ReleaseId(Uuid::new_v4()),
                app_id: app.id,
                actor,
                description: description.to_owned(),
                slug: SlugChange::Keep,
                config: ConfigChange::Keep,
            };
            releases::create(&mut tx, store.key(), release, now).await?;
        }
        Ok(app)
    })
}

/// The app with this id or name.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, id_or_name: &str) -> Result<Option<App>> {
    let writes = store.recent.writes.so_far();
    if let Some(app) = store.recent.apps.get(writes, id_or_name) {
        return Ok(Some(app));
    }
    // No name has an id's form: names are shorter.
    let query = match id_or_name.parse::<AppId>() {
        Ok(_) => sqlx::query(select!("WHERE id = $1")),
        Err(_) => sqlx::query(select!("WHERE name = $1")),
    };
    let row = query.bind(id_or_name).fetch_optional(store.reader()).await.map_err(failed("find an app"))?;
    let found = row.as_ref().map(app).transpose()?;
    if let Some(app) = &found {
        store.recent.apps.put(writes, id_or_name.to_owned(), app.clone());
    }
    Ok(found)
}

/// The app with this id.
///
/// # Errors
/// The database failed.
pub async fn by_id(store: &Store, id: AppId) -> Result<Option<App>> {
    find(store, &id.to_string()).await
}

/// Every app of the node, by name.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store) -> Result<Vec<App>> {
    let rows =
        sqlx::query(select!("ORDER BY name")).fetch_all(store.reader()).await.map_err(failed("list apps"))?;
    rows.iter().map(app).collect()
}

/// The apps that an account sees, by name: its own, those it collaborates on, and those of its teams.
///
/// # Errors
/// The database failed.
pub async fn list_for_account(store: &Store, account_id: AccountId) -> Result<Vec<App>> {
    let rows = sqlx::query(select!(
        "WHERE (owner_id = $1 AND team_id IS NULL) \
         OR id IN (SELECT app_id FROM collaborator WHERE account_id = $1) \
         OR team_id IN (SELECT team_id FROM team_member WHERE account_id = $1 AND role <> 'collaborator') \
         ORDER BY name"
    ))
    .bind(account_id.to_string())
    .fetch_all(store.reader())
    .await
    .map_err(failed("list an account's apps"))?;
    rows.iter().map(app).collect()
}

/// A team's apps, by name.
///
/// # Errors
/// The database failed.
pub async fn list_of_team(store: &Store, team_id: TeamId) -> Result<Vec<App>> {
    let rows = sqlx::query(select!("WHERE team_id = $1 ORDER BY name"))
        .bind(team_id.to_string())
        .fetch_all(store.reader())
        .await
        .map_err(failed("list a team's apps"))?;
    rows.iter().map(app).collect()
}

/// Changes an app and gives it as it is then.
///
/// # Errors
/// [`StoreError::Taken`] when the new name belongs to another app; [`StoreError::NotFound`].
pub async fn update(store: &Store, id: AppId, change: &AppChange, actor: &Actor, now: Millis) -> Result<App> {
    write!(store, tx => {
        let row = sqlx::query(
            returning!("UPDATE app SET name = COALESCE($1, name), maintenance = COALESCE($2, maintenance), \
             build_stack = COALESCE($3, build_stack), updated_at = $4 WHERE id = $5"),
        )
        .bind(change.name.clone())
        .bind(change.maintenance.map(i64::from))
        .bind(change.build_stack.clone())
        .bind(now)
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed_or_taken("change an app", "app name"))?
        .ok_or(StoreError::NotFound { what: "app" })?;
        let log_message = Some(change.description());
        let event = NewEvent { app_id: Some(id), actor, kind: "app.update", log_message };
        events::append(&mut tx, event, now).await?;
        app(&row)
    })
}

/// Says whether a team's members may join the app by themselves.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn set_locked(store: &Store, id: AppId, locked: bool, actor: &Actor, now: Millis) -> Result<App> {
    write!(store, tx => {
        let row = sqlx::query(returning!("UPDATE app SET locked = $1, updated_at = $2 WHERE id = $3"))
            .bind(i64::from(locked))
            .bind(now)
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("lock an app"))?
            .ok_or(StoreError::NotFound { what: "app" })?;
        let kind = if locked { "app.lock" } else { "app.unlock" };
        events::append(&mut tx, NewEvent { app_id: Some(id), actor, kind, log_message: None }, now).await?;
        app(&row)
    })
}

/// Gives an app to a team. Who had access keeps it; transfers under way are void.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn give_to_team(store: &Store, id: AppId, team: TeamId, actor: &Actor, now: Millis) -> Result<App> {
    write!(store, tx => {
        let row = sqlx::query(
            returning!("UPDATE app SET team_id = $1, locked = 0, updated_at = $2 WHERE id = $3"),
        )
        .bind(team.to_string())
        .bind(now)
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("give an app to a team"))?
        .ok_or(StoreError::NotFound { what: "app" })?;
        app_transfers::forget_pending(&mut tx, id).await?;
        let event = NewEvent { app_id: Some(id), actor, kind: "app.transfer", log_message: None };
        events::append(&mut tx, event, now).await?;
        app(&row)
    })
}

/// Gives a team's app to an account. Nobody else keeps access.
///
/// # Errors
/// [`StoreError::NotFound`].
pub async fn give_to_account(
    store: &Store,
    id: AppId,
    owner_id: AccountId,
    actor: &Actor,
    now: Millis,
) -> Result<App> {
    write!(store, tx => {
        collaborators::delete_all(&mut tx, id).await?;
        let app = set_owner(&mut tx, id, owner_id, now).await?;
        let event = NewEvent { app_id: Some(id), actor, kind: "app.transfer", log_message: None };
        events::append(&mut tx, event, now).await?;
        Ok(app)
    })
}

/// Makes the account the app's only owner, inside a transaction.
///
/// # Errors
/// [`StoreError::NotFound`]; [`StoreError::Refused`] when the app with all that it takes is more than the account may have.
pub(crate) async fn set_owner(
    tx: &mut Connection,
    id: AppId,
    owner_id: AccountId,
    now: Millis,
) -> Result<App> {
    let before = limits::usage(tx, owner_id).await?;
    eco_hours::count_app(tx, id, now).await?;
    let row = sqlx::query(returning!(
        "UPDATE app SET owner_id = $1, team_id = NULL, locked = 0, updated_at = $2 WHERE id = $3"
    ))
    .bind(owner_id.to_string())
    .bind(now)
    .bind(id.to_string())
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed("change an app's owner"))?
    .ok_or(StoreError::NotFound { what: "app" })?;
    limits::check_growth(tx, owner_id, &before).await?;
    collaborators::put(tx, id, owner_id, &Permission::ALL.into(), now).await?;
    app(&row)
}

/// Notes how large the app's repository is.
///
/// # Errors
/// The database failed.
pub async fn set_repo_size(store: &Store, id: AppId, size_bytes: i64) -> Result<()> {
    write!(store, tx => {
        sqlx::query("UPDATE app SET repo_size_bytes = $1 WHERE id = $2")
            .bind(size_bytes)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("note a repository's size"))?;
        Ok(())
    })
}

/// Removes every row of an app and writes the job that takes away the rest. Its name is free at once.
///
/// # Errors
/// [`StoreError::NotFound`] when it is gone already.
pub async fn destroy(store: &Store, id: AppId, actor: &Actor, now: Millis) -> Result<Destroyed> {
    write!(store, tx => {
        let text = id.to_string();
        let row = sqlx::query("SELECT name FROM app WHERE id = $1")
            .bind(&text)
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("find an app"))?
            .ok_or(StoreError::NotFound { what: "app" })?;
        let slugs = sqlx::query("SELECT DISTINCT digest FROM slug WHERE app_id = $1 ORDER BY digest")
            .bind(&text)
            .fetch_all(&mut *tx)
            .await
            .map_err(failed("list an app's slugs"))?;
        let slug_digests = slugs.iter().map(|slug| slug.text("digest")).collect::<Result<_>>()?;
        let destroyed = Destroyed { app_id: id, name: row.text("name")?, slug_digests };
        jobs::cancel(&mut tx, ORDER_JOB, id).await?;
        eco_hours::count_app(&mut tx, id, now).await?;
        // In the order of their references, so that neither database depends on its cascade's order.
        for statement in [
            "DELETE FROM domain WHERE app_id = $1",
            "DELETE FROM sni_endpoint WHERE app_id = $1",
            "DELETE FROM dyno WHERE app_id = $1",
            "DELETE FROM build WHERE app_id = $1",
            "DELETE FROM release WHERE app_id = $1",
            "DELETE FROM slug WHERE app_id = $1",
            "DELETE FROM config_snapshot WHERE app_id = $1",
            "DELETE FROM app WHERE id = $1",
        ] {
            sqlx::query(statement).bind(&text).execute(&mut *tx).await.map_err(failed("delete an app's rows"))?;
        }
        let payload = serde_json::to_string(&destroyed).expect("ids and strings have a JSON form");
        jobs::create(&mut tx, DESTROY_JOB, Some(id), &payload, now).await?;
        let event = NewEvent { app_id: Some(id), actor, kind: "app.destroy", log_message: Some(format!("Destroy {}", destroyed.name)) };
        events::append(&mut tx, event, now).await?;
        Ok(destroyed)
    })
}

/// The first uid of the node's app number `number`, counted from 0.
fn uid_base(number: i64) -> Result<u32> {
    u32::try_from(number)
        .ok()
        .and_then(|number| number.checked_mul(APP_UIDS))
        .and_then(|offset| offset.checked_add(FIRST_APP_UID))
        // The whole range must lie below the largest uid, which stands for "no user".
        .filter(|base| base.checked_add(APP_UIDS).is_some())
        .ok_or_else(|| StoreError::Refused("This node has given away all its user id ranges.".to_owned()))
}

/// Switches automatic certificate management on or off, inside a transaction.
///
/// # Errors
/// [`StoreError::NotFound`] when the app is gone.
pub(crate) async fn set_acm(tx: &mut Connection, id: AppId, acm: bool, now: Millis) -> Result<App> {
    let row = sqlx::query(returning!("UPDATE app SET acm = $1, updated_at = $2 WHERE id = $3"))
        .bind(i64::from(acm))
        .bind(now)
        .bind(id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("switch an app's certificate management"))?
        .ok_or(StoreError::NotFound { what: "app" })?;
    app(&row)
}

async fn insert(tx: &mut Connection, app: &App) -> Result<()> {
    sqlx::query(
        "INSERT INTO app (id, name, owner_id, stack, build_stack, region, uid_base, team_id, \
         released_at, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9, $9)",
    )
    .bind(app.id.to_string())
    .bind(&app.name)
    .bind(app.owner_id.to_string())
    .bind(&app.stack)
    .bind(&app.build_stack)
    .bind(&app.region)
    .bind(i64::from(app.uid_base))
    .bind(app.team_id.map(|id| id.to_string()))
    .bind(app.created_at)
    .execute(&mut *tx)
    .await
    .map_err(failed_or_taken("create an app", "app name"))?;
    Ok(())
}

fn app(row: &AnyRow) -> Result<App> {
    Ok(App {
        id: row.parsed("id")?,
        name: row.text("name")?,
        owner_id: row.parsed("owner_id")?,
        team_id: row.optional_parsed("team_id")?,
        locked: row.flag("locked")?,
        stack: row.text("stack")?,
        build_stack: row.text("build_stack")?,
        region: row.text("region")?,
        maintenance: row.flag("maintenance")?,
        acm: row.flag("acm")?,
        eco: row.integer("eco_types")? > 0,
        uid_base: row.number("uid_base")?,
        buildpack_provided_description: row.optional_text("buildpack_provided_description")?,
        repo_size_bytes: row.integer("repo_size_bytes")?,
        slug_size_bytes: row.integer("slug_size_bytes")?,
        restart_generation: row.integer("restart_generation")?,
        released_at: row.optional_integer("released_at")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}
