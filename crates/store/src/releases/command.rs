//! The command of a release (`release:` in the Procfile): its dyno, and what its end makes of the release.

use super::{process_types, take_effect};
use crate::dynos::NewDynoRow;
use crate::row::{Columns, failed, word};
use crate::{Connection, MasterKey, Result, StoreError, dynos, events, formations};
use ferroku_core::dyno::{DynoKind, ONE_OFF_NUMBERS, PORTS, pick};
use ferroku_core::event::Actor;
use ferroku_core::release::{COMMAND_LIMIT_MS, RELEASE, Release, ReleaseStatus};
use ferroku_core::slug::ProcessTypes;
use ferroku_core::{DynoId, Millis, ReleaseId};
use uuid::Uuid;

/// The dyno that is to run a release's command.
pub struct CommandDyno {
    id: DynoId,
    ordinal: u32,
    port: u16,
    command: String,
}

impl CommandDyno {
    pub fn new(command: &String) -> Self {
        let id = DynoId(Uuid::new_v4());
        let (_, random) = id.0.as_u64_pair();
        Self {
            id,
            ordinal: pick(&ONE_OFF_NUMBERS, random as u32).into(),
            // Not the first two bits, which are the same in every id.
            port: pick(&PORTS, (random >> 32) as u32 & 0xffff),
            command: command.clone(),
        }
    }

    pub fn label(&self) -> String {
        format!("{RELEASE}.{}", self.ordinal)
    }

    pub async fn write(
        &self,
        tx: &mut Connection,
        key: &MasterKey,
        release: &Release,
        now: Millis,
    ) -> Result<()> {
        let size = formations::set_command(tx, release.app_id, RELEASE, &self.command, now).await?;
        let app = sqlx::query("SELECT restart_generation FROM app WHERE id = $1")
            .bind(release.app_id.to_string())
            .fetch_one(&mut *tx)
            .await
            .map_err(failed("read an app's restart generation"))?;
        let dyno = NewDynoRow {
            id: self.id,
            app_id: release.app_id,
            kind: DynoKind::Release,
            process_type: RELEASE,
            ordinal: self.ordinal,
            release_id: release.id,
            release_version: release.version,
            restart_generation: app.integer("restart_generation")?,
            size: &size,
            command: &self.command,
            port: self.port,
            attached: false,
            options: None,
            expires_at: Some(now + COMMAND_LIMIT_MS),
        };
        dynos::create(tx, key, &dyno, now).await
    }
}

/// Refuses when the newest release's command still runs.
pub fn refuse_meanwhile(newest: Option<&Release>) -> Result<()> {
    let Some(pending) = newest.filter(|newest| newest.status == ReleaseStatus::Pending) else {
        return Ok(());
    };
    let dyno = pending.command_dyno.as_deref().unwrap_or(RELEASE);
    Err(StoreError::Refused(format!(
        "The release command of v{} is still running. Wait until it has ended, or stop it with `heroku ps:stop {dyno}`.",
        pending.version
    )))
}

/// The dyno of a release's command has ended: with success the release takes effect, else it has failed. Nothing
/// happens to one that is not pending.
///
/// # Errors
/// The database failed.
pub(crate) async fn ended(tx: &mut Connection, id: ReleaseId, succeeded: bool, now: Millis) -> Result<()> {
    let status = if succeeded { ReleaseStatus::Succeeded } else { ReleaseStatus::Failed };
    let row = sqlx::query(
        "UPDATE release SET status = $1, updated_at = $2 WHERE id = $3 AND status = $4 RETURNING *",
    )
    .bind(word(&status))
    .bind(now)
    .bind(id.to_string())
    .bind(word(&ReleaseStatus::Pending))
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed("note how a release command ended"))?;
    let Some(row) = row else { return Ok(()) };
    let release = super::release(&row)?;
    let (kind, message) = match succeeded {
        true => ("release.succeed", format!("Release v{} created", release.version)),
        false => ("release.fail", format!("Release v{} command failed", release.version)),
    };
    if succeeded {
        let process_types = match release.slug_id {
            Some(id) => process_types(tx, id).await?,
            None => ProcessTypes::new(),
        };
        take_effect(tx, &release, &process_types, now).await?;
    }
    let account = sqlx::query("SELECT email FROM account WHERE id = $1")
        .bind(release.account_id.to_string())
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed("find who made a release"))?;
    let email = account.map(|row| row.text("email")).transpose()?.unwrap_or_default();
    let actor = Actor { account_id: release.account_id, email, remote_address: None, request_id: None };
    events::announce(tx, release.app_id, kind, &message, &actor, now).await
}
