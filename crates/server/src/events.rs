//! The event feed: tails the event table and writes what happened into the apps' logs.
//!
//! In: rows of the event table, in the order of their numbers. Out: `app[api]: Set FOO config vars by user
//! me@example.com`, one log line for each line of an event's message; how a build ended is told without the user.
//!
//! Invariants: an event's lines are in the log once, whenever this process dies: lines carry the event's number
//! as their key, and the cursor kept in the store is never ahead of what the log has confirmed. An app that is
//! gone gets no lines.

use crate::node::Node;
use ferroku_core::AppId;
use ferroku_core::event::Event;
use ferroku_logplex::LogLine;
use ferroku_store::{apps, events, node_settings};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};

/// Setting that holds the number of the last event whose lines are in the logs.
const CURSOR: &str = "event_feed_cursor";
/// Log key that the events' numbers count within.
const LOG_KEY: &str = "event";
/// Events read at once.
const BATCH: i64 = 200;
/// The cursor is written after this many events: after a crash at most so many are read again.
const CURSOR_EVERY: i64 = 100;
/// Numbers kept for the lines of one event. A message of more lines keeps only the first ones.
const LINES_PER_EVENT: u64 = 8;
/// Kinds of event that Heroku tells without `by user ...`: not the user's doing, but what became of it.
const NOBODYS_KINDS: [&str; 2] = ["build.succeed", "build.fail"];
/// Kinds that are not told in the log, where Heroku says nothing either; the audit trail has them.
const UNTOLD_KINDS: [&str; 9] = [
    "app.create",
    "app.destroy",
    "app.update",
    "build.cancel",
    "build_cache.destroy",
    "buildpack_installation.update",
    "dyno.restart",
    "dyno.restart_all",
    "dyno.stop",
];
/// Nouns whose events change nothing in who may do what; all others may.
const NOUNS_WITHOUT_ACCESS: [&str; 9] = [
    "acm",
    "build",
    "build_cache",
    "buildpack_installation",
    "domain",
    "dyno",
    "formation",
    "release",
    "sni_endpoint",
];
/// Kinds of the other nouns that take nothing away.
const KINDS_WITHOUT_ACCESS: [&str; 6] = [
    "account.create",
    "app.create",
    "collaborator.create",
    "key.create",
    "oauth_authorization.create",
    "session.create",
];
/// How long an event whose poke was lost waits.
const TIMER: Duration = Duration::from_secs(5);

/// Wakes the task that reads new events.
#[derive(Debug, Default)]
pub struct EventFeed {
    wake: Notify,
    access: watch::Sender<i64>,
}

impl EventFeed {
    /// Says that events may have been committed.
    pub fn poke(&self) {
        self.wake.notify_one();
    }

    /// Changes, soon after it, with whatever may have taken somebody's access to something.
    pub fn access_changes(&self) -> watch::Receiver<i64> {
        self.access.subscribe()
    }
}

/// Writes events into the logs for as long as the node lives.
pub async fn run(node: Arc<Node>) {
    let mut cursor = loop {
        match read_cursor(&node).await {
            Ok(cursor) => break cursor,
            Err(error) => tracing::error!("cannot read the event feed's cursor, trying again: {error:#}"),
        }
        tokio::time::sleep(TIMER).await;
    };
    let mut written = cursor;
    loop {
        if let Err(error) = pass_on(&node, &mut cursor).await {
            tracing::error!("cannot write events into the logs, trying again: {error:#}");
        }
        if cursor - written >= CURSOR_EVERY {
            match node_settings::set(&node.store, CURSOR, &cursor.to_string()).await {
                Ok(()) => written = cursor,
                Err(error) => tracing::error!("cannot write the event feed's cursor: {error:#}"),
            }
        }
        let _ = tokio::time::timeout(TIMER, node.events.wake.notified()).await;
    }
}

async fn read_cursor(node: &Node) -> anyhow::Result<i64> {
    Ok(match node_settings::get(&node.store, CURSOR).await? {
        Some(text) => text.parse()?,
        None => 0,
    })
}

/// Writes the lines of every event behind `cursor` and moves it on.
async fn pass_on(node: &Node, cursor: &mut i64) -> anyhow::Result<()> {
    loop {
        let batch = events::after(&node.store, *cursor, BATCH).await?;
        let Some(last) = batch.last() else { return Ok(()) };
        let next = last.sequence;
        let mut exists: HashMap<AppId, bool> = HashMap::new();
        for event in &batch {
            let Some(app_id) = event.app_id else { continue };
            if event.log_message.is_none() || UNTOLD_KINDS.contains(&event.kind.as_str()) {
                continue;
            }
            if !exists.contains_key(&app_id) {
                exists.insert(app_id, apps::by_id(&node.store, app_id).await?.is_some());
            }
            if exists[&app_id] {
                for (sequence, line) in lines(event) {
                    node.logplex.append_keyed(app_id, LOG_KEY, sequence, line);
                }
            }
        }
        // Ahead of the flush: a full disk must keep nobody's access alive.
        if batch.iter().any(may_change_access) {
            node.events.access.send_replace(next);
        }
        node.logplex.flush().await?;
        *cursor = next;
    }
}

fn may_change_access(event: &Event) -> bool {
    let noun = event.kind.split('.').next().unwrap_or_default();
    !NOUNS_WITHOUT_ACCESS.contains(&noun) && !KINDS_WITHOUT_ACCESS.contains(&event.kind.as_str())
}

/// The log lines of an event, each with its number within [`LOG_KEY`].
fn lines(event: &Event) -> Vec<(u64, LogLine)> {
    let message = event.log_message.as_deref().unwrap_or("");
    let first = event.sequence.unsigned_abs() * LINES_PER_EVENT;
    let by_nobody = NOBODYS_KINDS.contains(&event.kind.as_str());
    let text =
        |line: &str| if by_nobody { line.to_owned() } else { format!("{line} by user {}", event.email) };
    let line = |line: &str| LogLine::new(event.created_at * 1000, "app", "api", text(line));
    (first..first + LINES_PER_EVENT).zip(message.lines().map(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroku_core::app::{DEFAULT_REGION, DEFAULT_STACK};
    use ferroku_core::event::Actor;
    use ferroku_logplex::Filter;
    use ferroku_store::accounts;
    use ferroku_store::apps::NewApp;
    use uuid::Uuid;

    #[test]
    fn whatever_may_take_access_away_is_told_at_once() {
        let mut event = Event {
            sequence: 1,
            app_id: None,
            account_id: ferroku_core::AccountId(Uuid::nil()),
            kind: String::new(),
            email: String::new(),
            remote_address: None,
            request_id: None,
            log_message: None,
            created_at: 0,
        };
        let mut takes = |kind: &str| {
            event.kind = kind.to_owned();
            may_change_access(&event)
        };
        // SSH can be switched off.
        for kind in [
            "collaborator.destroy",
            "app_feature.update",
            "account.update",
            "team_member.destroy",
            "app.transfer",
        ] {
            assert!(takes(kind), "{kind}");
        }
        for kind in ["app.create", "collaborator.create", "release.create", "dyno.exec"] {
            assert!(!takes(kind), "{kind}");
        }
    }

    async fn history(node: &Node, app_id: AppId) -> Vec<String> {
        let lines = node.logplex.history(app_id, 100, Filter::default()).await.expect("read");
        lines.iter().map(|line| line.to_string()).collect()
    }

    #[tokio::test]
    async fn every_event_is_in_the_log_once_though_the_feed_starts_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let node = Node::for_tests(folder.path()).await;
        let owner =
            accounts::find_by_email(&node.store, "owner@example.com").await.expect("read").expect("made");
        let actor =
            Actor { account_id: owner.id, email: owner.email, remote_address: None, request_id: None };
        let new = |id, name| NewApp { id, name, stack: DEFAULT_STACK, region: DEFAULT_REGION };
        let (kept, gone) = (AppId(Uuid::new_v4()), AppId(Uuid::new_v4()));
        apps::create(&node.store, &new(kept, "kept"), &actor, 1_000).await.expect("made");
        apps::create(&node.store, &new(gone, "gone"), &actor, 1_000).await.expect("made");
        apps::destroy(&node.store, gone, &actor, 2_000).await.expect("destroyed");
        for _ in 0..2 {
            // The cursor in the store is still that of the beginning, as after a crash.
            let mut cursor = read_cursor(&node).await.expect("read");
            pass_on(&node, &mut cursor).await.expect("written");
        }
        let at = "1970-01-01T00:00:01.000000+00:00";
        let expected = ["Initial release", "Release v1 created", "Enable Logplex", "Release v2 created"]
            .map(|text| format!("{at} app[api]: {text} by user owner@example.com"));
        assert_eq!(history(&node, kept).await, expected);
        assert!(history(&node, gone).await.is_empty());
        assert!(!folder.path().join("logs").join(gone.to_string()).exists());
    }
}
