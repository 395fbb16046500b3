//! Which buildpacks an app uses, in order.

/// One buildpack of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildpackInstallation {
    /// From 0.
    pub ordinal: i64,
    /// `heroku/python`, or the URL of a git repository or tarball, or `file://` and a folder of the node.
    pub url: String,
}
