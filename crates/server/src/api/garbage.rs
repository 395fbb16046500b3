//! `/admin/garbage`: what of builds nobody needs any more. `GET` tells, `POST` removes it. Ours; `ferrokud gc` asks it.

use crate::api::routes::{Routes, get};
use crate::auth::{Administer, SeeNode};
use crate::builds::garbage::Freed;
use crate::disk::Room;
use crate::error::ApiError;
use crate::node::{Node, now_ms};
use axum::Json;
use axum::extract::State;
use ferroku_api::garbage::{Amount, Disk, Garbage};
use ferroku_store::events;
use std::sync::Arc;

/// The endpoints.
pub fn routes() -> Routes {
    Routes::new().route("/admin/garbage", get(show).post(collect))
}

async fn show(State(node): State<Arc<Node>>, _: SeeNode) -> Result<Json<Garbage>, ApiError> {
    let freed = node.builds.preview_garbage().await.map_err(ApiError::internal)?;
    Ok(Json(present(&node, freed)))
}

async fn collect(
    State(node): State<Arc<Node>>,
    Administer(user): Administer,
) -> Result<Json<Garbage>, ApiError> {
    let message = "Remove what no release needs from the disk";
    events::record_of_node(&node.store, "garbage.collect", message, &user.actor, now_ms()).await?;
    let freed = node.builds.collect_garbage().await.map_err(ApiError::internal)?;
    Ok(Json(present(&node, freed)))
}

fn present(node: &Node, freed: Freed) -> Garbage {
    let room = Room::on(&node.config.data);
    let amount = |(folder, amount): (String, crate::builds::garbage::Amount)| {
        (folder, Amount { entries: amount.entries, bytes: amount.bytes })
    };
    Garbage {
        expired_slugs: freed.expired_slugs as u64,
        bytes: freed.bytes(),
        unfinished: freed.is_unfinished,
        removed: freed.removed.into_iter().map(amount).collect(),
        disk: Disk {
            free_bytes: room.map(|room| room.bytes),
            free_files: room.map(|room| room.files).filter(|files| *files < u64::MAX),
        },
    }
}
