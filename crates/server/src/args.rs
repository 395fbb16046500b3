//! The command line of `ferrokud`.
//!
//! `server`, `restart`, `env`, `invite`, `accounts`, `account` and `gc` are for people; `control`, `router` and `pre-receive` are what the
//! program starts of itself. Parsed before any asynchronous runtime exists, so that the supervisor
//! stays single-threaded and small.

use crate::acm::AcmeSettings;
use crate::admin_command::Change;
use crate::dynos::{DynoSettings, SleepSettings, machine_memory_bytes};
use crate::fetch::FetchSettings;
use crate::mail::MailSettings;
use crate::node::NodeConfig;
use crate::people::{PeopleSettings, SignUp};
use crate::tls::Given;
use clap::{Args, Parser, Subcommand, ValueEnum};
use ferroku_core::Millis;
use ferroku_core::planner::SleepPolicy;
use ferroku_core::retention::{KEEP_RELEASES, Retention};
use ipnet::IpNet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The data folder when none is named.
const DEFAULT_DATA: &str = "/var/lib/ferroku";

#[derive(Debug, Parser)]
#[command(name = "ferrokud", version, about = "A Heroku of your own", disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a node: API and git, router, dynos. Stops everything it started on Ctrl-C or SIGTERM.
    Server(NodeArgs),
    /// Replace a running node's processes by the program now on disk; dynos go on.
    Restart(DataArgs),
    /// Print the shell exports that point the Heroku CLI and git at this node.
    Env(DataArgs),
    /// Invite somebody to have an account on a running node.
    Invite {
        email: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// List a running node's accounts.
    Accounts(DataArgs),
    /// Suspend, resume or delete an account of a running node.
    Account {
        change: Change,
        email: String,
        #[command(flatten)]
        data: DataArgs,
    },
    /// Remove what no release needs any more from a running node's disk, as the node does by itself; or tell what that is.
    Gc {
        /// Only tell
        #[arg(long)]
        dry_run: bool,
        #[command(flatten)]
        data: DataArgs,
    },
    /// The control process (started by `server`).
    #[command(hide = true)]
    Control(NodeArgs),
    /// The router process (started by `server`).
    #[command(hide = true)]
    Router(NodeArgs),
    /// The git hook (started by git).
    #[command(hide = true)]
    PreReceive,
}

#[derive(Debug, Clone, Args)]
pub struct DataArgs {
    /// The data folder
    #[arg(long, value_name = "DIR", env = "FERROKU_DATA", default_value = DEFAULT_DATA)]
    pub data: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct NodeArgs {
    #[command(flatten)]
    pub data: DataArgs,
    /// Where API and git listen, plain HTTP and TLS alike
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:5080")]
    pub listen: SocketAddr,
    /// Where the router listens for the apps' visitors
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub router: SocketAddr,
    /// Where the router listens for https, too; its first address takes TLS as well
    #[arg(long, value_name = "ADDR:PORT")]
    pub router_tls: Option<SocketAddr>,
    /// Apps are served at NAME.DOMAIN
    #[arg(long, value_name = "DOMAIN", default_value = "localhost", value_parser = domain)]
    pub domain: String,
    /// Email of the account that owns the node; used at the first start
    #[arg(long, value_name = "EMAIL", default_value = "owner@localhost", value_parser = email)]
    pub owner: String,
    /// A postgres:// URL; without it the store is a SQLite file in the data folder
    #[arg(long, value_name = "URL", env = "FERROKU_DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    #[command(flatten)]
    pub dynos: DynoArgs,
    #[command(flatten)]
    pub certificate: CertificateArgs,
    #[command(flatten)]
    pub acme: AcmeArgs,
    #[command(flatten)]
    pub people: PeopleArgs,
    #[command(flatten)]
    pub retention: RetentionArgs,
    #[command(flatten)]
    pub fetch: FetchArgs,
}

/// What stays on the disk of what releases leave (docs/disk.md).
#[derive(Debug, Clone, Copy, Args)]
pub struct RetentionArgs {
    /// Slugs of each app that can be rolled back to, however old; 1 or more
    #[arg(long, value_name = "COUNT", env = "FERROKU_KEEP_RELEASES", default_value_t = KEEP_RELEASES,
          value_parser = keep_releases)]
    pub keep_releases: usize,
    /// Keep others, too, for so long after their last release, unless the disk is about to fill
    #[arg(long, value_name = "TIME", env = "FERROKU_KEEP_SLUGS_FOR", default_value = "30d", value_parser = duration)]
    pub keep_slugs_for: Duration,
}

/// Most releases that may be kept.
const MOST_RELEASES: usize = 10_000;

fn keep_releases(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if (1..=MOST_RELEASES).contains(&count) => Ok(count),
        _ => Err(format!("{text:?} is not a number from 1 to {MOST_RELEASES}")),
    }
}

impl RetentionArgs {
    /// The arguments that say the same.
    pub fn to_arguments(self) -> [String; 2] {
        let seconds = self.keep_slugs_for.as_secs();
        [format!("--keep-releases={}", self.keep_releases), format!("--keep-slugs-for={seconds}s")]
    }
}

impl From<RetentionArgs> for Retention {
    fn from(args: RetentionArgs) -> Self {
        let age_ms = Millis::try_from(args.keep_slugs_for.as_millis()).unwrap_or(Millis::MAX);
        Self { releases: args.keep_releases, age_ms }
    }
}

/// Where the sources of builds may come from.
#[derive(Debug, Clone, Default, Args)]
pub struct FetchArgs {
    /// Networks, such as 10.20.0.0/16, from which sources may be fetched for builds besides the internet; also several,
    /// with commas between them
    #[arg(long, value_name = "NETWORKS", env = "FERROKU_FETCH_FROM", value_delimiter = ',')]
    pub fetch_from: Vec<IpNet>,
}

impl FetchArgs {
    /// The arguments that say the same.
    pub fn to_arguments(&self) -> Vec<String> {
        self.fetch_from.iter().map(|network| format!("--fetch-from={network}")).collect()
    }
}

/// Who may have an account, and how letters reach them.
#[derive(Debug, Clone, Default, Args)]
pub struct PeopleArgs {
    /// Who may make an account: `open` anybody who reads the address, `invitation` whom an admin invites, `closed` nobody
    #[arg(long, value_enum, value_name = "WHO", env = "FERROKU_SIGN_UP", default_value_t = SignUp::Closed)]
    pub sign_up: SignUp,
    /// Where people reach API and pages, for links in letters; by default http://localhost and the API's port
    #[arg(long, value_name = "URL", env = "FERROKU_PUBLIC_URL", value_parser = public_url)]
    pub public_url: Option<String>,
    /// The server that takes letters: smtps://USER:PASSWORD@HOST, or smtp://HOST:587?tls=required. Without it letters
    /// become files in the data folder
    #[arg(long, value_name = "URL", env = "FERROKU_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<String>,
    /// Whom letters come from; by default ferroku@DOMAIN
    #[arg(long, value_name = "EMAIL", env = "FERROKU_MAIL_FROM", value_parser = email)]
    pub mail_from: Option<String>,
}

impl PeopleArgs {
    /// The arguments that say the same, but for the SMTP server's URL, which holds a password.
    pub fn to_arguments(&self) -> Vec<String> {
        let who = self.sign_up.to_possible_value();
        let mut arguments =
            vec![format!("--sign-up={}", who.as_ref().map_or("closed", |who| who.get_name()))];
        arguments.extend(self.public_url.as_ref().map(|url| format!("--public-url={url}")));
        arguments.extend(self.mail_from.as_ref().map(|from| format!("--mail-from={from}")));
        arguments
    }
}

/// `https://host`, with or without a port; no path, no slash at the end.
fn public_url(text: &str) -> Result<String, String> {
    let url = text.trim_end_matches('/');
    let authority = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match authority.and_then(|authority| authority.parse::<http::uri::Authority>().ok()) {
        Some(authority) if !authority.as_str().contains('@') => Ok(url.to_owned()),
        _ => Err("it is like https://ferroku.example.com or http://localhost:5080".to_owned()),
    }
}

/// What the admin allows dynos.
#[derive(Debug, Clone, Args)]
pub struct DynoArgs {
    /// Replace each dyno once it is so old, and up to 15 % later, and end one-off dynos then: 24h is what Heroku does;
    /// 10m is the least. Without it dynos are not cycled
    #[arg(long, value_name = "TIME", env = "FERROKU_CYCLE_DYNOS_AFTER", value_parser = cycle_duration)]
    pub cycle_dynos_after: Option<Duration>,
    /// An OCI runtime that makes the dynos' containers, such as /usr/sbin/runc, in place of the one that is built in
    #[arg(long, value_name = "PROGRAM", env = "FERROKU_OCI_RUNTIME")]
    pub oci_runtime: Option<PathBuf>,
    /// How many times the machine's memory the sizes of all dynos and builds together may come to; 1 promises nobody
    /// what is not there
    #[arg(long, value_name = "FACTOR", env = "FERROKU_MEMORY_OVERCOMMIT", default_value_t = MEMORY_OVERCOMMIT, value_parser = factor)]
    pub memory_overcommit: f64,
    /// How many hours a month the eco dynos of each account may be awake, all together: 1000 is what Heroku gives. Without it
    /// they are not counted against anything
    #[arg(long, value_name = "HOURS", env = "FERROKU_ECO_HOURS", value_parser = clap::value_parser!(u32).range(1..=MOST_ECO_HOURS))]
    pub eco_hours: Option<u32>,
    #[command(flatten)]
    pub sleep: SleepArgs,
}

/// Most eco hours a month: as good as without end.
const MOST_ECO_HOURS: i64 = 1_000_000;

/// A dyno of 512 MB idles in some 40 MB at least: with more of them than this lets in, a machine cannot even idle. What
/// a machine bears under load is for its admin to say.
const MEMORY_OVERCOMMIT: f64 = 12.0;

/// How much more, or less, than there is may be promised.
fn factor(text: &str) -> Result<f64, String> {
    let factor: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.01..=1000.0).contains(&factor) {
        Ok(factor)
    } else {
        Err(format!("{text} is not between 0.01 and 1000"))
    }
}

/// Longest time that an option takes, in seconds: a hundred years are a slip of the finger.
const MOST_SECONDS: u64 = 366 * 86_400;

/// `90s`, `30m`, `24h`, `7d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time: write a number above 0 and s, m, h or d, such as 24h");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let seconds = u64::from(number) * seconds;
    if seconds == 0 || seconds > MOST_SECONDS {
        return Err(format!("{text:?} is not between 1s and {}d", MOST_SECONDS / 86_400));
    }
    Ok(Duration::from_secs(seconds))
}

/// Shortest time after which dynos are cycled, in seconds: well above what an app may take to boot (60 s, R10), or its
/// dynos would be due before they serve.
const LEAST_CYCLE_SECONDS: u64 = 600;

fn cycle_duration(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    if time.as_secs() < LEAST_CYCLE_SECONDS {
        return Err(format!("{text:?} is less than {}m", LEAST_CYCLE_SECONDS / 60));
    }
    Ok(time)
}

impl From<DynoArgs> for DynoSettings {
    fn from(args: DynoArgs) -> Self {
        let memory = machine_memory_bytes();
        Self {
            cycle_after: args.cycle_dynos_after,
            memory_bytes: memory.map(|bytes| (bytes as f64 * args.memory_overcommit) as u64),
            oci_runtime: args.oci_runtime,
            sleep: args.sleep.into(),
            eco_hours: args.eco_hours,
        }
    }
}

/// A certificate for the API's own name, from elsewhere than the node's CA.
#[derive(Debug, Clone, Default, Args)]
pub struct CertificateArgs {
    /// PEM file with the certificate that the API shows to whoever asks for one of its names, and what it was signed with.
    /// Read again twice a day
    #[arg(long, value_name = "FILE", env = "FERROKU_TLS_CERTIFICATE", requires = "tls_key")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with its private key
    #[arg(long, value_name = "FILE", env = "FERROKU_TLS_KEY", requires = "tls_certificate")]
    pub tls_key: Option<PathBuf>,
}

impl From<CertificateArgs> for Option<Given> {
    fn from(args: CertificateArgs) -> Self {
        args.tls_certificate.zip(args.tls_key).map(|(certificate, key)| Given { certificate, key })
    }
}

/// Certificates for the apps' domains, got and renewed automatically.
#[derive(Debug, Clone, Default, Args)]
pub struct AcmeArgs {
    /// The directory of an ACME certificate authority, such as https://acme-v02.api.letsencrypt.org/directory;
    /// naming it says yes to the authority's terms of service. Without it `certs:auto` is off
    #[arg(long, value_name = "URL", env = "FERROKU_ACME_DIRECTORY", value_parser = directory)]
    pub acme_directory: Option<String>,
    /// PEM file with the root to trust for that URL, in place of the system's
    #[arg(long, value_name = "FILE", env = "FERROKU_ACME_ROOT", requires = "acme_directory")]
    pub acme_root: Option<PathBuf>,
    /// Whom the authority may write to
    #[arg(long, value_name = "EMAIL", env = "FERROKU_ACME_CONTACT", value_parser = email, requires = "acme_directory")]
    pub acme_contact: Option<String>,
}

/// When eco dynos, and apps with the feature `sleep-when-idle`, sleep.
#[derive(Debug, Clone, Args)]
pub struct SleepArgs {
    /// Freeze an app after so much time without a request; `never`: no app sleeps
    #[arg(long, value_name = "TIME", env = "FERROKU_IDLE_AFTER", default_value = "30m", value_parser = idle_after)]
    pub idle_after: IdleAfter,
    /// Stop it after so much more
    #[arg(long, value_name = "TIME", env = "FERROKU_STOP_IDLE_AFTER", default_value = "6h", value_parser = duration)]
    pub stop_idle_after: Duration,
    /// Stop frozen apps sooner while less of the machine's memory than this is available
    #[arg(long, value_name = "PERCENT", env = "FERROKU_STOP_IDLE_BELOW", default_value_t = 10,
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub stop_idle_below: u8,
}

/// None: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdleAfter(Option<Duration>);

fn idle_after(text: &str) -> Result<IdleAfter, String> {
    match text {
        "never" => Ok(IdleAfter(None)),
        _ => duration(text).map(|time| IdleAfter(Some(time))),
    }
}

impl SleepArgs {
    /// The arguments that say the same.
    pub fn to_arguments(&self) -> [String; 3] {
        let seconds = |time: Duration| format!("{}s", time.as_secs());
        [
            format!("--idle-after={}", self.idle_after.0.map_or("never".to_owned(), seconds)),
            format!("--stop-idle-after={}", seconds(self.stop_idle_after)),
            format!("--stop-idle-below={}", self.stop_idle_below),
        ]
    }
}

impl From<SleepArgs> for SleepSettings {
    fn from(args: SleepArgs) -> Self {
        let ms = |time: Duration| Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX);
        let policy = |idle_after| SleepPolicy {
            idle_after_ms: ms(idle_after),
            stop_after_ms: ms(args.stop_idle_after),
        };
        Self { policy: args.idle_after.0.map(policy), min_available_percent: args.stop_idle_below }
    }
}

impl From<AcmeArgs> for Option<AcmeSettings> {
    fn from(args: AcmeArgs) -> Self {
        let AcmeArgs { acme_directory, acme_root: root, acme_contact: contact } = args;
        acme_directory.map(|directory_url| AcmeSettings { directory_url, root, contact })
    }
}

/// ACME is spoken over TLS only (RFC 8555, section 6.1).
fn directory(text: &str) -> Result<String, String> {
    match text.strip_prefix("https://") {
        Some(rest) if !rest.is_empty() && !rest.starts_with('/') => Ok(text.to_owned()),
        _ => Err("it is a URL that begins with https://".to_owned()),
    }
}

/// A DNS name (RFC 1123, section 2.1), in lower case.
fn domain(text: &str) -> Result<String, String> {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    if text.len() <= 200 && text.split('.').all(is_label) {
        return Ok(text.to_ascii_lowercase());
    }
    Err("a domain is letters, digits and hyphens between dots, such as apps.example.com".to_owned())
}

/// Something on both sides of one `@`, in lower case; whether mail arrives is not known here.
fn email(text: &str) -> Result<String, String> {
    match text.split_once('@') {
        Some((name, host))
            if !name.is_empty()
                && !host.is_empty()
                && !host.contains('@')
                && !text.contains(|c: char| c.is_whitespace() || c.is_control()) =>
        {
            Ok(text.to_lowercase())
        }
        _ => Err("an email address is NAME@HOST, such as you@example.com".to_owned()),
    }
}

impl From<NodeArgs> for NodeConfig {
    fn from(args: NodeArgs) -> Self {
        let people = args.people;
        let default_url = || format!("http://localhost:{}", args.listen.port());
        Self {
            mail: MailSettings { smtp_url: people.smtp_url.map(Into::into), from: people.mail_from },
            people: PeopleSettings {
                sign_up: people.sign_up,
                public_url: people.public_url.unwrap_or_else(default_url),
            },
            data: args.data.data,
            listen: args.listen,
            router: args.router,
            router_tls: args.router_tls,
            domain: args.domain,
            owner_email: args.owner,
            database_url: args.database_url,
            certificate: args.certificate.into(),
            acme: args.acme.into(),
            dynos: args.dynos.into(),
            retention: args.retention.into(),
            fetch: FetchSettings { allowed: args.fetch.fetch_from },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_domain_or_an_owner_that_cannot_be_is_refused() {
        let parses =
            |arguments: &[&str]| Cli::try_parse_from(["ferrokud", "server"].iter().chain(arguments)).is_ok();
        for bad in ["bad_dom!", "", "a..b", "-a.example", "http://a.example", "a b"] {
            assert!(!parses(&["--domain", bad]), "{bad}");
        }
        for bad in ["notmail", "@host", "name@", "a@b@c", "a b@c"] {
            assert!(!parses(&["--owner", bad]), "{bad}");
        }
        for bad in [
            &["--acme-directory", "http://ca.example/directory"][..],
            &["--acme-directory", "https://"],
            &["--acme-root", "/tmp/root.pem"],
            &["--sign-up", "everybody"],
            &["--public-url", "node.example"],
            &["--public-url", "https://node.example/path"],
            &["--acme-contact", "you@example.com"],
            &["--tls-certificate", "/tmp/chain.pem"],
            &["--memory-overcommit", "0"],
            &["--memory-overcommit", "NaN"],
            &["--memory-overcommit", "lots"],
            &["--cycle-dynos-after", "soon"],
            &["--keep-releases", "0"],
            &["--keep-slugs-for", "a month"],
            &["--eco-hours", "0"],
            &["--eco-hours", "many"],
            &["--fetch-from", "10.0.0.0/33"],
            &["--fetch-from", "example.com"],
        ] {
            assert!(!parses(bad), "{bad:?}");
        }
        assert!(parses(&[
            "--acme-directory",
            "https://ca.example/directory",
            "--acme-root",
            "/tmp/root.pem"
        ]));
        assert!(parses(&["--domain", "apps.Example.com", "--owner", "You@example.com"]));
    }

    #[test]
    fn times_have_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("24h", 86_400), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for bad in ["", "h", "24", "0h", "-1h", "1.5h", "24é", "367d", "1 h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert_eq!(idle_after("never"), Ok(IdleAfter(None)));
        assert_eq!(idle_after("30m"), Ok(IdleAfter(Some(Duration::from_secs(1_800)))));
        assert!(idle_after("0s").is_err());
    }

    #[test]
    fn everything_has_a_default() {
        let cli = Cli::try_parse_from(["ferrokud", "server"]).expect("no argument is required");
        let Command::Server(args) = cli.command else { panic!("not server") };
        assert_eq!(args.listen.port(), 5080);
        assert_eq!(args.router.port(), 8080);
        assert_eq!(args.domain, "localhost");
    }
}
