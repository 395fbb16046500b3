//! Pipelines, the apps in them, and promotions.
//!
//! A promotion gives each target a slug of its own with the digest of the source's, and releases it there, in one
//! transaction a target: the tree on the disk is the same. A target that has neither a release nor an error when the
//! node starts was cut off ([`fail_cut_off`]).

use crate::events::NewEvent;
use crate::releases::{ConfigChange, NewRelease, SlugChange};
use crate::row::{Columns, failed, failed_or_taken, word};
use crate::{Connection, Result, Store, StoreError, events, limits, releases, slugs, write};
use ferroku_core::app::App;
use ferroku_core::event::Actor;
use ferroku_core::pipeline::{
    Coupling, MAX_PIPELINES, Pipeline, PipelineOwner, Promotion, Stage, Target, description,
};
use ferroku_core::release::Release;
use ferroku_core::slug::Slug;
use ferroku_core::{
    AccountId, AppId, Millis, PipelineCouplingId, PipelineId, PipelinePromotionId, PipelinePromotionTargetId,
    ReleaseId, SlugId,
};
use sqlx::any::AnyRow;
use uuid::Uuid;

/// What a target of a promotion says that a crash of the node cut off.
const CUT_OFF: &str = "The node was restarted before the promotion came to this app. Promote again.";

/// Makes a pipeline.
///
/// # Errors
/// [`StoreError::Taken`] when there is one of this name; [`StoreError::Refused`] when its owner has too many.
pub async fn create(
    store: &Store,
    name: &str,
    owner: PipelineOwner,
    actor: &Actor,
    now: Millis,
) -> Result<Pipeline> {
    let (owner_id, team_id) = match owner {
        PipelineOwner::User(id) => (Some(id.to_string()), None),
        PipelineOwner::Team(id) => (None, Some(id.to_string())),
    };
    let id = PipelineId(Uuid::new_v4());
    write!(store, tx => {
        let row = sqlx::query("SELECT COUNT(*) AS pipelines FROM pipeline WHERE owner_id = $1 OR team_id = $2")
            .bind(owner_id.clone())
            .bind(team_id.clone())
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("count pipelines"))?;
        if row.number::<u64>("pipelines")? >= MAX_PIPELINES {
            let why = format!("There are {MAX_PIPELINES} pipelines already, which is the limit. Destroy one.");
            return Err(StoreError::Refused(why));
        }
        let row = sqlx::query(
            "INSERT INTO pipeline (id, name, owner_id, team_id, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $5) RETURNING *",
        )
        .bind(id.to_string())
        .bind(name)
        .bind(owner_id.clone())
        .bind(team_id.clone())
        .bind(now)
        .fetch_one(&mut *tx)
        .await
        .map_err(failed_or_taken("create a pipeline", "pipeline name"))?;
        note(&mut tx, None, "pipeline.create", None, actor, now).await?;
        pipeline(&row)
    })
}

/// The pipeline of this id or name.
///
/// # Errors
/// The database failed.
pub async fn find(store: &Store, id_or_name: &str) -> Result<Option<Pipeline>> {
    let row = sqlx::query("SELECT * FROM pipeline WHERE id = $1 OR name = $1")
        .bind(id_or_name)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a pipeline"))?;
    row.as_ref().map(pipeline).transpose()
}

/// Every pipeline, by name.
///
/// # Errors
/// The database failed.
pub async fn list(store: &Store) -> Result<Vec<Pipeline>> {
    let rows = sqlx::query("SELECT * FROM pipeline ORDER BY name")
        .fetch_all(store.reader())
        .await
        .map_err(failed("list pipelines"))?;
    rows.iter().map(pipeline).collect()
}

/// The pipelines that an account sees, by name: its own, its teams', and those that have an app which it sees.
///
/// # Errors
/// The database failed.
pub async fn list_for_account(store: &Store, account_id: AccountId) -> Result<Vec<Pipeline>> {
    let rows = sqlx::query(
        "SELECT * FROM pipeline WHERE owner_id = $1 \
         OR team_id IN (SELECT team_id FROM team_member WHERE account_id = $1 AND role <> 'collaborator') \
         OR id IN (SELECT c.pipeline_id FROM pipeline_coupling c JOIN app a ON a.id = c.app_id \
           WHERE (a.owner_id = $1 AND a.team_id IS NULL) \
           OR a.id IN (SELECT app_id FROM collaborator WHERE account_id = $1) \
           OR a.team_id IN (SELECT team_id FROM team_member WHERE account_id = $1 AND role <> 'collaborator')) \
         ORDER BY name",
    )
    .bind(account_id.to_string())
    .fetch_all(store.reader())
    .await
    .map_err(failed("list an account's pipelines"))?;
    rows.iter().map(pipeline).collect()
}

/// Renames a pipeline.
///
/// # Errors
/// [`StoreError::Taken`] when there is one of this name.
pub async fn rename(
    store: &Store,
    id: PipelineId,
    name: &str,
    actor: &Actor,
    now: Millis,
) -> Result<Pipeline> {
    write!(store, tx => {
        let row = sqlx::query("UPDATE pipeline SET name = $1, updated_at = $2 WHERE id = $3 RETURNING *")
            .bind(name)
            .bind(now)
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed_or_taken("rename a pipeline", "pipeline name"))?
            .ok_or(StoreError::NotFound { what: "pipeline" })?;
        note(&mut tx, None, "pipeline.update", None, actor, now).await?;
        pipeline(&row)
    })
}

/// Removes a pipeline; its apps stay.
///
/// # Errors
/// The database failed.
pub async fn delete(store: &Store, id: PipelineId, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("DELETE FROM pipeline WHERE id = $1")
            .bind(id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("delete a pipeline"))?;
        note(&mut tx, None, "pipeline.destroy", None, actor, now).await
    })
}

const COUPLINGS: &str = "SELECT c.id, c.pipeline_id, c.app_id, c.stage, c.created_at, c.updated_at, \
     p.name AS pipeline_name FROM pipeline_coupling c JOIN pipeline p ON p.id = c.pipeline_id ";

async fn couplings_where(store: &Store, condition: &'static str, value: String) -> Result<Vec<Coupling>> {
    let statement = format!("{COUPLINGS} {condition} ORDER BY c.created_at, c.id");
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(value)
        .fetch_all(store.reader())
        .await
        .map_err(failed("list pipeline couplings"))?;
    rows.iter().map(coupling).collect()
}

/// A pipeline's apps, oldest first.
///
/// # Errors
/// The database failed.
pub async fn couplings(store: &Store, id: PipelineId) -> Result<Vec<Coupling>> {
    couplings_where(store, "WHERE c.pipeline_id = $1", id.to_string()).await
}

/// Every app that is in a pipeline.
///
/// # Errors
/// The database failed.
pub async fn all_couplings(store: &Store) -> Result<Vec<Coupling>> {
    couplings_where(store, "WHERE c.id <> $1", String::new()).await
}

/// Where an app is.
///
/// # Errors
/// The database failed.
pub async fn coupling_of_app(store: &Store, app_id: AppId) -> Result<Option<Coupling>> {
    Ok(couplings_where(store, "WHERE c.app_id = $1", app_id.to_string()).await?.pop())
}

/// A coupling by its id.
///
/// # Errors
/// The database failed.
pub async fn find_coupling(store: &Store, id: &str) -> Result<Option<Coupling>> {
    Ok(couplings_where(store, "WHERE c.id = $1", id.to_owned()).await?.pop())
}

/// Puts an app into a pipeline.
///
/// # Errors
/// [`StoreError::Refused`] when it is in one.
pub async fn couple(
    store: &Store,
    pipeline: &Pipeline,
    app: &App,
    stage: Stage,
    actor: &Actor,
    now: Millis,
) -> Result<Coupling> {
    let id = PipelineCouplingId(Uuid::new_v4());
    write!(store, tx => {
        let done = sqlx::query(
            "INSERT INTO pipeline_coupling (id, pipeline_id, app_id, stage, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, $5) ON CONFLICT (app_id) DO NOTHING",
        )
        .bind(id.to_string())
        .bind(pipeline.id.to_string())
        .bind(app.id.to_string())
        .bind(word(&stage))
        .bind(now)
        .execute(&mut *tx)
        .await
        .map_err(failed("put an app into a pipeline"))?;
        if done.rows_affected() == 0 {
            return Err(StoreError::Refused(format!("App {} is in a pipeline already.", app.name)));
        }
        let message = format!("Add to the pipeline {} as {}", pipeline.name, word(&stage));
        note(&mut tx, Some(app.id), "pipeline_coupling.create", Some(message), actor, now).await
    })?;
    Ok(Coupling {
        id,
        pipeline_id: pipeline.id,
        pipeline_name: pipeline.name.clone(),
        app_id: app.id,
        stage,
        created_at: now,
        updated_at: now,
    })
}

/// Moves an app to another stage of its pipeline.
///
/// # Errors
/// The database failed.
pub async fn set_stage(
    store: &Store,
    coupling: &Coupling,
    stage: Stage,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    write!(store, tx => {
        sqlx::query("UPDATE pipeline_coupling SET stage = $1, updated_at = $2 WHERE id = $3")
            .bind(word(&stage))
            .bind(now)
            .bind(coupling.id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("move an app in its pipeline"))?;
        let message = format!("Move to {} in the pipeline {}", word(&stage), coupling.pipeline_name);
        note(&mut tx, Some(coupling.app_id), "pipeline_coupling.update", Some(message), actor, now).await
    })
}

/// Takes an app out of its pipeline.
///
/// # Errors
/// The database failed.
pub async fn uncouple(store: &Store, coupling: &Coupling, actor: &Actor, now: Millis) -> Result<()> {
    write!(store, tx => {
        sqlx::query("DELETE FROM pipeline_coupling WHERE id = $1")
            .bind(coupling.id.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("take an app out of its pipeline"))?;
        let message = format!("Remove from the pipeline {}", coupling.pipeline_name);
        note(&mut tx, Some(coupling.app_id), "pipeline_coupling.destroy", Some(message), actor, now).await
    })
}

/// What is to be promoted, and where to.
#[derive(Debug)]
pub struct NewPromotion<'a> {
    pub pipeline_id: PipelineId,
    pub source: &'a App,
    pub release: &'a Release,
    pub slug: &'a Slug,
    /// Each with why it cannot be promoted to, if so.
    pub targets: Vec<(AppId, Option<String>)>,
}

/// Promotes a release's slug: one release for each target that takes it.
///
/// # Errors
/// The database failed. A target that refuses is no error of the promotion's: it says why itself.
pub async fn promote(store: &Store, new: &NewPromotion<'_>, actor: &Actor, now: Millis) -> Result<Promotion> {
    let id = PipelinePromotionId(Uuid::new_v4());
    let targets: Vec<(PipelinePromotionTargetId, AppId, Option<&String>)> = new
        .targets
        .iter()
        .map(|(app_id, why)| (PipelinePromotionTargetId(Uuid::new_v4()), *app_id, why.as_ref()))
        .collect();
    write!(store, tx => { begin(&mut tx, id, new, &targets, actor, now).await })?;
    for (target, app_id, _) in targets.iter().filter(|(.., why)| why.is_none()) {
        match promote_to(store, new, *target, *app_id, actor, now).await {
            Err(StoreError::Refused(why)) => fail(store, *target, &why).await?,
            Err(StoreError::NotFound { what }) => {
                fail(store, *target, &format!("The {what} is gone.")).await?
            }
            done => done?,
        }
    }
    promotion(store, &id.to_string()).await?.ok_or(StoreError::NotFound { what: "pipeline promotion" })
}

async fn begin(
    tx: &mut Connection,
    id: PipelinePromotionId,
    new: &NewPromotion<'_>,
    targets: &[(PipelinePromotionTargetId, AppId, Option<&String>)],
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO pipeline_promotion (id, pipeline_id, source_app_id, source_release_id, created_at, updated_at) \
         VALUES ($1, $2, $3, $4, $5, $5)",
    )
    .bind(id.to_string())
    .bind(new.pipeline_id.to_string())
    .bind(new.source.id.to_string())
    .bind(new.release.id.to_string())
    .bind(now)
    .execute(&mut *tx)
    .await
    .map_err(failed("write a promotion"))?;
    for (ordinal, (target, app_id, why)) in (0_i64..).zip(targets) {
        sqlx::query(
            "INSERT INTO pipeline_promotion_target (id, promotion_id, app_id, ordinal, error_message) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(target.to_string())
        .bind(id.to_string())
        .bind(app_id.to_string())
        .bind(ordinal)
        .bind(why.cloned())
        .execute(&mut *tx)
        .await
        .map_err(failed("write a promotion's target"))?;
    }
    let message = format!("Promote v{} in its pipeline", new.release.version);
    note(tx, Some(new.source.id), "pipeline_promotion.create", Some(message), actor, now).await
}

/// One target: its slug, its release and what the promotion knows of it, in one transaction.
async fn promote_to(
    store: &Store,
    new: &NewPromotion<'_>,
    target: PipelinePromotionTargetId,
    app_id: AppId,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    let (slug_id, release_id) = (SlugId(Uuid::new_v4()), ReleaseId(Uuid::new_v4()));
    let copy = Slug { id: slug_id, app_id, created_at: now, ..new.slug.clone() };
    write!(store, tx => {
        limits::check_disk(&mut tx, app_id).await?;
        let kept = sqlx::query("SELECT id FROM slug WHERE id = $1 AND deleted_at IS NULL")
            .bind(new.slug.id.to_string())
            .fetch_optional(&mut *tx)
            .await
            .map_err(failed("look for a slug"))?;
        if kept.is_none() {
            return Err(StoreError::Refused("The slug was removed to save space. Push its commit again.".to_owned()));
        }
        slugs::create(&mut tx, &copy).await?;
        let release = NewRelease {
            id: release_id,
            app_id,
            actor,
            description: description(&new.source.name, new.release.version, new.slug.commit.as_deref()),
            slug: SlugChange::Set(slug_id),
            config: ConfigChange::Keep,
        };
        releases::create(&mut tx, store.key(), release, now).await?;
        sqlx::query("UPDATE pipeline_promotion_target SET release_id = $1 WHERE id = $2")
            .bind(release_id.to_string())
            .bind(target.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("note a promotion's release"))?;
        Ok(())
    })
}

async fn fail(store: &Store, target: PipelinePromotionTargetId, why: &str) -> Result<()> {
    write!(store, tx => {
        sqlx::query("UPDATE pipeline_promotion_target SET error_message = $1 WHERE id = $2")
            .bind(why)
            .bind(target.to_string())
            .execute(&mut *tx)
            .await
            .map_err(failed("note why a promotion failed"))?;
        Ok(())
    })
}

/// Fails the targets that a crash cut off: to be called at the start, before anything is promoted.
///
/// # Errors
/// The database failed.
pub async fn fail_cut_off(store: &Store) -> Result<u64> {
    write!(store, tx => {
        let done = sqlx::query(
            "UPDATE pipeline_promotion_target SET error_message = $1 \
             WHERE release_id IS NULL AND error_message IS NULL",
        )
        .bind(CUT_OFF)
        .execute(&mut *tx)
        .await
        .map_err(failed("fail promotions that were cut off"))?;
        Ok(done.rows_affected())
    })
}

/// A promotion with its targets.
///
/// # Errors
/// The database failed.
pub async fn promotion(store: &Store, id: &str) -> Result<Option<Promotion>> {
    let row = sqlx::query("SELECT * FROM pipeline_promotion WHERE id = $1")
        .bind(id)
        .fetch_optional(store.reader())
        .await
        .map_err(failed("find a promotion"))?;
    let Some(row) = row else { return Ok(None) };
    let targets = sqlx::query(
        "SELECT t.id, t.app_id, t.release_id, t.error_message, r.status FROM pipeline_promotion_target t \
         LEFT JOIN release r ON r.id = t.release_id WHERE t.promotion_id = $1 ORDER BY t.ordinal",
    )
    .bind(id)
    .fetch_all(store.reader())
    .await
    .map_err(failed("list a promotion's targets"))?;
    Ok(Some(Promotion {
        id: row.parsed("id")?,
        pipeline_id: row.parsed("pipeline_id")?,
        source_app_id: row.parsed("source_app_id")?,
        source_release_id: row.parsed("source_release_id")?,
        targets: targets.iter().map(target).collect::<Result<_>>()?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    }))
}

fn target(row: &AnyRow) -> Result<Target> {
    let status = match row.optional_text("status")? {
        Some(_) => Some(row.word("status")?),
        None => None,
    };
    let release: Option<ReleaseId> = row.optional_parsed("release_id")?;
    Ok(Target {
        id: row.parsed("id")?,
        app_id: row.parsed("app_id")?,
        release: release.map(|id| (id, status)),
        error_message: row.optional_text("error_message")?,
    })
}

fn pipeline(row: &AnyRow) -> Result<Pipeline> {
    let owner = match row.optional_parsed("team_id")? {
        Some(team_id) => PipelineOwner::Team(team_id),
        None => PipelineOwner::User(row.parsed("owner_id")?),
    };
    Ok(Pipeline {
        id: row.parsed("id")?,
        name: row.text("name")?,
        owner,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}

fn coupling(row: &AnyRow) -> Result<Coupling> {
    Ok(Coupling {
        id: row.parsed("id")?,
        pipeline_id: row.parsed("pipeline_id")?,
        pipeline_name: row.text("pipeline_name")?,
        app_id: row.parsed("app_id")?,
        stage: row.word("stage")?,
        created_at: row.integer("created_at")?,
        updated_at: row.integer("updated_at")?,
    })
}

async fn note(
    tx: &mut Connection,
    app_id: Option<AppId>,
    kind: &str,
    log_message: Option<String>,
    actor: &Actor,
    now: Millis,
) -> Result<()> {
    events::append(tx, NewEvent { app_id, actor, kind, log_message }, now).await?;
    Ok(())
}
