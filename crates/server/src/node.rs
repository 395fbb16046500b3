//! What every handler and background task of the control process shares.

use crate::access::Readers;
use crate::acm::{self, Acm, AcmeSettings};
use crate::api::cli_logins::CliLogins;
use crate::app_destruction::{self, Destructions};
use crate::builds::Builds;
use crate::dynos::{DynoManager, DynoSettings};
use crate::events::{self, EventFeed};
use crate::fetch::FetchSettings;
use crate::login::Logins;
use crate::mail::{Mail, MailSettings};
use crate::metrics::{self, Metrics};
use crate::people::PeopleSettings;
use crate::people::throttle::Throttle;
use crate::rate_limit::RateLimits;
use crate::rendezvous::Rendezvous;
use crate::router_link::RouterLink;
use crate::ssh::Ssh;
use crate::tls::Given;
use ferroku_core::retention::Retention;
use ferroku_core::{AccountId, AppId, Millis};
use ferroku_logplex::Logplex;
use ferroku_runtime::SandboxDriver;
use ferroku_store::Store;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// How this node was told to run.
#[derive(Debug, Clone)]
pub struct NodeConfig {
    /// The data folder.
    pub data: PathBuf,
    /// Where API and git listen.
    pub listen: SocketAddr,
    /// Where the router listens; its port goes into every app's `web_url`.
    pub router: SocketAddr,
    /// Where the router listens for https, if not on the same address.
    pub router_tls: Option<SocketAddr>,
    /// Apps are served at `NAME.DOMAIN`.
    pub domain: String,
    pub owner_email: String,
    /// A PostgreSQL URL; None keeps the store in the data folder.
    pub database_url: Option<String>,
    /// The API's certificate from elsewhere, if there is one.
    pub certificate: Option<Given>,
    /// Where certificates are got automatically; None gets none.
    pub acme: Option<AcmeSettings>,
    pub dynos: DynoSettings,
    pub mail: MailSettings,
    pub people: PeopleSettings,
    /// How long slugs are kept.
    pub retention: Retention,
    pub fetch: FetchSettings,
}

impl NodeConfig {
    /// Where the store is.
    pub fn store_url(&self) -> String {
        match &self.database_url {
            Some(url) => url.clone(),
            None => format!("sqlite://{}", self.data.join("ferroku.sqlite").display()),
        }
    }

    /// The URL at which an app of this name answers.
    pub fn web_url(&self, app_name: &str) -> String {
        match self.router.port() {
            80 => format!("http://{app_name}.{}/", self.domain),
            port => format!("http://{app_name}.{}:{port}/", self.domain),
        }
    }
}

/// The state of the control process. Held as `Arc<Node>`.
pub struct Node {
    pub config: NodeConfig,
    pub store: Store,
    /// Runs dynos; None only where none is ever run: in tests of handlers. Use [`Node::driver`].
    pub driver: Option<Arc<SandboxDriver>>,
    pub router: RouterLink,
    pub logplex: Logplex,
    pub rendezvous: Rendezvous,
    pub ssh: Ssh,
    pub events: Arc<EventFeed>,
    pub dynos: DynoManager,
    pub builds: Builds,
    pub destructions: Destructions,
    pub acm: Acm,
    pub metrics: Metrics,
    pub logins: Logins,
    pub rate_limits: RateLimits<AccountId>,
    pub readers: Readers,
    /// Of pushes and fetches.
    pub git_limits: RateLimits<(AccountId, AppId)>,
    pub throttle: Throttle,
    pub mail: Mail,
    pub cli_logins: CliLogins,
}

impl Node {
    /// Starts this part's background tasks: the event feed, what finishes destructions, what keeps
    /// certificates, what adds up metrics, and what sends letters. To be called once.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn spawn_tasks(self: &Arc<Self>) {
        tokio::spawn(events::run(self.clone()));
        tokio::spawn(app_destruction::run(self.clone()));
        tokio::spawn(acm::run(self.clone()));
        tokio::spawn(metrics::run(self.clone()));
        let node = self.clone();
        tokio::spawn(async move { node.mail.run().await });
    }

    /// What runs dynos.
    ///
    /// # Panics
    /// In a node that was made without one.
    pub fn driver(&self) -> &Arc<SandboxDriver> {
        self.driver.as_ref().expect("a node that runs dynos is made with a driver")
    }
}

/// The time, in milliseconds since the epoch.
pub fn now_ms() -> Millis {
    jiff::Timestamp::now().as_millisecond()
}

#[cfg(test)]
use crate::people::SignUp;

#[cfg(test)]
impl Node {
    /// A node on a new SQLite store in `data` that runs no dynos and reaches no router.
    pub async fn for_tests(data: &std::path::Path) -> Arc<Self> {
        let people = PeopleSettings { sign_up: SignUp::Closed, public_url: String::new() };
        Self::for_tests_of_people(data, people, MailSettings::default()).await
    }

    /// The same with these settings.
    pub async fn for_tests_of_people(
        data: &std::path::Path,
        people: PeopleSettings,
        mail: MailSettings,
    ) -> Arc<Self> {
        use crate::rate_limit::{GIT_REQUESTS_PER_HOUR, REQUESTS_PER_HOUR};
        use crate::secrets;
        let config = NodeConfig {
            data: data.to_owned(),
            listen: ([127, 0, 0, 1], 0).into(),
            router: ([127, 0, 0, 1], 8080).into(),
            router_tls: None,
            domain: "localhost".to_owned(),
            owner_email: "owner@example.com".to_owned(),
            database_url: None,
            certificate: None,
            acme: None,
            dynos: DynoSettings::default(),
            mail,
            people,
            retention: Retention::default(),
            fetch: FetchSettings::default(),
        };
        let key = secrets::master_key(data, &config.store_url()).expect("a master key");
        let store = Store::open(&config.store_url(), key).await.expect("a store");
        secrets::ensure_owner(&store, data, &config.owner_email).await.expect("an owner");
        Arc::new(Self {
            store,
            driver: None,
            router: RouterLink::connect(data.join("router.sock")),
            logplex: Logplex::open(data.join("logs")).expect("logs"),
            rendezvous: Rendezvous::new(),
            ssh: Ssh::open(data).expect("a host key"),
            events: Arc::default(),
            dynos: DynoManager::default(),
            builds: Builds::new(data),
            destructions: Destructions::default(),
            acm: Acm::default(),
            metrics: Metrics::default(),
            logins: Logins::default(),
            rate_limits: RateLimits::new(REQUESTS_PER_HOUR),
            readers: Readers::default(),
            git_limits: RateLimits::new(GIT_REQUESTS_PER_HOUR),
            throttle: Throttle::default(),
            mail: Mail::open(&config.mail, data, &config.domain).expect("a way for letters"),
            cli_logins: CliLogins::default(),
            config,
        })
    }
}
