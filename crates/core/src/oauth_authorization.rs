//! OAuth authorizations: each holds one access token (an API key), stored only as its SHA-256, and says what
//! the token may be used for.
//!
//! Source: devcenter "OAuth", Scopes.

use crate::{AccountId, AuthorizationId, Millis};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::str::FromStr;

/// What a token may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// Everything that the account may do.
    Global,
    /// See the account.
    Identity,
    /// See apps and all else that the account has, but for config vars and what shows them.
    Read,
    /// Change them, but for config vars and what gets at them.
    Write,
    /// [`Scope::Read`], config vars included.
    ReadProtected,
    /// [`Scope::Write`], config vars included.
    WriteProtected,
}

/// Names a scope that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope: use global, identity, read, write, read-protected or write-protected")]
pub struct UnknownScope(String);

/// The scopes of a token, in the order of [`Scope`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Scopes(BTreeSet<Scope>);

impl Scope {
    /// Its name, as clients write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Global => "global",
            Self::Identity => "identity",
            Self::Read => "read",
            Self::Write => "write",
            Self::ReadProtected => "read-protected",
            Self::WriteProtected => "write-protected",
        }
    }

    /// The scopes any of which opens what this one does.
    fn opened_by(self) -> &'static [Self] {
        match self {
            Self::Global => &[Self::Global],
            // Whoever sees an app sees its owner's name and address there.
            Self::Identity => &[Self::Global, Self::Identity, Self::Read, Self::ReadProtected],
            Self::Read => &[Self::Global, Self::Read, Self::ReadProtected],
            Self::Write => &[Self::Global, Self::Write, Self::WriteProtected],
            Self::ReadProtected => &[Self::Global, Self::ReadProtected],
            Self::WriteProtected => &[Self::Global, Self::WriteProtected],
        }
    }
}

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all = [
            Self::Global,
            Self::Identity,
            Self::Read,
            Self::Write,
            Self::ReadProtected,
            Self::WriteProtected,
        ];
        all.into_iter().find(|scope| scope.name() == text).ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

impl Scopes {
    /// Of a token that may do all that its account may.
    pub fn global() -> Self {
        Self(BTreeSet::from([Scope::Global]))
    }

    /// Whether one of these opens what `needed` does.
    pub fn allow(&self, needed: Scope) -> bool {
        needed.opened_by().iter().any(|scope| self.0.contains(scope))
    }

    /// Their names.
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|scope| scope.name().to_owned()).collect()
    }

    /// Those of these names.
    ///
    /// # Errors
    /// The name that is none.
    pub fn parse(names: &[String]) -> Result<Self, UnknownScope> {
        names.iter().map(|name| name.parse()).collect()
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().collect())
    }
}

/// One authorization as the database knows it: the token itself was shown once, at creation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OauthAuthorization {
    pub id: AuthorizationId,
    pub account_id: AccountId,
    pub description: String,
    pub scope: Scopes,
    /// The token with its middle blotted out (`HRKU-ab**********cd`), to be told from others.
    pub token_redacted: String,
    pub expires_at: Option<Millis>,
    /// Made by logging in, not on purpose: it ends when the password changes.
    pub is_login: bool,
    pub created_at: Millis,
    pub updated_at: Millis,
}
