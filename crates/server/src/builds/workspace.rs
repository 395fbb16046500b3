//! A build's folder, `DIR/builds/<id>/`, and its secrets on tmpfs.
//!
//! ```text
//! DIR/builds/<id>/input/      read-only in the build dyno as /build: plan.json, source.tar, slug-compiler, settings/
//! DIR/builds/<id>/app/        becomes the slug
//! DIR/builds/<id>/out/        result.json
//! DIR/run/builds/<id>/env/    config vars, a file each; never on a disk
//! DIR/cache/<app-id>/         kept between builds
//! ```
//!
//! Invariant: what the build dyno can write belongs to [`SLUG_UID`], and is read back without following links.

use super::error::BuildError;
use super::settings::BuildSettings;
use ferroku_buildpacks::remove::remove_tree;
use ferroku_core::config_var::ConfigVars;
use ferroku_core::protocol::build::{BuildPlan, BuildResult, MAX_RESULT_BYTES};
use ferroku_core::uids::SLUG_UID;
use ferroku_core::{AppId, BuildId};
use ferroku_runtime::{Volume, VolumeSource};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Where the compiler puts its result, inside the build dyno.
const OUTPUT_DIR: &str = "/tmp/out";
const CACHE_DIR: &str = "/tmp/cache";
const ENV_DIR: &str = "/tmp/env";
/// The compiler, inside the build dyno.
pub const COMPILER: &str = "/build/slug-compiler";

/// Buildpacks that the admin keeps on the node; a build dyno that uses one sees the folder at its own path.
pub fn buildpacks_folder(data: &Path) -> PathBuf {
    data.join("buildpacks")
}

/// The folder that a buildpack's address names, if it is a `file://` address or a path.
pub fn folder_of(address: &str) -> Option<&Path> {
    let path = address.split('#').next().unwrap_or(address);
    path.strip_prefix("file://").or_else(|| path.starts_with('/').then_some(path)).map(Path::new)
}

/// The folders of one build.
#[derive(Debug, Clone)]
pub struct Workspace {
    data: PathBuf,
    build_id: BuildId,
    app_id: AppId,
}

impl Workspace {
    /// Makes the folders; the rest is put in by the other functions.
    ///
    /// # Errors
    /// The disk is full or not writable.
    pub fn create(data: &Path, build_id: BuildId, app_id: AppId) -> Result<Self, BuildError> {
        let workspace = Self { data: data.to_owned(), build_id, app_id };
        workspace.make_folders().map_err(BuildError::io("make the build's folders"))?;
        Ok(workspace)
    }

    fn make_folders(&self) -> io::Result<()> {
        let folder = self.folder();
        make(&self.data.join("builds"), 0o711, None)?;
        make(&folder, 0o711, None)?;
        make(&self.input(), 0o755, None)?;
        make(&self.input().join("settings"), 0o755, None)?;
        make(&self.app(), 0o755, Some(SLUG_UID))?;
        make(&folder.join("out"), 0o755, Some(SLUG_UID))?;
        make(&self.data.join("cache"), 0o711, None)?;
        make(&self.cache(), 0o755, Some(SLUG_UID))?;
        make(&self.data.join("run/builds"), 0o711, None)?;
        make(&self.secrets(), 0o711, None)?;
        make(&self.secrets().join("env"), 0o700, Some(SLUG_UID))
    }

    fn folder(&self) -> PathBuf {
        self.data.join("builds").join(self.build_id.to_string())
    }

    fn secrets(&self) -> PathBuf {
        self.data.join("run/builds").join(self.build_id.to_string())
    }

    fn input(&self) -> PathBuf {
        self.folder().join("input")
    }

    fn cache(&self) -> PathBuf {
        self.data.join("cache").join(self.app_id.to_string())
    }

    /// The tree that becomes the slug.
    pub fn app(&self) -> PathBuf {
        self.folder().join("app")
    }

    /// Where the source archive goes.
    pub fn source(&self) -> PathBuf {
        self.input().join("source.tar")
    }

    /// Writes config vars, settings, the compiler and the plan.
    ///
    /// # Errors
    /// The disk is full, or a file of the settings cannot be read.
    pub fn fill(
        &self,
        plan: &BuildPlan,
        vars: &ConfigVars,
        settings: &BuildSettings,
        compiler: &Path,
    ) -> Result<(), BuildError> {
        self.write_env(vars).map_err(BuildError::io("write the config vars for the build"))?;
        for (name, source) in &settings.files {
            let target = self.input().join("settings").join(name);
            std::fs::copy(source, &target)
                .and_then(|_| std::fs::set_permissions(&target, PermissionsExt::from_mode(0o644)))
                .map_err(BuildError::io("copy the node's build settings"))?;
        }
        let place = self.input().join("slug-compiler");
        std::fs::hard_link(compiler, &place)
            .or_else(|_| std::fs::copy(compiler, &place).map(drop))
            .map_err(BuildError::io("put the slug compiler into the build's folder"))?;
        let json = serde_json::to_vec_pretty(plan).expect("no map keys but strings");
        std::fs::write(self.input().join("plan.json"), json).map_err(BuildError::io("write the build's plan"))
    }

    fn write_env(&self, vars: &ConfigVars) -> io::Result<()> {
        for (name, value) in vars {
            // Names are checked when they are set; one that could leave the folder never gets this far.
            if name.contains('/') || name.is_empty() || name == "." || name == ".." {
                continue;
            }
            let path = self.secrets().join("env").join(name);
            let mut file =
                std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            io::Write::write_all(&mut file, value.as_bytes())?;
            chown(&path, Some(SLUG_UID), Some(SLUG_UID))?;
        }
        Ok(())
    }

    /// The plan for a build of `stack` and `buildpacks`, with this workspace's places.
    pub fn plan(&self, stack: &str, app_name: &str, buildpacks: Vec<String>) -> BuildPlan {
        let short: String = self.build_id.to_string().chars().take(8).collect();
        BuildPlan {
            stack: stack.to_owned(),
            app_name: app_name.to_owned(),
            buildpacks,
            source_version: None,
            request_id: None,
            source_tar: PathBuf::from("/build/source.tar"),
            strip_leading_folder: false,
            is_slug: false,
            build_dir: PathBuf::from(format!("/tmp/build_{short}")),
            cache_dir: PathBuf::from(CACHE_DIR),
            env_dir: PathBuf::from(ENV_DIR),
            output_dir: PathBuf::from(OUTPUT_DIR),
            memory_bytes: None,
        }
    }

    /// What the build dyno sees of this workspace.
    pub fn volumes(&self, plan: &BuildPlan) -> Vec<Volume> {
        let volume = |source: VolumeSource, target: &Path, read_only: bool| Volume {
            source,
            target: target.display().to_string(),
            read_only,
        };
        let below = |name: &str| VolumeSource::Data(format!("builds/{}/{name}", self.build_id));
        let mut volumes = vec![
            volume(below("input"), Path::new("/build"), true),
            volume(below("app"), &plan.build_dir, false),
            volume(below("out"), &plan.output_dir, false),
            volume(VolumeSource::Cache(self.app_id), &plan.cache_dir, false),
            volume(VolumeSource::Data(format!("run/builds/{}/env", self.build_id)), &plan.env_dir, true),
        ];
        let folder = buildpacks_folder(&self.data);
        if plan.buildpacks.iter().any(|address| folder_of(address).is_some()) && folder.is_dir() {
            volumes.push(volume(VolumeSource::Data("buildpacks".to_owned()), &folder, true));
        }
        volumes
    }

    /// The compiler's result; None when there is none that can be read.
    pub fn result(&self) -> Option<BuildResult> {
        let text = read_below(&self.folder().join("out"), "result.json", MAX_RESULT_BYTES)?;
        serde_json::from_slice(&text).ok()
    }

    /// Removes everything but the cache. What cannot be removed is tried again later by the collector.
    pub fn remove(&self) {
        for folder in [self.secrets(), self.folder()] {
            if let Err(error) = remove_tree(&folder, None) {
                tracing::warn!("cannot remove {}: {error}", folder.display());
            }
        }
    }
}

fn make(path: &Path, mode: u32, owner: Option<u32>) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))?;
    owner.map_or(Ok(()), |uid| chown(path, Some(uid), Some(uid)))
}

/// A small regular file of a folder that an app's code wrote to.
fn read_below(folder: &Path, name: &str, limit_bytes: u64) -> Option<Vec<u8>> {
    let folder =
        rustix::fs::open(folder, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .ok()?;
    let file = rustix::fs::openat2(
        &folder,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )
    .ok()?;
    let file = std::fs::File::from(file);
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > limit_bytes {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(limit_bytes).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use uuid::Uuid;

    #[test]
    fn a_workspace_has_what_the_build_dyno_needs_and_goes_without_trace() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(data.path().join("run")).expect("new");
        let compiler = data.path().join("slug-compiler-abc");
        std::fs::write(&compiler, "#!/bin/sh\n").expect("written");
        let (build, app) = (BuildId(Uuid::from_u128(1)), AppId(Uuid::from_u128(2)));
        let workspace = Workspace::create(data.path(), build, app).expect("made");
        let plan = workspace.plan("heroku-24", "shop", vec!["heroku/python".to_owned()]);
        let vars = ConfigVars::from([("SECRET".to_owned(), "a b".to_owned())]);
        workspace.fill(&plan, &vars, &BuildSettings::default(), &compiler).expect("filled");
        let secret = data.path().join(format!("run/builds/{build}/env/SECRET"));
        assert_eq!(std::fs::read(&secret).expect("there"), b"a b");
        let metadata = std::fs::metadata(&secret).expect("there");
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (SLUG_UID, 0o600));
        let targets: Vec<String> = workspace.volumes(&plan).into_iter().map(|volume| volume.target).collect();
        assert_eq!(targets, ["/build", "/tmp/build_00000000", "/tmp/out", "/tmp/cache", "/tmp/env"]);
        std::fs::create_dir(buildpacks_folder(data.path())).expect("new");
        let own = plan_with(&plan, format!("file://{}/buildpacks/mine#v1", data.path().display()));
        assert_eq!(
            workspace.volumes(&own).len(),
            6,
            "the admin's buildpacks are seen by builds that use one"
        );
        workspace.remove();
        assert!(!data.path().join("builds").join(build.to_string()).exists() && !secret.exists());
        assert!(data.path().join("cache").join(app.to_string()).exists());
    }

    fn plan_with(plan: &BuildPlan, buildpack: String) -> BuildPlan {
        BuildPlan { buildpacks: vec![buildpack], ..plan.clone() }
    }

    #[test]
    fn a_result_is_not_read_through_a_link() {
        let data = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(data.path().join("run")).expect("new");
        let workspace =
            Workspace::create(data.path(), BuildId(Uuid::from_u128(1)), AppId(Uuid::from_u128(2)))
                .expect("made");
        assert_eq!(workspace.result(), None);
        let outside = data.path().join("outside.json");
        std::fs::write(&outside, r#"{"outcome":"succeeded"}"#).expect("written");
        let place = workspace.folder().join("out/result.json");
        std::os::unix::fs::symlink(&outside, &place).expect("new");
        assert_eq!(workspace.result(), None);
        std::fs::remove_file(&place).expect("there");
        std::fs::copy(&outside, &place).expect("copied");
        assert!(workspace.result().is_some());
    }
}
