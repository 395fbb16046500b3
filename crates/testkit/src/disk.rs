//! A small disk of its own for a node, which a test may fill.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An ext4 file system in a file, mounted until this is dropped.
#[derive(Debug)]
pub struct SmallDisk {
    pub folder: PathBuf,
}

impl SmallDisk {
    /// Makes one of `bytes` in `parent` and mounts it at `parent/disk`.
    ///
    /// # Panics
    /// This machine cannot: no root, no loop device, no ext4.
    pub fn mount(parent: &Path, bytes: u64) -> Self {
        let (image, folder) = (parent.join("disk.img"), parent.join("disk"));
        fs::File::create(&image).and_then(|file| file.set_len(bytes)).expect("a temporary folder");
        fs::create_dir(&folder).expect("a temporary folder");
        run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&folder));
        Self { folder }
    }

    /// Fills what is free, but for `left` bytes.
    ///
    /// # Panics
    /// The file system cannot be read.
    pub fn fill(&self, left: u64) {
        let filler = fs::File::create(self.filler()).expect("an entry still fits");
        loop {
            let space = rustix::fs::statvfs(&self.folder).expect("it is mounted");
            let free = (space.f_bavail * space.f_frsize).saturating_sub(left);
            let length = filler.metadata().expect("our own file").len();
            let more = (free / 2).max(1 << 16);
            if free < 1 << 16
                || rustix::fs::fallocate(&filler, rustix::fs::FallocateFlags::empty(), length, more).is_err()
            {
                return;
            }
        }
    }

    /// Makes files until it has no inode for another.
    ///
    /// # Panics
    /// It has more than anybody would make.
    pub fn fill_inodes(&self) {
        let folder = self.inode_filler();
        fs::create_dir(&folder).expect("an entry still fits");
        for number in 0..1_000_000_u32 {
            if fs::File::create(folder.join(number.to_string())).is_err() {
                return;
            }
        }
        panic!("{} has no end of inodes", self.folder.display());
    }

    /// Gives the inodes back.
    ///
    /// # Panics
    /// It was not filled.
    pub fn empty_inodes(&self) {
        fs::remove_dir_all(self.inode_filler()).expect("it was filled");
    }

    fn inode_filler(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// Gives it all back.
    ///
    /// # Panics
    /// It was not filled.
    pub fn empty(&self) {
        fs::remove_file(self.filler()).expect("it was filled");
    }

    fn filler(&self) -> PathBuf {
        self.folder.join("filler")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // What still uses it lets go of it later.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}

#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
