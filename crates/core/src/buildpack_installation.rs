//! Which buildpacks an app uses, in order, and what may be named as one.

use thiserror::Error;

/// Buildpacks of one app. Heroku has no documented limit; each runs in every build.
pub const MAX_BUILDPACKS: usize = 20;
/// Longest name or address, in bytes.
pub const MAX_ADDRESS_BYTES: usize = 2048;
/// How names of Heroku's registry are written as addresses.
const URN: &str = "urn:buildpack:";

/// One buildpack of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildpackInstallation {
    /// From 0.
    pub ordinal: i64,
    /// `heroku/python`, or the URL of a git repository or tarball, or `file://` and a folder of the node.
    pub url: String,
}

/// Why something cannot be a buildpack of an app.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum BuildpackError {
    #[error("{name} is not a buildpack of this node: it has {known}. Give the git URL of another one.")]
    Unknown { name: String, known: String },
    #[error("a buildpack must be a name such as heroku/python, or a URL; it was {0:?}")]
    Malformed(String),
    #[error("a buildpack's address may have {MAX_ADDRESS_BYTES} bytes at most")]
    TooLong,
}

/// What was named as a buildpack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildpackAddress {
    /// One that is built in; without `urn:buildpack:`.
    BuiltIn(String),
    /// Fetched over the network in each build.
    Remote(String),
    /// A folder or archive of the node, as an absolute path.
    Folder(String),
}

impl BuildpackAddress {
    /// Reads a name or address. `built_in` are the names of the buildpacks that come with the node.
    ///
    /// # Errors
    /// It is neither one of those nor an address.
    pub fn parse(text: &str, built_in: &[&str]) -> Result<Self, BuildpackError> {
        if text.len() > MAX_ADDRESS_BYTES {
            return Err(BuildpackError::TooLong);
        }
        let text = text.trim();
        let name = text.strip_prefix(URN).unwrap_or(text);
        if name.chars().any(|character| character.is_whitespace() || character.is_control()) {
            return Err(BuildpackError::Malformed(text.to_owned()));
        }
        if built_in.contains(&name) {
            return Ok(Self::BuiltIn(name.to_owned()));
        }
        if let Some(path) = name.strip_prefix("file://").or_else(|| name.starts_with('/').then_some(name)) {
            return match path.starts_with('/') && !path.split('/').any(|part| part == "..") {
                true => Ok(Self::Folder(path.to_owned())),
                false => Err(BuildpackError::Malformed(text.to_owned())),
            };
        }
        if let Some((scheme, rest)) = name.split_once("://") {
            let known = ["http", "https", "git", "ssh"].contains(&scheme.to_ascii_lowercase().as_str());
            return match known && !rest.is_empty() && !rest.starts_with('-') {
                true => Ok(Self::Remote(name.to_owned())),
                false => Err(BuildpackError::Malformed(text.to_owned())),
            };
        }
        // git@host:path
        if !name.starts_with('-') && name.split_once('@').is_some_and(|(_, rest)| rest.contains(':')) {
            return Ok(Self::Remote(name.to_owned()));
        }
        match name.split_once('/') {
            Some((owner, rest)) if !owner.is_empty() && !rest.is_empty() => {
                Err(BuildpackError::Unknown { name: name.to_owned(), known: built_in.join(", ") })
            }
            _ => Err(BuildpackError::Malformed(text.to_owned())),
        }
    }

    /// As it is stored and given to a build.
    pub fn as_str(&self) -> &str {
        let (Self::BuiltIn(text) | Self::Remote(text) | Self::Folder(text)) = self;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_told_apart() {
        let parse = |text: &str| BuildpackAddress::parse(text, &["heroku/python"]);
        let built_in = Ok(BuildpackAddress::BuiltIn("heroku/python".to_owned()));
        assert_eq!(parse("heroku/python"), built_in);
        assert_eq!(parse("urn:buildpack:heroku/python"), built_in);
        for remote in ["https://github.com/a/b#v1", "HTTPS://x/y.tgz", "git@github.com:a/b.git", "ssh://x/y"]
        {
            assert_eq!(parse(remote), Ok(BuildpackAddress::Remote(remote.to_owned())), "{remote}");
        }
        assert_eq!(parse("file:///srv/b"), Ok(BuildpackAddress::Folder("/srv/b".to_owned())));
        let unknown = parse("heroku/cobol").expect_err("unknown").to_string();
        assert!(
            unknown.contains("heroku/cobol is not a buildpack of this node: it has heroku/python"),
            "{unknown}"
        );
        for wrong in
            ["", "python", "a b", "ftp://x/y", "https://", "file://srv", "/srv/../root", "-x@y:z", "a\n/b"]
        {
            assert!(matches!(parse(wrong), Err(BuildpackError::Malformed(_))), "{wrong}");
        }
        assert_eq!(parse(&"x".repeat(3000)), Err(BuildpackError::TooLong));
    }
}
