//! What a dyno's log says of its life, word for word as Heroku does: `heroku[web.1]: ...`.
//!
//! The command is shown as the Procfile has it. Heroku shows it with variables expanded, and with them any
//! secret among them; here the shell inside the dyno expands them and the log keeps the names.
//!
//! Source: heroku-behaviour reference, sections 6.3 and 6.7.

use ferroku_core::dyno::DynoState;
use ferroku_core::room::Shortage;

pub const RESTARTING: &str = "Restarting";
pub const CYCLING: &str = "Cycling";
pub const IDLING: &str = "Idling";
pub const UNIDLING: &str = "Unidling";
/// Heroku's words for H82.
pub const OUT_OF_ECO_HOURS: &str = "You've used up your dyno hour pool";
pub const AWAITING_CLIENT: &str = "Awaiting client";
pub const STOPPING_ALL: &str = "Stopping all processes with SIGTERM";
pub const STOPPING_REMAINING: &str = "Stopping remaining processes with SIGKILL";
pub const STOPPING_KILL: &str = "Stopping process with SIGKILL";
pub const EXIT_TIMEOUT: &str =
    "Error R12 (Exit timeout) -> At least one process failed to exit within 30 seconds of SIGTERM";
pub const ATTACH_ERROR: &str = "Error R13 (Attach error) -> Failed to attach to process";
pub const MEMORY_EXCEEDED: &str = "Error R14 (Memory quota exceeded)";
pub const MEMORY_VASTLY_EXCEEDED: &str = "Error R15 (Memory quota vastly exceeded)";
pub const DETACHED: &str = "Error R16 (Detached) -> An attached process is not responding to SIGHUP after its \
     external connection was closed.";
pub const LOST: &str = "Error R99 (Platform error) -> The dyno was lost with the process that supervised it";

/// `Starting process with command ...`
pub fn starting(command: &str) -> String {
    format!("Starting process with command `{command}`")
}

/// `State changed from starting to up`
pub fn state_changed(from: DynoState, to: DynoState) -> String {
    format!("State changed from {} to {}", state(from), state(to))
}

/// `Process running mem=590M(115.2%)`
pub fn running_memory(used_bytes: u64, quota_bytes: u64) -> String {
    const MIB: u64 = 1024 * 1024;
    // Per mille, rounded; a quota is some hundred megabytes at least.
    let share = (used_bytes * 1000 + quota_bytes / 2) / quota_bytes.max(1);
    format!("Process running mem={}M({}.{}%)", used_bytes / MIB, share / 10, share % 10)
}

/// `Process exited with status 143`
pub fn exited(status: i32) -> String {
    format!("Process exited with status {status}")
}

/// R10. `loopback_port` is set when something listens, but on 127.0.0.1 only.
pub fn boot_timeout(timeout_ms: u64, loopback_port: Option<u16>) -> String {
    let seconds = timeout_ms / 1000;
    let mut text = format!(
        "Error R10 (Boot timeout) -> Web process failed to bind to $PORT within {seconds} seconds of launch"
    );
    if let Some(port) = loopback_port {
        text.push_str(&format!(" (it listens on 127.0.0.1:{port} only: bind to 0.0.0.0)"));
    }
    text
}

/// R10 of a dyno that listens, but whose health check did not succeed; `detail` is what the router saw last.
pub fn health_check_timeout(timeout_ms: u64, detail: &str) -> String {
    let seconds = timeout_ms / 1000;
    format!(
        "Error R10 (Boot timeout) -> Web process failed its health check (HEALTH_CHECK_PATH) within {seconds} seconds \
         of binding to $PORT: {detail}"
    )
}

/// Something listens where the router does not get to.
pub fn loopback_only(port: u16) -> String {
    format!("Web process listens on 127.0.0.1:{port} only, where no request can reach it: bind to 0.0.0.0")
}

/// The node has no room for it.
pub fn waiting(shortage: Shortage) -> String {
    format!("Waiting for {}, to be started when there is room: {shortage}", shortage.waits_for())
}

/// The dyno could not be started at all.
pub fn start_failed(reason: &str) -> String {
    format!("Error R99 (Platform error) -> Failed to launch the dyno: {reason}")
}

/// A new release's web dyno crashed while dynos of an older one still serve.
pub fn keeps_serving(old_version: i64, new_version: i64) -> String {
    format!("Release v{old_version} keeps serving requests until dynos of release v{new_version} are up")
}

/// Lines of the dyno's own output that could not be kept.
pub fn dropped(count: u64) -> String {
    format!("{count} lines were dropped because the log could not take them in time")
}

fn state(state: DynoState) -> &'static str {
    match state {
        DynoState::Created | DynoState::Starting => "starting",
        DynoState::Up => "up",
        DynoState::Crashed => "crashed",
        DynoState::Idle | DynoState::Down => "down",
        DynoState::Complete => "complete",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_megabytes_and_as_a_share_of_the_quota() {
        const MIB: u64 = 1024 * 1024;
        assert_eq!(running_memory(590 * MIB, 512 * MIB), "Process running mem=590M(115.2%)");
        assert_eq!(running_memory(1029 * MIB, 512 * MIB), "Process running mem=1029M(201.0%)");
    }
}
