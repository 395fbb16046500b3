//! `node_modules`: used again when nothing that decides about it has changed.
//!
//! The tree of the last slug comes back as a spare tree (see [`crate::spare`]). An app with devDependencies needs two:
//! what its build script runs with, and what its slug holds. So the complete tree, as it was installed, is left among
//! the spare trees (`node-dev`) beside the pruned one that the node copies from the slug: a build with unchanged
//! dependencies renames the one into place, and then the other, and neither installs nor prunes.
//!
//! Invariant: a tree that scripts of the app have written into is not used again. After each step that runs such
//! scripts the tree is looked through for files newer than its marker. Caches that build tools keep in it do not count.

use super::manager::{Manager, uses_node_modules};
use super::manifest::Manifest;
use crate::context::BuildContext;
use crate::error::BuildError;
use crate::files::{copy_tree, create_folder, delete};
use crate::spare;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use walkdir::WalkDir;

/// Where packages are, in the build folder and in the slug.
pub const MODULES: &str = "node_modules";

/// Spare tree with devDependencies.
const COMPLETE: &str = "node-dev";

/// Raised when what is in a tree changes for the same signature: older spare trees are then not used.
const LAYOUT: u32 = 1;

/// Settings files that decide about what is installed.
const SETTINGS: [&str; 5] = [".npmrc", ".yarnrc", ".yarnrc.yml", ".pnpmfile.cjs", "pnpm-workspace.yaml"];

/// Specifiers of packages that are made from the app's own source, and of patches that are.
const LOCAL: [&str; 5] = ["\"file:", "\"link:", "\"portal:", "\"patch:", "\"workspace:"];

/// Folders that build tools keep in `node_modules` for their next run.
const TOOL_CACHES: [&str; 3] = [".cache", ".vite", ".vite-temp"];

/// What a tree was made from; stands in its marker file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Installed {
    layout: u32,
    /// Stack, Node.js and package manager.
    signature: String,
    /// Fingerprint of the dependencies and the settings.
    dependencies: String,
    /// devDependencies are in it, if the app has any.
    complete: bool,
}

/// A state of a tree, to see whether it was changed since.
struct Stamp {
    time: (i64, i64),
    names: BTreeSet<OsString>,
}

/// The app's `node_modules` during its build.
pub struct Modules {
    path: PathBuf,
    spares: PathBuf,
    /// What is built, if it may be used again at all.
    wanted: Option<Installed>,
    /// devDependencies are taken out at the end.
    prunes: bool,
    stamp: Option<Stamp>,
    restored: bool,
}

impl Modules {
    /// Decides whether the packages of this build and the last may be the same.
    ///
    /// # Errors
    /// A file that decides about it cannot be read.
    pub fn new(
        context: &BuildContext,
        manifest: &Manifest,
        manager: Manager,
        signature: String,
        prunes: bool,
    ) -> Result<Self, BuildError> {
        let dependencies = fingerprint(context, manifest, manager)?;
        let wanted = dependencies.map(|dependencies| Installed {
            layout: LAYOUT,
            signature,
            dependencies,
            complete: true,
        });
        let prunes = prunes && manifest.has_any("devDependencies");
        let (path, spares) = (context.file(MODULES), context.file(spare::PLACED));
        Ok(Self { path, spares, wanted, prunes, stamp: None, restored: false })
    }

    /// Packages that come from no other build and go into none.
    #[must_use]
    pub fn always_new(context: &BuildContext) -> Self {
        let (path, spares) = (context.file(MODULES), context.file(spare::PLACED));
        Self { path, spares, wanted: None, prunes: false, stamp: None, restored: false }
    }

    /// Puts the packages of the last build in place, if they are the ones that are wanted.
    ///
    /// # Errors
    /// They cannot be moved.
    pub fn restore(&mut self, context: &BuildContext) -> Result<bool, BuildError> {
        let output = &context.output;
        let [kept, complete] = [spare::NODE, COMPLETE].map(|name| self.spares.join(name));
        let found = marker(&kept);
        let Some(wanted) = &self.wanted else { return Ok(false) };
        let fits = match self.prunes {
            false => found.as_ref() == Some(wanted),
            true => found == Some(pruned(wanted)) && marker(&complete).as_ref() == Some(wanted),
        };
        if fits {
            output.step("Restoring cache");
            output.detail(&format!("- {MODULES}"));
            let from = if self.prunes { &complete } else { &kept };
            fs::rename(from, &self.path)
                .map_err(|error| BuildError::io("restore the packages to", &self.path, error))?;
            self.restored = true;
            self.stamp()?;
        } else if found.is_some_and(|found| found.signature != wanted.signature) {
            output.step("Restoring cache");
            output.detail(
                "Cached directories were not restored due to a change in version of node, npm, yarn or stack",
            );
            output.detail("Module installation may take longer for this build");
        }
        Ok(fits)
    }

    /// After an installation, before any other script runs: keeps the complete tree for the next build.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn installed(&mut self) -> Result<(), BuildError> {
        if self.wanted.is_none() || !self.path.is_dir() {
            self.wanted = None;
            return Ok(());
        }
        self.stamp()?;
        if self.prunes {
            let complete = self.spares.join(COMPLETE);
            delete(&complete)?;
            create_folder(&self.spares)?;
            copy_tree(&self.path, &complete, |_| true)?;
        }
        Ok(())
    }

    /// Once the build scripts are through: the pruned tree of the last build, if it is still right. Else the packages are
    /// to be pruned by the package manager.
    ///
    /// # Errors
    /// A tree cannot be looked through or moved.
    pub fn swap(&mut self) -> Result<bool, BuildError> {
        self.forget_if_changed()?;
        let (Some(wanted), true, true) = (&self.wanted, self.restored, self.prunes) else { return Ok(false) };
        let [kept, complete] = [spare::NODE, COMPLETE].map(|name| self.spares.join(name));
        let moved = fs::rename(&self.path, &complete).and_then(|()| fs::rename(&kept, &self.path));
        moved.map_err(|error| BuildError::io("exchange the packages at", &self.path, error))?;
        self.wanted = Some(pruned(wanted));
        self.stamp()?;
        Ok(true)
    }

    /// The package manager has pruned the tree.
    ///
    /// # Errors
    /// The marker cannot be written.
    pub fn pruned(&mut self) -> Result<(), BuildError> {
        if let (Some(wanted), true) = (&self.wanted, self.prunes) {
            self.wanted = Some(pruned(wanted));
            self.stamp()?;
        }
        Ok(())
    }

    /// At the end: leaves the marker only in a tree that the next build may use.
    ///
    /// # Errors
    /// The tree cannot be looked through.
    pub fn finish(mut self, changed_later: bool) -> Result<(), BuildError> {
        self.forget_if_changed()?;
        if changed_later || self.wanted.is_none() {
            delete(&self.path.join(spare::MARKER))?;
        }
        Ok(())
    }

    fn forget_if_changed(&mut self) -> Result<(), BuildError> {
        if let Some(stamp) = &self.stamp
            && self.wanted.is_some()
            && is_changed(&self.path, stamp)?
        {
            self.wanted = None;
            delete(&self.spares.join(COMPLETE))?;
        }
        Ok(())
    }

    /// Writes the marker and notes the state of the tree from which on changes count.
    fn stamp(&mut self) -> Result<(), BuildError> {
        let Some(wanted) = &self.wanted else { return Ok(()) };
        let path = self.path.join(spare::MARKER);
        let fail = |error| BuildError::io("write", &path, error);
        let json = serde_json::to_vec(wanted).map_err(|error| fail(io::Error::other(error)))?;
        delete(&path)?;
        fs::write(&path, json).map_err(fail)?;
        let metadata = fs::metadata(&path).map_err(fail)?;
        let names = top_level(&self.path)?;
        self.stamp = Some(Stamp { time: (metadata.ctime(), metadata.ctime_nsec()), names });
        Ok(())
    }
}

fn pruned(complete: &Installed) -> Installed {
    Installed { complete: false, ..complete.clone() }
}

fn marker(tree: &Path) -> Option<Installed> {
    serde_json::from_slice(&fs::read(tree.join(spare::MARKER)).ok()?).ok()
}

fn top_level(tree: &Path) -> Result<BTreeSet<OsString>, BuildError> {
    let fail = |error| BuildError::io("list", tree, error);
    let names = fs::read_dir(tree).map_err(fail)?.map(|entry| Ok(entry.map_err(fail)?.file_name()));
    names
        .filter(|name| name.as_ref().is_err() || name.as_ref().is_ok_and(|name| !is_tool_cache(name)))
        .collect()
}

fn is_tool_cache(name: &std::ffi::OsStr) -> bool {
    TOOL_CACHES.iter().any(|cache| name == *cache)
}

/// Whether anything was made, written, renamed or deleted since.
fn is_changed(tree: &Path, stamp: &Stamp) -> Result<bool, BuildError> {
    if top_level(tree)? != stamp.names {
        return Ok(true);
    }
    let walk = WalkDir::new(tree)
        .min_depth(1)
        .into_iter()
        .filter_entry(|entry| !(entry.depth() == 1 && is_tool_cache(entry.file_name())));
    for entry in walk {
        let metadata = entry.and_then(|entry| entry.metadata());
        let metadata = metadata.map_err(|error| BuildError::io("look through", tree, error.into()))?;
        if (metadata.ctime(), metadata.ctime_nsec()) > stamp.time {
            return Ok(true);
        }
    }
    Ok(false)
}

/// With `true` in this config var, packages that need not change are taken from the last build as they are. Not by
/// itself: install scripts of packages may read the app's source (Prisma's client), or write outside of `node_modules`
/// (a browser in the home folder), and nothing in a lock file tells.
const REUSE: &str = "NODE_MODULES_REUSE";

/// Digest of all that decides about what is installed. `None` if nobody asked for it, packages come from the source
/// itself, or scripts of the app take part, for then they change with every push.
fn fingerprint(
    context: &BuildContext,
    manifest: &Manifest,
    manager: Manager,
) -> Result<Option<String>, BuildError> {
    if context.config_var(REUSE)?.is_none_or(|value| value != "true") {
        return Ok(None);
    }
    let Some(lock_file) = manager.lock_file(context) else { return Ok(None) };
    let dependencies = manifest.dependencies_text();
    let of_source = manifest.has_install_scripts()
        || manifest.has_any("workspaces")
        || context.file(MODULES).exists()
        || LOCAL.iter().any(|specifier| dependencies.contains(specifier))
        || dependencies.contains("patchedDependencies");
    // yarn 2 and newer keep what they know about the tree outside of it.
    if of_source || manager == Manager::Berry || !uses_node_modules(manager, context) {
        return Ok(None);
    }
    let mut digest = Sha256::new();
    let mut add = |name: &str, bytes: &[u8]| {
        for part in [name.as_bytes(), bytes] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
    };
    add("package.json", dependencies.as_bytes());
    for name in [lock_file].into_iter().chain(SETTINGS) {
        let path = context.file(name);
        match fs::read(&path) {
            Ok(bytes)
                if name == "pnpm-workspace.yaml" && bytes.windows(9).any(|part| part == b"packages:") =>
            {
                return Ok(None);
            }
            Ok(bytes) => add(name, &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BuildError::io("read", &path, error)),
        }
    }
    // Install scripts of packages read any of them.
    for (name, value) in context.app_environment()? {
        if context.config_var(&name.to_string_lossy())?.as_ref() == Some(&value) {
            add(&name.to_string_lossy(), value.as_encoded_bytes());
        }
    }
    Ok(Some(hex::encode(digest.finalize())))
}
