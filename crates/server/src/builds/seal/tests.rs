//! What is sealed, and what is refused.

use super::*;
use ferroku_core::uids::SLUG_UID;
use rustix::fs::FileType;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

fn tree() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("bin")).expect("new");
    std::fs::write(folder.path().join("bin/web"), "#!/bin/sh\n").expect("written");
    std::fs::write(folder.path().join("Procfile"), "web: bin/web\n").expect("written");
    symlink("bin/web", folder.path().join("web")).expect("new");
    folder
}

#[test]
fn the_digest_is_over_content_and_modes_and_nothing_else() {
    let (one, two) = (tree(), tree());
    let first = seal(one.path()).expect("sealed");
    std::fs::File::open(two.path().join("Procfile"))
        .and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH))
        .expect("ours");
    assert_eq!(first, seal(two.path()).expect("sealed"), "the same, built at another time");
    assert_eq!((first.entries, first.tree_bytes), (4, 23));
    let again = seal(one.path()).expect("sealed");
    assert_eq!(first, again, "sealing is idempotent");
    let changes: [(&str, fn(&Path)); 4] = [
        ("content", |path| std::fs::write(path.join("Procfile"), "web: bin/wab\n").expect("written")),
        ("mode", |path| {
            std::fs::set_permissions(path.join("bin/web"), PermissionsExt::from_mode(0o755)).expect("ours");
        }),
        ("link", |path| {
            std::fs::remove_file(path.join("web")).expect("there");
            symlink("bin/wab", path.join("web")).expect("new");
        }),
        ("folder", |path| std::fs::create_dir(path.join("empty")).expect("new")),
    ];
    for (what, change) in changes {
        let other = tree();
        change(other.path());
        assert_ne!(first.digest, seal(other.path()).expect("sealed").digest, "{what}");
    }
}

#[test]
fn a_hostile_tree_is_made_harmless() {
    let outside = tempfile::tempdir().expect("a folder");
    std::fs::write(outside.path().join("shadow"), "root only").expect("written");
    std::fs::set_permissions(outside.path().join("shadow"), PermissionsExt::from_mode(0o600)).expect("ours");
    let folder = tree();
    let path = folder.path();
    symlink(outside.path(), path.join("out")).expect("new");
    symlink(outside.path().join("shadow"), path.join("shadow")).expect("new");
    std::fs::hard_link(outside.path().join("shadow"), path.join("hard")).expect("one file system");
    std::fs::write(path.join("root"), "").expect("written");
    std::fs::set_permissions(path.join("root"), PermissionsExt::from_mode(0o6755)).expect("ours");
    std::fs::set_permissions(path.join("bin"), PermissionsExt::from_mode(0o3777)).expect("ours");
    rustix::fs::setxattr(path.join("root"), "user.x", b"1", rustix::fs::XattrFlags::empty()).expect("ours");
    let fifo = rustix::fs::CWD;
    rustix::fs::mknodat(fifo, path.join("fifo"), FileType::Fifo, Mode::RUSR, 0).expect("new");
    rustix::fs::mknodat(fifo, path.join("null"), FileType::CharacterDevice, Mode::RUSR, 0x103).expect("new");
    let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).expect("bound");

    let sealed = seal(path).expect("sealed");
    assert_eq!(sealed.removed_count, 3, "{:?}", sealed.removed);
    for name in ["fifo", "null", "socket"] {
        assert!(!path.join(name).exists(), "{name}");
    }
    let shadow = std::fs::metadata(outside.path().join("shadow")).expect("untouched");
    assert_eq!((shadow.uid(), shadow.mode() & 0o777, shadow.nlink()), (0, 0o600, 1));
    let copy = std::fs::metadata(path.join("hard")).expect("a copy");
    assert_eq!((copy.uid(), copy.nlink()), (SLUG_UID, 1));
    assert_eq!(std::fs::read_to_string(path.join("hard")).expect("a copy"), "root only");
    assert_eq!(std::fs::metadata(outside.path()).expect("untouched").uid(), 0);
    let root = std::fs::metadata(path.join("root")).expect("there");
    assert_eq!((root.uid(), root.mode() & 0o7777), (SLUG_UID, 0o755));
    assert_eq!(std::fs::metadata(path.join("bin")).expect("there").mode() & 0o7777, 0o777);
    assert!(rustix::fs::getxattr(path.join("root"), "user.x", &mut [0u8; 8]).is_err());
    assert_eq!(std::fs::symlink_metadata(path.join("out")).expect("a link").uid(), SLUG_UID);
}

#[test]
fn hard_links_inside_the_tree_stay_and_count_once() {
    let folder = tree();
    std::fs::hard_link(folder.path().join("Procfile"), folder.path().join("Procfile.2")).expect("new");
    let sealed = seal(folder.path()).expect("sealed");
    assert_eq!(sealed.tree_bytes, 23);
    assert_eq!(std::fs::metadata(folder.path().join("Procfile")).expect("there").nlink(), 2);
}

#[test]
fn reading_again_gives_the_same_digest_and_changes_nothing() {
    let folder = tree();
    let sealed = seal(folder.path()).expect("sealed");
    // A backup by hard links, and an owner that somebody changed.
    let backup = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("Procfile");
    std::fs::hard_link(&file, backup.path().join("Procfile")).expect("one file system");
    std::os::unix::fs::chown(folder.path().join("bin"), Some(7), Some(7)).expect("root");
    std::os::unix::fs::lchown(folder.path().join("web"), Some(7), Some(7)).expect("root");
    let inode = std::fs::metadata(&file).expect("there").ino();
    assert_eq!(digest_again(folder.path()).expect("read"), sealed.digest);
    let after = std::fs::metadata(&file).expect("there");
    assert_eq!((after.ino(), after.nlink()), (inode, 2));
    for name in ["bin", "web"] {
        let status = std::fs::symlink_metadata(folder.path().join(name)).expect("there");
        assert_eq!(status.uid(), 7, "{name}");
    }
    std::os::unix::net::UnixListener::bind(folder.path().join("socket")).expect("bound");
    assert!(matches!(digest_again(folder.path()), Err(SealError::Special { .. })));
    assert!(folder.path().join("socket").exists());
}

#[test]
fn a_path_that_no_program_could_open_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut at = std::fs::File::open(folder.path()).expect("there");
    for _ in 0..17 {
        let name = "d".repeat(250);
        rustix::fs::mkdirat(&at, &name, Mode::RWXU).expect("made");
        at = rustix::fs::openat(&at, &name, OFlags::DIRECTORY, Mode::empty()).expect("there").into();
    }
    assert!(matches!(seal(folder.path()), Err(SealError::PathTooLong { .. })));
}

#[test]
fn nesting_has_an_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let deep: PathBuf = std::iter::repeat_n("d", MAX_DEPTH + 2).collect();
    std::fs::create_dir_all(folder.path().join(deep)).expect("new");
    assert!(matches!(seal(folder.path()), Err(SealError::TooDeep { .. })));
}
