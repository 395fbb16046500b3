//! What the pre-receive hook and the control process say to each other, over `run/hook.sock`.
//!
//! One connection is one push; closing it early is how either side learns that the other has gone. The frames are
//! those of [`super::frame`]. In order:
//!
//! ```text
//! hook -> control  HELLO         Hello (JSON): token, reference updates, what is known of the commit
//! control -> hook  TEXT*         raw bytes for the person who pushes; comes at any time until VERDICT
//! control -> hook  SEND_ARCHIVE  SendArchive (JSON): the commit to build
//! hook -> control  ARCHIVE*      raw bytes: a tar archive of the commit's tree, in pieces
//! hook -> control  ARCHIVE_END   ArchiveEnd (JSON)
//! control -> hook  VERDICT       Verdict (JSON)
//! ```
//!
//! The token decides everything: which app, who pushes. It is good for one connection.

use serde::{Deserialize, Serialize};

/// Raised when a hook of the version before would misunderstand; both sides are normally of one build.
pub const VERSION: u32 = 1;

/// Frame types.
pub mod frame_type {
    pub const HELLO: u8 = 1;
    pub const ARCHIVE: u8 = 2;
    pub const ARCHIVE_END: u8 = 3;
    pub const TEXT: u8 = 16;
    pub const SEND_ARCHIVE: u8 = 17;
    pub const VERDICT: u8 = 18;
}

/// Largest piece of an archive, in bytes.
pub const ARCHIVE_PIECE_BYTES: usize = 128 * 1024;

/// Environment variable of the hook: the one-time token.
pub const TOKEN_VARIABLE: &str = "FERROKU_PUSH_TOKEN";
/// Environment variable of the hook: path of control's socket.
pub const SOCKET_VARIABLE: &str = "FERROKU_HOOK_SOCKET";

/// One line of the hook's standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefUpdate {
    /// Hex object id; all zeros: the reference is new.
    pub old: String,
    /// Hex object id; all zeros: the reference is deleted.
    pub new: String,
    /// `refs/heads/main`.
    pub name: String,
    /// The reference is no longer at `old`: another push was faster.
    #[serde(default)]
    pub stale: bool,
}

/// The hook's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    pub token: String,
    pub updates: Vec<RefUpdate>,
    /// About the commit on a branch that deploys, when there is one.
    #[serde(default)]
    pub commit: Option<Commit>,
}

/// What the hook knows of the commit that is to be built.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commit {
    /// Hex object id of the commit (a pushed annotated tag is followed to its commit).
    pub id: String,
    /// First line of its message.
    #[serde(default)]
    pub subject: String,
    /// Files in its tree.
    #[serde(default)]
    pub paths: u64,
    /// Sum of their sizes.
    #[serde(default)]
    pub size_bytes: u64,
    /// Folders that are git submodules; their content is not in the archive.
    #[serde(default)]
    pub submodules: Vec<String>,
}

/// Asks for the archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SendArchive {
    pub commit: String,
}

/// The archive's last frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArchiveEnd {
    /// Why the archive is not whole.
    #[serde(default)]
    pub error: Option<String>,
}

/// Whether the references may be updated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub accept: bool,
    /// Branch that HEAD should name when the one it names does not exist: what `git clone` checks out.
    #[serde(default)]
    pub head: Option<String>,
}

// === impl RefUpdate ===

impl RefUpdate {
    /// Whether it takes the reference away.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.new.bytes().all(|byte| byte == b'0')
    }

    /// Whether this is a branch that deploys: `main` or `master`.
    #[must_use]
    pub fn is_deploy_branch(&self) -> bool {
        matches!(self.name.as_str(), "refs/heads/main" | "refs/heads/master")
    }
}

/// What a push is to do, from its reference updates alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushPlan {
    /// Build this object and, when the release is written, accept all updates.
    Deploy { object: String, branch: String },
    /// Accept without building.
    Store,
    /// Refuse; the text says why.
    Refuse(String),
}

/// Decides what a push does.
///
/// `main` and `master` deploy. Both in one push are built once when they are at the same object, and refused
/// otherwise: which of two codes would run must not depend on their order. They cannot be deleted.
#[must_use]
pub fn plan_push(updates: &[RefUpdate]) -> PushPlan {
    if let Some(update) = updates.iter().find(|update| update.is_deploy_branch() && update.is_deletion()) {
        let branch = short_name(&update.name);
        return PushPlan::Refuse(format!(
            "The branch {branch} is what this app was deployed from and cannot be deleted; push another commit to it instead."
        ));
    }
    let deploys: Vec<&RefUpdate> = updates.iter().filter(|update| update.is_deploy_branch()).collect();
    let Some(first) = deploys.first() else { return PushPlan::Store };
    if deploys.iter().any(|update| update.new != first.new) {
        return PushPlan::Refuse(
            "main and master both deploy, and this push sets them to different commits: push only one of them."
                .to_owned(),
        );
    }
    if deploys.iter().any(|update| update.stale) {
        return PushPlan::Refuse(
            "Another push was finished while this one was under way: fetch, and push again.".to_owned(),
        );
    }
    PushPlan::Deploy { object: first.new.clone(), branch: short_name(&first.name).to_owned() }
}

fn short_name(reference: &str) -> &str {
    reference.strip_prefix("refs/heads/").unwrap_or(reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(name: &str, new: &str) -> RefUpdate {
        RefUpdate { old: "0".repeat(40), new: new.repeat(40), name: name.to_owned(), stale: false }
    }

    #[test]
    fn main_and_master_deploy_and_other_references_do_not() {
        for branch in ["main", "master"] {
            let plan =
                plan_push(&[update("refs/heads/x", "b"), update(&format!("refs/heads/{branch}"), "a")]);
            assert_eq!(plan, PushPlan::Deploy { object: "a".repeat(40), branch: branch.to_owned() });
        }
        let others = ["refs/heads/main2", "refs/tags/main", "refs/heads/feature/main", "main"];
        for name in others {
            assert_eq!(plan_push(&[update(name, "a")]), PushPlan::Store, "{name}");
        }
        assert_eq!(plan_push(&[update("refs/heads/x", "0")]), PushPlan::Store, "deleting another branch");
    }

    #[test]
    fn both_deploy_branches_are_built_once_or_refused() {
        let both = [update("refs/heads/main", "a"), update("refs/heads/master", "a")];
        assert!(matches!(plan_push(&both), PushPlan::Deploy { branch, .. } if branch == "main"));
        let two = [update("refs/heads/main", "a"), update("refs/heads/master", "b")];
        assert!(matches!(plan_push(&two), PushPlan::Refuse(_)));
        assert!(matches!(plan_push(&[update("refs/heads/main", "0")]), PushPlan::Refuse(_)));
        let mut late = update("refs/heads/main", "a");
        late.stale = true;
        assert!(matches!(plan_push(&[late]), PushPlan::Refuse(_)));
    }

    #[test]
    fn frames_of_another_version_are_read() {
        let hello: Hello = serde_json::from_str(
            r#"{"version":1,"token":"t","updates":[{"old":"0","new":"1","name":"refs/heads/main"}],"later":{}}"#,
        )
        .expect("valid");
        assert_eq!((hello.updates.len(), hello.commit), (1, None));
        let verdict: Verdict = serde_json::from_str(r#"{"accept":true}"#).expect("valid");
        assert_eq!(verdict, Verdict { accept: true, head: None });
    }
}
