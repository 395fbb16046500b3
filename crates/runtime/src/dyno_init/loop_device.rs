//! A file as a block device that vanishes with its last user.

use super::sys::{Context, Failure, c_path};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4C82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4C0A;
const LO_FLAGS_AUTOCLEAR: u32 = 4;
/// Without it each written page is in the page cache twice.
const LO_FLAGS_DIRECT_IO: u32 = 16;
const LOOP_MAJOR: u32 = 7;
/// The page size, and the block size of the template.
const BLOCK_BYTES: u32 = 4096;
/// Another process may take the free device first; so many times running it will not.
const ATTEMPTS: u32 = 64;

#[repr(C)]
struct LoopInfo {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

#[repr(C)]
struct LoopConfig {
    fd: u32,
    block_size: u32,
    info: LoopInfo,
    reserved: [u64; 8],
}

/// Attaches `image` and returns the device, whose node is made in `folder`, and a descriptor that keeps it
/// until it is mounted.
///
/// # Errors
/// No loop device could be had.
pub fn attach(image: &Path, folder: &Path) -> Result<(PathBuf, File), Failure> {
    let control = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open("/dev/loop-control")
        .context(|| "open /dev/loop-control".into())?;
    let backing = OpenOptions::new()
        .read(true)
        .write(true)
        .open(image)
        .context(|| format!("open {}", image.display()))?;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        // SAFETY: this request takes no argument.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        if number < 0 {
            return Err(io::Error::last_os_error()).context(|| "get a free loop device".into());
        }
        match configure(&backing, image, number as u32, folder) {
            Ok(attached) => return Ok(attached),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => last = Some(error),
            Err(error) => return Err(error).context(|| format!("attach {}", image.display())),
        }
    }
    Err(last.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EBUSY)))
        .context(|| format!("attach {}", image.display()))
}

fn configure(backing: &File, image: &Path, number: u32, folder: &Path) -> io::Result<(PathBuf, File)> {
    let node = folder.join(format!("loop{number}"));
    let name = c_path(&node)?;
    // SAFETY: the path is NUL-terminated and lives through the call.
    let made =
        unsafe { libc::mknod(name.as_ptr(), libc::S_IFBLK | 0o600, libc::makedev(LOOP_MAJOR, number)) };
    if made < 0 && io::Error::last_os_error().kind() != io::ErrorKind::AlreadyExists {
        return Err(io::Error::last_os_error());
    }
    let device = OpenOptions::new().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(&node)?;
    // SAFETY: all zeroes is a valid value of this structure of integers.
    let mut config: LoopConfig = unsafe { std::mem::zeroed() };
    config.fd = backing.as_raw_fd() as u32;
    config.block_size = BLOCK_BYTES;
    config.info.flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    let path = image.as_os_str().as_encoded_bytes();
    // What `losetup` shows: the end of the path holds the dyno's id.
    let tail = &path[path.len().saturating_sub(63)..];
    config.info.file_name[..tail.len()].copy_from_slice(tail);
    // SAFETY: the structure lives through the call and has the layout of the kernel's `loop_config`.
    if unsafe { libc::ioctl(device.as_raw_fd(), LOOP_CONFIGURE, &raw const config) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((node, device))
}
