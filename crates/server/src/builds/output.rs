//! A build's text: shown to whoever pushes, and kept in `DIR/build-output/<build-id>`.
//!
//! Invariants:
//! - What is shown is what is kept, in one order; the file is capped at [`MAX_OUTPUT_BYTES`] and says when it is cut.
//! - A client that is gone, or a disk that is full, never stops the text of the other.

use crate::git::push::TextWriter;
use ferroku_core::BuildId;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::{Mutex, watch};

/// Longest text that is kept of a build, in bytes. Heroku keeps 300 MB; nobody has read the second ten.
pub const MAX_OUTPUT_BYTES: u64 = 10 * 1024 * 1024;

/// Where a build's text is kept.
pub fn path(data: &Path, build_id: BuildId) -> PathBuf {
    data.join("build-output").join(build_id.to_string())
}

/// How far a build's text has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub written_bytes: u64,
    pub ended: bool,
}

/// Takes a build's text. Clones write to the same build.
#[derive(Debug, Clone)]
pub struct Output {
    client: Option<TextWriter>,
    file: Arc<Mutex<Option<tokio::fs::File>>>,
    progress: Arc<watch::Sender<Progress>>,
}

impl Output {
    /// Text of a new build, which is not kept yet.
    pub fn new(client: Option<TextWriter>) -> Self {
        let progress = watch::Sender::new(Progress { written_bytes: 0, ended: false });
        Self { client, file: Arc::default(), progress: Arc::new(progress) }
    }

    /// Keeps what is written from now on. That it cannot be kept is no reason not to build; it is logged.
    pub async fn keep(&self, data: &Path, build_id: BuildId) {
        let path = path(data, build_id);
        match tokio::fs::File::create(&path).await {
            Ok(file) => *self.file.lock().await = Some(file),
            Err(error) => {
                tracing::warn!("the text of build {build_id} is not kept: {}: {error}", path.display());
            }
        }
    }

    /// Adds text.
    pub async fn write(&self, text: impl Into<Vec<u8>>) {
        let text = text.into();
        let mut file = self.file.lock().await;
        let written_bytes = self.progress.borrow().written_bytes;
        if let Some(open) = file.as_mut() {
            let room = usize::try_from(MAX_OUTPUT_BYTES.saturating_sub(written_bytes)).unwrap_or(usize::MAX);
            let kept = &text[..text.len().min(room)];
            let cut: &[u8] = if kept.len() < text.len() { b"\n[the rest is not kept]\n" } else { b"" };
            let written = async {
                open.write_all(kept).await?;
                open.write_all(cut).await?;
                open.flush().await
            };
            if written.await.is_err() || !cut.is_empty() {
                *file = None;
            }
            let added = (kept.len() + cut.len()) as u64;
            self.progress.send_modify(|progress| progress.written_bytes += added);
        }
        // The lock is held on: the client sees the same order.
        if let Some(client) = &self.client {
            client.text(text).await;
        }
    }

    /// Nothing more comes.
    pub async fn end(&self) {
        *self.file.lock().await = None;
        self.progress.send_modify(|progress| progress.ended = true);
    }

    /// Follows the text.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[tokio::test]
    async fn text_is_kept_up_to_its_limit() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join("build-output")).expect("new");
        let id = BuildId(Uuid::from_u128(1));
        let output = Output::new(None);
        output.keep(folder.path(), id).await;
        output.write("one\n").await;
        assert_eq!(std::fs::read_to_string(path(folder.path(), id)).expect("kept"), "one\n");
        output.write(vec![b'x'; usize::try_from(MAX_OUTPUT_BYTES).expect("small")]).await;
        output.write("lost").await;
        let kept = std::fs::read_to_string(path(folder.path(), id)).expect("kept");
        assert!(kept.starts_with("one\nxxx") && kept.ends_with("x\n[the rest is not kept]\n"));
        output.end().await;
        assert_eq!(*output.watch().borrow(), Progress { written_bytes: kept.len() as u64, ended: true });
    }
}
