//! The words of a build's output, in Heroku's form with our names.

use ferroku_core::protocol::push::Commit;

/// Largest slug, in bytes, compressed: Heroku's limit.
pub const MAX_SLUG_BYTES: u64 = 500 * MIB;
/// From here on a warning is printed; Heroku's soft limit.
pub const LARGE_SLUG_BYTES: u64 = 300 * MIB;

const MIB: u64 = 1024 * 1024;

/// A size as `36.3M`, `646B`, `72M`: binary units, one decimal below 100 unless it is 0.
pub fn size(bytes: u64) -> String {
    let units = [("G", 1024 * MIB), ("M", MIB), ("K", 1024)];
    let Some((unit, scale)) = units.into_iter().find(|(_, scale)| bytes >= *scale) else {
        return format!("{bytes}B");
    };
    let tenths = (u128::from(bytes) * 10 + u128::from(scale) / 2) / u128::from(scale);
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{unit}"),
        (whole, _) if whole >= 1000 => format!("{whole}{unit}"),
        (whole, tenth) => format!("{whole}.{tenth}{unit}"),
    }
}

/// What comes before the build's own text; the archive is made between the two.
pub fn header(commit: &Commit) -> [String; 2] {
    let short: String = commit.id.chars().take(7).collect();
    let noun = if commit.paths == 1 { "path" } else { "paths" };
    let mut before = format!("Updated {} {noun} from {short}\n", commit.paths);
    if !commit.submodules.is_empty() {
        before.push_str(&format!(
            " !     Warning: git submodules are not fetched, so these folders are empty in the build:\n \
             !     {}\n",
            commit.submodules.join(", ")
        ));
    }
    before.push_str("Compressing source files... ");
    [before, "done.\nBuilding source:\n\n".to_owned()]
}

/// The slug's size; `archive_bytes` is the estimate of its compressed archive, as Heroku's figure is compressed.
pub fn compressed(archive_bytes: u64) -> String {
    format!("       Done: {}\n", size(archive_bytes))
}

/// The line for a slug over the soft limit, or nothing.
pub fn large_slug(archive_bytes: u64) -> Option<String> {
    (archive_bytes >= LARGE_SLUG_BYTES).then(|| {
        format!(
            " !     Warning: Your slug size ({} MB) exceeds our soft limit (300 MB) which may affect boot time.\n",
            archive_bytes / MIB
        )
    })
}

/// A slug over the hard limit.
pub fn slug_too_large(archive_bytes: u64) -> String {
    format!(
        " !     Compiled slug size: {} is too large (max is {}).\n \
         !     Leave files out of it with .slugignore.\n",
        size(archive_bytes),
        size(MAX_SLUG_BYTES)
    )
}

/// The end of a build that made a release.
pub fn released(version: i64, web_url: &str) -> String {
    format!("       Released v{version}\n       {web_url} deployed to Ferroku\n\n")
}

/// What follows it for whoever pushes.
pub const VERIFIED: &str = "Verifying deploy... done.\n";

/// Said of a release that waits for its command.
pub const RELEASE_COMMAND_DECLARED: &str =
    " !     Release command declared: this new release will not be available until the command succeeds.\n";
/// What comes before a release command's output.
pub const RUNNING_RELEASE_COMMAND: &str = "Running release command...\n\n";

/// Said when a release command's output cannot be read.
pub const RELEASE_COMMAND_UNSEEN: &str =
    " !     Its output cannot be shown now: see `heroku logs` and `heroku releases`.\n";

/// What comes after a release command's output.
pub fn release_command_ended(succeeded: bool) -> String {
    format!("Waiting for release.... {}.\n", if succeeded { "done" } else { "failed" })
}

/// The end of a build of an archive that failed, in Heroku's words.
pub const FAILED: &str = " !     Push failed\n";

/// The end of a push whose build failed.
pub fn rejected(app_name: &str, built_before: Option<&str>) -> String {
    let mut text = FAILED.to_owned();
    if let Some(commit) = built_before {
        text.push_str(&format!(
            " !\n !     ## Warning - The same version of this code has already been built: {commit}\n \
             !\n !     It has been built before without fault. If you meant to deploy another branch, name it:\n \
             !\n !     git push heroku <branchname>:main\n !\n"
        ));
    }
    text.push_str(&format!("Verifying deploy...\n\n!\tPush rejected to {app_name}.\n\n"));
    text
}

/// A push that is refused before anything is built.
pub fn refused(app_name: &str, why: &str) -> String {
    format!("\n !     {why}\n\n!\tPush rejected to {app_name}.\n\n")
}

/// What the app's log says of a build's end.
pub const LOG_SUCCEEDED: &str = "Build succeeded";
pub const LOG_FAILED: &str = "Build failed -- check your build output";

/// References that are kept and not built.
pub const NOT_BUILT: &str = "Pushed to non-main branch, skipping build.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_herokus() {
        let cases = [
            (0, "0B"),
            (646, "646B"),
            (1024, "1K"),
            (22_544_384, "21.5M"),
            (75_497_472, "72M"),
            (600_728_371, "572.9M"),
            (MAX_SLUG_BYTES, "500M"),
            (3 * 1024 * MIB / 2, "1.5G"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn the_text_around_a_build() {
        let commit = Commit {
            id: "ddb4d5300000".to_owned(),
            paths: 5,
            submodules: vec!["vendor/x".to_owned()],
            ..Commit::default()
        };
        assert_eq!(
            header(&commit).concat(),
            "Updated 5 paths from ddb4d53\n \
             !     Warning: git submodules are not fetched, so these folders are empty in the build:\n \
             !     vendor/x\nCompressing source files... done.\nBuilding source:\n\n"
        );
        assert_eq!(
            slug_too_large(600_728_371),
            " !     Compiled slug size: 572.9M is too large (max is 500M).\n !     Leave files out of it with .slugignore.\n"
        );
        assert_eq!(large_slug(LARGE_SLUG_BYTES - 1), None);
        assert!(large_slug(346 * MIB).is_some_and(|text| text.contains("(346 MB)")));
        assert_eq!(
            rejected("myapp", None),
            " !     Push failed\nVerifying deploy...\n\n!\tPush rejected to myapp.\n\n"
        );
    }
}
