//! A fingerprint of what `requirements.txt` asks for: equal fingerprints mean that installed packages can be used again.

use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Component, Path};

/// Most files that include each other by `-r` and `-c`: more is a circle.
const MAX_FILES: usize = 50;

/// Digest over the file and all that it includes. `None` if packages come from the source itself (`-e .`, `./lib`), which
/// changes with every push, or if a file cannot be read; then nothing may be used again.
#[must_use]
pub fn fingerprint(build_dir: &Path) -> Option<String> {
    let mut digest = Sha256::new();
    let mut to_read = vec![build_dir.join("requirements.txt")];
    let mut count = 0;
    while let Some(path) = to_read.pop() {
        count += 1;
        if count > MAX_FILES || path.components().any(|component| component == Component::ParentDir) {
            return None;
        }
        let text = fs::read_to_string(&path).ok()?;
        digest.update((text.len() as u64).to_le_bytes());
        digest.update(text.as_bytes());
        // A backslash joins lines; what follows it then looks like a line of its own, which does no harm here.
        for line in text.lines() {
            let line = line.split(" #").next().unwrap_or_default().trim();
            match included(line) {
                Some(file) => to_read.push(path.parent()?.join(file)),
                None if is_local(line) => return None,
                None => {}
            }
        }
    }
    Some(hex::encode(digest.finalize()))
}

fn included(line: &str) -> Option<&str> {
    ["--requirement", "--constraint", "-r", "-c"].iter().find_map(|option| {
        let rest = line.strip_prefix(option)?;
        let file = rest.trim_start_matches([' ', '\t', '=']);
        (!file.is_empty() && (option.len() == 2 || rest != file)).then_some(file)
    })
}

fn is_local(line: &str) -> bool {
    let path_like = line.starts_with(['.', '/'])
        || line.contains("file:")
        || line.contains("@ .")
        || line.contains("@ /");
    let archive = [".whl", ".tar.gz", ".zip"].iter().any(|end| line.ends_with(end)) && !line.contains("://");
    line.starts_with("-e") || line.starts_with("--editable") || path_like || archive
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(files: &[(&str, &str)]) -> Option<String> {
        let folder = tempfile::tempdir().expect("tempdir");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("has one")).expect("mkdir");
            fs::write(path, text).expect("write");
        }
        fingerprint(folder.path())
    }

    #[test]
    fn equal_files_have_equal_fingerprints_and_included_ones_count() {
        let plain = of(&[("requirements.txt", "django==5.2\n# -e .\ngunicorn # ./x\n")]);
        assert!(plain.is_some());
        assert_eq!(
            plain,
            of(&[("requirements.txt", "django==5.2\n# -e .\ngunicorn # ./x\n"), ("other", "x")])
        );
        assert_ne!(plain, of(&[("requirements.txt", "django==5.2.1\n# -e .\ngunicorn # ./x\n")]));
        for include in [
            "-r base/a.txt",
            "-rbase/a.txt",
            "--requirement=base/a.txt",
            "-c base/a.txt",
            "--constraint base/a.txt",
        ] {
            let with = |text| of(&[("requirements.txt", include), ("base/a.txt", text), ("base/b.txt", "x")]);
            assert!(with("x==1\n-r b.txt").is_some(), "{include}");
            assert_ne!(with("x==1"), with("x==2"), "{include}");
        }
    }

    #[test]
    fn what_comes_from_the_source_itself_is_never_used_again() {
        for line in [
            "-e .",
            "--editable ./x",
            ".",
            "./lib",
            "/opt/x",
            "x @ file:///tmp/x",
            "x @ ./x",
            "a.whl",
            "lib/x.tar.gz",
        ] {
            assert_eq!(of(&[("requirements.txt", line)]), None, "{line}");
        }
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[("requirements.txt", "-r requirements.txt")]), None, "a circle ends");
        assert_eq!(of(&[("requirements.txt", "-r missing.txt")]), None);
        assert!(of(&[("requirements.txt", "x @ https://h/x.whl\ngit+https://h/r.git@v1")]).is_some());
    }
}
