//! A small typed client of the API.
//!
//! `Client::new("http://localhost:5080", token).apps().await?` gives `Vec<App>`. An answer of
//! status 400 and above becomes [`ClientError::Api`] with Heroku's error id.

use crate::account::Account;
use crate::app::App;
use crate::config_var::{ConfigPatch, ConfigVars};
use crate::error::Error as ErrorBody;
use crate::release::Release;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// Why a call failed.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error("cannot reach the API at {url}")]
    Transport { url: String, source: reqwest::Error },
    #[error("the API answered {status} {id}: {message}")]
    Api { status: u16, id: String, message: String },
    #[error("the API's answer to {url} (status {status}) is not what was expected: {body}")]
    Body { url: String, status: u16, body: String, source: serde_json::Error },
}

/// Speaks to one node as one account.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base_url: String,
    token: String,
}

impl Client {
    /// A client of the node at `base_url` (`http://localhost:5080`).
    ///
    /// # Panics
    /// When the system's TLS roots cannot be read.
    pub fn new(base_url: impl Into<String>, token: impl Into<String>) -> Self {
        // A second installation is refused and means that somebody else did it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let base_url = base_url.into().trim_end_matches('/').to_owned();
        Self { http: reqwest::Client::new(), base_url, token: token.into() }
    }

    /// A request with this client's credentials, for what has no method here.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base_url))
            .header("Accept", "application/vnd.heroku+json; version=3")
            .bearer_auth(&self.token)
    }

    /// Sends a request and reads the answer's JSON.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T, ClientError> {
        let transport = |source| ClientError::Transport { url: self.base_url.clone(), source };
        let response: Response = request.send().await.map_err(transport)?;
        let status: StatusCode = response.status();
        let url = response.url().to_string();
        let body = response.text().await.map_err(transport)?;
        if status.is_client_error() || status.is_server_error() {
            let error: ErrorBody = parse(&url, status, body)?;
            return Err(ClientError::Api { status: status.as_u16(), id: error.id, message: error.message });
        }
        parse(&url, status, body)
    }

    /// `GET path`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(self.request(Method::GET, path)).await
    }

    /// `method path` with a JSON body.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send(self.request(method, path).json(body)).await
    }

    /// The account this client speaks as.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn account(&self) -> Result<Account, ClientError> {
        self.get("/account").await
    }

    /// Every app the account can see.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn apps(&self) -> Result<Vec<App>, ClientError> {
        self.get("/apps").await
    }

    /// Creates an app; without a name it gets a random one.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create_app(&self, name: Option<&str>) -> Result<App, ClientError> {
        let body = serde_json::json!({ "name": name });
        self.call(Method::POST, "/apps", &body).await
    }

    /// The app with this id or name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn app(&self, app: &str) -> Result<App, ClientError> {
        self.get(&format!("/apps/{app}")).await
    }

    /// Destroys an app.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn destroy_app(&self, app: &str) -> Result<App, ClientError> {
        self.send(self.request(Method::DELETE, &format!("/apps/{app}"))).await
    }

    /// An app's config vars.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn config_vars(&self, app: &str) -> Result<ConfigVars, ClientError> {
        self.get(&format!("/apps/{app}/config-vars")).await
    }

    /// Changes config vars; gives all of them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn patch_config_vars(&self, app: &str, patch: &ConfigPatch) -> Result<ConfigVars, ClientError> {
        self.call(Method::PATCH, &format!("/apps/{app}/config-vars"), patch).await
    }

    /// An app's releases, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn releases(&self, app: &str) -> Result<Vec<Release>, ClientError> {
        self.get(&format!("/apps/{app}/releases")).await
    }

    /// Rolls an app back to a release (`v3`, `3` or an id).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn rollback(&self, app: &str, release: &str) -> Result<Release, ClientError> {
        let body = serde_json::json!({ "release": release });
        self.call(Method::POST, &format!("/apps/{app}/releases"), &body).await
    }
}

fn parse<T: DeserializeOwned>(url: &str, status: StatusCode, body: String) -> Result<T, ClientError> {
    let status = status.as_u16();
    serde_json::from_str(&body).map_err(|source| ClientError::Body {
        url: url.to_owned(),
        status,
        body,
        source,
    })
}
