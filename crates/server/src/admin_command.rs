//! `ferrokud invite`, `ferrokud accounts` and `ferrokud account`: what the node's admin does with accounts; `ferrokud gc`: with
//! the disk.
//!
//! In: a data folder on which a node runs; the running control is asked by its API, as the node's owner.

use crate::env_command::ENDPOINT_FILE;
use crate::secrets::Owner;
use anyhow::Context;
use clap::ValueEnum;
use ferroku_api::Client;
use ferroku_api::garbage::Garbage;
use ferroku_api::node_account::{Invitation, NodeAccount};
use reqwest::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;

/// What an admin does to an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Change {
    /// Keep it out: its keys, logins and sessions are refused; its apps go on
    Suspend,
    /// Let it in again
    Resume,
    /// Delete it; refused while it owns apps
    Delete,
    /// Turn its second factor off, for somebody who lost both phone and recovery codes
    #[value(name = "disable-2fa")]
    DisableTwoFactor,
}

/// `ferrokud invite EMAIL`.
///
/// # Errors
/// The node does not run, or refuses.
pub fn invite(data: &Path, email: &str) -> anyhow::Result<ExitCode> {
    let invitation: Invitation = ask(data, Method::POST, "/admin/invitations", &json!({"email": email}))?;
    match &invitation.letter_file {
        Some(file) => say(&format!(
            "{} is invited. There is no --smtp-url, so give them the letter in {file} yourself.\n",
            invitation.email
        )),
        None => say(&format!("{} is invited; a letter is on its way.\n", invitation.email)),
    }
}

/// `ferrokud accounts`.
///
/// # Errors
/// The node does not run.
pub fn list(data: &Path) -> anyhow::Result<ExitCode> {
    let accounts: Vec<NodeAccount> = ask(data, Method::GET, "/admin/accounts", &json!({}))?;
    let mut text = String::new();
    for NodeAccount { account, role } in &accounts {
        let role = serde_json::to_value(role)?;
        text += &format!("{}  {}", account.email, role.as_str().unwrap_or_default());
        text += if account.two_factor_authentication { "  2fa" } else { "" };
        text += if account.suspended_at.is_some() { "  suspended" } else { "" };
        text.push('\n');
    }
    say(&text)
}

/// `ferrokud account CHANGE EMAIL`.
///
/// # Errors
/// The node does not run, or refuses.
pub fn change(data: &Path, change: Change, email: &str) -> anyhow::Result<ExitCode> {
    let path = format!("/admin/accounts/{email}");
    let (method, body, done) = match change {
        Change::Suspend => (Method::PATCH, json!({"suspended": true}), "suspended"),
        Change::Resume => (Method::PATCH, json!({"suspended": false}), "let in again"),
        Change::Delete => (Method::DELETE, json!({}), "deleted"),
        Change::DisableTwoFactor => {
            (Method::PATCH, json!({"two_factor_authentication": false}), "without a second factor")
        }
    };
    let _: NodeAccount = ask(data, method, &path, &body)?;
    say(&format!("{email} is {done}.\n"))
}

/// `ferrokud gc`.
///
/// # Errors
/// The node does not run, or refuses.
pub fn gc(data: &Path, dry_run: bool) -> anyhow::Result<ExitCode> {
    let method = if dry_run { Method::GET } else { Method::POST };
    let garbage: Garbage = ask(data, method, "/admin/garbage", &json!({}))?;
    say(&garbage_text(&garbage, dry_run))
}

fn garbage_text(garbage: &Garbage, dry_run: bool) -> String {
    let [expired, freed] = match dry_run {
        true => ["would go", "would be free"],
        false => ["went", "are free again"],
    };
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / (1024.0 * 1024.0));
    let mut text = format!("{} slugs that no release goes back to {expired}.\n", garbage.expired_slugs);
    for (folder, amount) in &garbage.removed {
        text += &format!("{:>7} of {folder}: {}\n", amount.entries, megabytes(amount.bytes));
    }
    text += &format!("{} {freed}", megabytes(garbage.bytes));
    text +=
        &garbage.disk.free_bytes.map_or(String::new(), |free| format!("; the disk has {}", megabytes(free)));
    text += ".\n";
    if garbage.unfinished {
        text +=
            if dry_run { "There is more than was looked at.\n" } else { "There is more; it goes soon.\n" };
    }
    text
}

fn ask<T: DeserializeOwned>(data: &Path, method: Method, path: &str, body: &Value) -> anyhow::Result<T> {
    let endpoint = fs::read_to_string(data.join(ENDPOINT_FILE))
        .with_context(|| format!("no node runs on {}; start one with `ferrokud server`", data.display()))?;
    let mut address: SocketAddr =
        endpoint.trim().parse().context("run/endpoint is not as the node wrote it")?;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let owner = fs::read(data.join("owner.json"))
        .with_context(|| format!("cannot read {}; run this as root", data.join("owner.json").display()))?;
    let owner: Owner = serde_json::from_slice(&owner).context("owner.json is not as the node wrote it")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::new(format!("http://{address}"), &owner.api_key);
        let mut request = client.request(method.clone(), path);
        if method != Method::GET {
            request = request.json(body);
        }
        client.send(request).await.context("the node did not do it")
    })
}

fn say(text: &str) -> anyhow::Result<ExitCode> {
    std::io::stdout().write_all(text.as_bytes()).context("cannot write to stdout")?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferroku_api::garbage::{Amount, Disk};

    #[test]
    fn what_went_is_told_by_folder() {
        let amount = Amount { entries: 3, bytes: 5 << 20 };
        let disk = Disk { free_bytes: Some(7 << 20), free_files: None };
        let removed = [("slugs".to_owned(), amount)].into();
        let garbage = Garbage { expired_slugs: 3, removed, bytes: 5 << 20, unfinished: false, disk };
        assert_eq!(
            garbage_text(&garbage, false),
            "3 slugs that no release goes back to went.\n      3 of slugs: 5.0 MB\n5.0 MB are free again; the disk has 7.0 MB.\n"
        );
        let garbage = Garbage { unfinished: true, ..Garbage::default() };
        assert!(
            garbage_text(&garbage, true)
                .ends_with("0.0 MB would be free.\nThere is more than was looked at.\n")
        );
    }
}
