//! Unpacks the source archive into the build folder.
//!
//! In: a tar archive, plain or gzip, as git or a user made it. Out: files, folders and links below the build folder;
//! nothing outside of it, whatever the archive says. Owners, devices and extended attributes are not taken over. A link
//! may point anywhere, as in a git repository: it is kept and never followed here; what is to be written through one that
//! leads out of the folder, or to itself, is refused. Names are bytes.

use crate::error::BuildError;
use crate::spare;
use flate2::read::MultiGzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Component, Path};
use tar::{Archive, Entry, EntryType};

/// Most bytes a source may unpack to (1 GiB): Heroku's limit for a checkout.
pub const MAX_SOURCE_BYTES: u64 = 1024 * 1024 * 1024;

/// Most bytes of the archive itself once it is decompressed: its files, and headers and padding of a million of them.
const MAX_ARCHIVE_BYTES: u64 = 3 * MAX_SOURCE_BYTES;

/// Most entries of an archive: a million empty files would use up the inodes of a small disk.
const MAX_ENTRIES: usize = 1_000_000;

/// The folder that everything in a slug's archive is in.
const SLUG_FOLDER: &str = "app";

/// How archives begin that are none of ours, and what they are.
const OTHER_ARCHIVES: [(&[u8], &str); 6] = [
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"BZh", "compressed with bzip2"),
    (b"\xfd7zXZ\0", "compressed with xz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
];

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
        false => BuildError::Source(format!("it is no whole tar archive ({})", reason(&error))),
    };
    for (index, entry) in tar.entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        if index >= MAX_ENTRIES {
            return Err(BuildError::Source(format!("it has more than {MAX_ENTRIES} entries")));
        }
        total_bytes = total_bytes.saturating_add(entry.size());
        if total_bytes > MAX_SOURCE_BYTES {
            return Err(BuildError::Source("it is larger than 1 GB when unpacked".to_owned()));
        }
        unpack_entry(&mut entry, destination)?;
    }
    // What follows the last entry is read, too: the checksum that says whether all of it came as it was sent.
    io::copy(&mut tar.into_inner(), &mut io::sink()).map_err(broken)?;
    match strip_leading_folder {
        true => strip_folder(destination),
        false => Ok(()),
    }
}

fn unpack_entry(entry: &mut Entry<'_, Box<dyn Read>>, destination: &Path) -> Result<(), BuildError> {
    let unnamed = |error: io::Error| BuildError::Source(format!("an entry has no name ({})", reason(&error)));
    let name = entry.path().map_err(unnamed)?.into_owned();
    let refused = |what: &str| BuildError::Source(format!("{} {what}", name.display()));
    match entry.header().entry_type() {
        EntryType::XGlobalHeader => return Ok(()),
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            return Err(refused("is a device or a pipe"));
        }
        _ if name.starts_with(spare::PLACED) => return Ok(()),
        _ => {}
    }
    if name.is_absolute() || name.components().any(|part| part == Component::ParentDir) {
        return Err(refused("is outside of the archive's own folder"));
    }
    let unpacked = entry.unpack_in(destination).map_err(|error| {
        // The library's words, which name folders of the build dyno.
        let leads_out = causes(&error).any(|cause| cause.to_string().contains("outside of destination"));
        match crate::error::is_disk_full(&error) {
            true => BuildError::io("unpack the source into", destination, error),
            false if leads_out => {
                refused("is outside of the archive's own folder, or a link on the way to it is")
            }
            false => BuildError::Source(format!("{}: {}", name.display(), reason(&error))),
        }
    })?;
    if unpacked { Ok(()) } else { Err(refused("is outside of the archive's own folder")) }
}

/// The innermost cause of an error.
fn reason(error: &io::Error) -> String {
    let innermost = causes(error).last().expect("an error is its own cause");
    let text = innermost.to_string();
    let kind = innermost.downcast_ref::<io::Error>().unwrap_or(error).kind();
    // The second are the library's words for a file that is shorter than its header says.
    match kind == io::ErrorKind::UnexpectedEof || text == "failed to write entire file" {
        true => "it ends too early".to_owned(),
        false => text,
    }
}

fn causes(error: &io::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |cause| cause.source())
}

/// Opens a tar archive; gzip is found by its first two bytes.
///
/// # Errors
/// It cannot be opened or read; it is empty, or another kind of archive.
pub fn open(archive: &Path) -> Result<Box<dyn Read>, BuildError> {
    let fail = |error| BuildError::io("read the archive", archive, error);
    let mut file = File::open(archive).map_err(fail)?;
    let mut magic = Vec::new();
    file.by_ref().take(8).read_to_end(&mut magic).map_err(fail)?;
    file.rewind().map_err(fail)?;
    if magic.is_empty() {
        return Err(BuildError::Source("it is empty".to_owned()));
    }
    if let Some((_, what)) = OTHER_ARCHIVES.iter().find(|(begin, _)| magic.starts_with(begin)) {
        return Err(BuildError::Source(format!(
            "it is {what}; send a tar archive, plain or with gzip (.tgz)"
        )));
    }
    let reader = BufReader::with_capacity(128 * 1024, file);
    Ok(match magic.starts_with(&[0x1f, 0x8b]) {
        true => Box::new(Bounded { inner: MultiGzDecoder::new(reader), left: MAX_ARCHIVE_BYTES }),
        false => Box::new(reader),
    })
}

/// Fails where a stream goes on that should have ended long ago.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        let left = self.left.checked_sub(count as u64);
        self.left = left.ok_or_else(|| io::Error::other("it is larger than 3 GB when decompressed"))?;
        Ok(count)
    }
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
    only.map_or(Ok(()), |folder| raise(&folder, destination))
}

/// Moves everything one level up from `app`, which all of it must be in: a slug's archive.
///
/// # Errors
/// There is something else; a file cannot be moved.
pub fn strip_app(destination: &Path) -> Result<(), BuildError> {
    let fail = |error| BuildError::io("list", destination, error);
    for entry in fs::read_dir(destination).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if entry.file_name() != SLUG_FOLDER || !entry.file_type().map_err(fail)?.is_dir() {
            let name = entry.file_name();
            return Err(BuildError::Source(format!(
                "a slug has its files below ./app, and this one has {} beside it; make it by `tar czf slug.tgz ./app`",
                name.display()
            )));
        }
    }
    let folder = destination.join(SLUG_FOLDER);
    match folder.is_dir() {
        true => raise(&folder, destination),
        false => {
            Err(BuildError::Source("a slug has its files below ./app, and this one has none".to_owned()))
        }
    }
}

/// Moves what is in `folder`, which is in `destination`, one level up.
fn raise(folder: &Path, destination: &Path) -> Result<(), BuildError> {
    let fail = |error| BuildError::io("move files of", destination, error);
    // Under another name first: the folder may have a file of its own name.
    let aside = destination.join(".ferroku-leading-folder");
    fs::rename(folder, &aside).map_err(fail)?;
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
    fn a_slug_has_everything_below_app_and_is_refused_otherwise() {
        let folder = tempfile::tempdir().expect("tempdir");
        let unpacked = |names: &[&str]| {
            let tar = archive(folder.path(), |builder| {
                names.iter().for_each(|name| add(builder, name, 0o755, "x"))
            });
            let out = tempfile::tempdir().expect("tempdir");
            unpack(&tar, out.path(), false).expect("unpack");
            strip_app(out.path()).map(|()| out).map_err(|error| error.to_string())
        };
        for names in [["./app/bin/web", "./app/app"], ["app/bin/web", "app/app"]] {
            let out = unpacked(&names).expect("a slug");
            assert!(out.path().join("bin/web").is_file() && out.path().join("app").is_file());
        }
        for (names, why) in [
            (&["app/x", "Procfile"][..], "this one has Procfile beside it"),
            (&["shop/x"], "this one has shop beside it"),
            (&["app"], "this one has app beside it"),
            (&[], "this one has none"),
        ] {
            let refused = unpacked(names).expect_err("must be refused");
            assert!(refused.contains(why), "{names:?}: {refused}");
        }
        // A link in place of the folder would be followed by every later step.
        let out = tempfile::tempdir().expect("tempdir");
        symlink("/etc", out.path().join("app")).expect("link");
        assert!(strip_app(out.path()).is_err());
    }

    fn refused(path: &Path) -> String {
        let out = tempfile::tempdir().expect("tempdir");
        let error = unpack(path, out.path(), true).expect_err("must be refused");
        let is_source = error.outcome() == ferroku_core::protocol::build::BuildOutcome::SourceInvalid;
        assert!(is_source, "{error}");
        error.to_string()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    #[test]
    fn an_archive_that_is_broken_or_of_another_kind_is_told() {
        let folder = tempfile::tempdir().expect("tempdir");
        let tar = archive(folder.path(), |builder| add(builder, "Procfile", 0o644, &"web: x\n".repeat(1000)));
        let tar = fs::read(tar).expect("read");
        let whole = gzip(&tar);
        let mut corrupt = whole.clone();
        let last = corrupt.len() - 6;
        corrupt[last] ^= 0xff;
        // The tar in it is whole, and only the checksum behind it is missing.
        let cut = whole[..whole.len() - 8].to_vec();
        let zip = [b"PK\x03\x04".as_slice(), &[0; 100]].concat();
        for (content, why) in [
            (Vec::new(), "it is empty"),
            (vec![b'x'; 2048], "it is no whole tar archive"),
            (zip, "it is a zip archive; send a tar archive"),
            (b"BZh91AY&SY".to_vec(), "it is compressed with bzip2"),
            (tar[..1000].to_vec(), "it ends too early"),
            (whole[..whole.len() / 2].to_vec(), "it ends too early"),
            (cut, "it ends too early"),
            (corrupt, "it is no whole tar archive"),
        ] {
            let path = folder.path().join("bad");
            fs::write(&path, content).expect("write");
            let text = refused(&path);
            assert!(text.contains(why), "{why}: {text}");
        }
        // Two gzip streams one after the other are one file.
        let path = folder.path().join("good");
        fs::write(&path, [gzip(&tar[..512]), gzip(&tar[512..])].concat()).expect("write");
        let out = tempfile::tempdir().expect("tempdir");
        unpack(&path, out.path(), false).expect("unpack");
        assert!(out.path().join("Procfile").is_file());
    }

    #[test]
    fn entries_that_no_archive_should_have_are_named() {
        type Fill = fn(&mut tar::Builder<File>);
        let cases: [(Fill, &str); 9] = [
            (|builder| add(builder, "../x", 0o644, ""), "../x is outside of the archive's own folder"),
            (|builder| add(builder, "/tmp/x", 0o644, ""), "/tmp/x is outside"),
            (|builder| special(builder, EntryType::Char), "null is a device or a pipe"),
            (|builder| special(builder, EntryType::Fifo), "null is a device or a pipe"),
            (
                |builder| hard_link(builder, "h", "/etc/passwd"),
                "h is outside of the archive's own folder, or a link",
            ),
            (|builder| hard_link(builder, "h", "../../etc/passwd"), "h"),
            (
                |builder| {
                    link(builder, "l", "/etc");
                    hard_link(builder, "h", "l/passwd");
                },
                "h is outside of the archive's own folder, or a link",
            ),
            (
                |builder| {
                    link(builder, "a", "b");
                    link(builder, "b", "a");
                    add(builder, "a/x", 0o644, "");
                },
                "a/x: ",
            ),
            (|builder| bomb(builder), "it is larger than 1 GB when unpacked"),
        ];
        for (fill, why) in cases {
            let folder = tempfile::tempdir().expect("tempdir");
            let text = refused(&archive(folder.path(), fill));
            assert!(text.contains(why), "{why}: {text}");
        }
    }

    fn special(builder: &mut tar::Builder<File>, kind: EntryType) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_device_major(1).expect("a field of it");
        header.set_device_minor(3).expect("a field of it");
        builder.append_data(&mut header, "null", io::empty()).expect("append");
    }

    fn hard_link(builder: &mut tar::Builder<File>, name: &str, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::Link);
        header.set_size(0);
        builder.append_link(&mut header, name, target).expect("append link");
    }

    /// An archive that says more than it has.
    fn bomb(builder: &mut tar::Builder<File>) {
        let mut header = tar::Header::new_gnu();
        header.set_path("bomb").expect("short");
        header.set_size(MAX_SOURCE_BYTES + 1);
        header.set_cksum();
        builder.append(&header, io::empty()).expect("append");
    }

    #[test]
    fn links_and_names_of_any_bytes_are_kept_as_they_are() {
        use std::os::unix::ffi::OsStrExt;
        let name = Path::new(std::ffi::OsStr::from_bytes(b"caf\xe9"));
        let folder = tempfile::tempdir().expect("tempdir");
        let tar = archive(folder.path(), |builder| {
            link(builder, "python", "/usr/bin/python3");
            link(builder, "a", "a");
            let mut header = tar::Header::new_gnu();
            header.set_size(1);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, b"x".as_slice()).expect("append");
        });
        let out = folder.path().join("out");
        fs::create_dir(&out).expect("mkdir");
        unpack(&tar, &out, false).expect("unpack");
        assert_eq!(fs::read_link(out.join("python")).expect("a link"), Path::new("/usr/bin/python3"));
        assert_eq!(fs::read_link(out.join("a")).expect("a link"), Path::new("a"));
        assert_eq!(fs::read(out.join(name)).expect("read"), b"x");
    }
}
