//! Unpacks the source archive into the build folder.
//!
//! In: a tar archive, plain or gzip, as git or a user made it. Out: files, folders and links below the build folder;
//! nothing outside of it, whatever the archive says. Owners, devices and extended attributes are not taken over.

use crate::error::BuildError;
use crate::spare;
use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;
use tar::{Archive, EntryType};

/// Most bytes a source may unpack to (1 GiB): Heroku's limit for a checkout.
pub const MAX_SOURCE_BYTES: u64 = 1024 * 1024 * 1024;

/// Most entries of an archive: a million empty files would use up the inodes of a small disk.
const MAX_ENTRIES: usize = 1_000_000;

/// Unpacks `archive` into the folder `destination`.
///
/// # Errors
/// The archive is broken, too large, or names something outside of the folder.
pub fn unpack(archive: &Path, destination: &Path, strip_leading_folder: bool) -> Result<(), BuildError> {
    let file = open(archive)?;
    let mut tar = Archive::new(file);
    tar.set_unpack_xattrs(false);
    tar.set_preserve_ownerships(false);
    tar.set_preserve_permissions(false);
    tar.set_preserve_mtime(true);
    let mut total_bytes: u64 = 0;
    let broken = |error: io::Error| match crate::error::is_disk_full(&error) {
        true => BuildError::io("unpack the source into", destination, error),
        false => BuildError::Source(error.to_string()),
    };
    for (index, entry) in tar.entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        let name = entry.path().map_err(broken)?.into_owned();
        if index >= MAX_ENTRIES {
            return Err(BuildError::Source(format!("it has more than {MAX_ENTRIES} entries")));
        }
        total_bytes = total_bytes.saturating_add(entry.size());
        if total_bytes > MAX_SOURCE_BYTES {
            return Err(BuildError::Source("it is larger than 1 GB when unpacked".to_owned()));
        }
        match entry.header().entry_type() {
            EntryType::XGlobalHeader => continue,
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                return Err(BuildError::Source(format!("{} is a device or a pipe", name.display())));
            }
            _ if name.starts_with(spare::PLACED) => continue,
            _ => {}
        }
        if !entry.unpack_in(destination).map_err(broken)? {
            return Err(BuildError::Source(format!(
                "{} is outside of the archive's own folder",
                name.display()
            )));
        }
    }
    match strip_leading_folder {
        true => strip_folder(destination),
        false => Ok(()),
    }
}

/// Opens a tar archive; gzip is found by its first two bytes.
///
/// # Errors
/// It cannot be opened or read.
pub fn open(archive: &Path) -> Result<Box<dyn Read>, BuildError> {
    let fail = |error| BuildError::io("read the archive", archive, error);
    let mut file = File::open(archive).map_err(fail)?;
    let mut magic = Vec::new();
    file.by_ref().take(2).read_to_end(&mut magic).map_err(fail)?;
    file.rewind().map_err(fail)?;
    let reader = BufReader::with_capacity(128 * 1024, file);
    Ok(match magic == [0x1f, 0x8b] {
        true => Box::new(GzDecoder::new(reader)),
        false => Box::new(reader),
    })
}

/// Moves everything one level up if all of it is in one folder.
///
/// # Errors
/// A file cannot be moved.
pub fn strip_folder(destination: &Path) -> Result<(), BuildError> {
    let fail = |error| BuildError::io("move files of", destination, error);
    let mut only = None;
    for entry in fs::read_dir(destination).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_name() == spare::PLACED {
            continue;
        }
        if only.is_some() || !entry.file_type().map_err(fail)?.is_dir() {
            return Ok(());
        }
        only = Some(entry.path());
    }
    let Some(folder) = only else { return Ok(()) };
    // Under another name first: the folder may have a file of its own name.
    let aside = destination.join(".ferroku-leading-folder");
    fs::rename(&folder, &aside).map_err(fail)?;
    for entry in fs::read_dir(&aside).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        fs::rename(entry.path(), destination.join(entry.file_name())).map_err(fail)?;
    }
    fs::remove_dir(&aside).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn archive(folder: &Path, fill: impl FnOnce(&mut tar::Builder<File>)) -> std::path::PathBuf {
        let path = folder.join("source.tar");
        let mut builder = tar::Builder::new(File::create(&path).expect("create"));
        fill(&mut builder);
        builder.finish().expect("finish");
        path
    }

    fn add(builder: &mut tar::Builder<File>, name: &str, mode: u32, text: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(mode);
        // Written past `set_path`, which itself refuses "..".
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, text.as_bytes()).expect("append");
    }

    fn link(builder: &mut tar::Builder<File>, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Symlink);
        header.set_size(0);
        builder.append_link(&mut header, name, target).expect("append link");
    }

    #[test]
    fn files_keep_their_content_and_execute_bit_but_not_setuid() {
        let folder = tempfile::tempdir().expect("tempdir");
        let tar = archive(folder.path(), |builder| {
            add(builder, "a/run.sh", 0o4775, "x");
            add(builder, ".ferroku-spare/python/x", 0o644, "planted");
        });
        let out = folder.path().join("out");
        fs::create_dir(&out).expect("mkdir");
        unpack(&tar, &out, false).expect("unpack");
        let mode = fs::metadata(out.join("a/run.sh")).expect("there").permissions().mode();
        assert_eq!(mode & 0o7100, 0o100, "{mode:o}");
        assert!(!out.join(spare::PLACED).exists(), "an archive must not bring its own spare tree");
    }

    #[test]
    fn nothing_is_written_outside_of_the_folder() {
        let folder = tempfile::tempdir().expect("tempdir");
        let victim = folder.path().join("victim");
        fs::create_dir(&victim).expect("mkdir");
        for (number, name) in ["../victim/x", "l/x"].into_iter().enumerate() {
            let tar = archive(folder.path(), |builder| {
                link(builder, "l", victim.to_str().expect("utf-8"));
                add(builder, name, 0o644, "x");
            });
            let out = folder.path().join(format!("out{number}"));
            fs::create_dir(&out).expect("mkdir");
            let error = unpack(&tar, &out, false).expect_err("must be refused");
            assert_eq!(
                error.outcome(),
                ferroku_core::protocol::build::BuildOutcome::SourceInvalid,
                "{error}"
            );
            assert_eq!(fs::read_dir(&victim).expect("list").count(), 0);
        }
    }

    #[test]
    fn one_leading_folder_is_dropped_also_from_gzip() {
        let folder = tempfile::tempdir().expect("tempdir");
        let tar = archive(folder.path(), |builder| {
            add(builder, "app-1/app-1", 0o644, "same name");
            add(builder, "app-1/Procfile", 0o644, "web: x");
        });
        let gzip = folder.path().join("source.tgz");
        let mut encoder =
            flate2::write::GzEncoder::new(File::create(&gzip).expect("create"), Default::default());
        io::copy(&mut File::open(&tar).expect("open"), &mut encoder).expect("compress");
        encoder.finish().expect("finish");
        let out = folder.path().join("out");
        fs::create_dir(&out).expect("mkdir");
        unpack(&gzip, &out, true).expect("unpack");
        assert_eq!(fs::read_to_string(out.join("app-1")).expect("read"), "same name");
        assert!(out.join("Procfile").is_file());
        // A link beside the folder: not all of it is in one folder.
        symlink("x", out.join("y")).expect("link");
        strip_folder(&out).expect("nothing to do");
        assert!(out.join("Procfile").is_file());
    }

    #[test]
    fn a_broken_archive_is_the_sources_fault() {
        let folder = tempfile::tempdir().expect("tempdir");
        let path = folder.path().join("source.tar");
        fs::write(&path, vec![b'x'; 2048]).expect("write");
        let error = unpack(&path, folder.path(), false).expect_err("no archive");
        assert!(matches!(error, BuildError::Source(_)), "{error}");
    }
}
