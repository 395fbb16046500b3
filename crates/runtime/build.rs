//! Lets dyno-init, a static program, link libseccomp statically without settings in the environment: puts a folder
//! with nothing but the archive in front of the linker's search path.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let found = Command::new("cc").arg("-print-file-name=libseccomp.a").output().ok();
    let archive = found.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let Some(archive) = archive.filter(|path| path.is_absolute()) else {
        println!(
            "cargo:warning=libseccomp.a is not installed: dyno-init cannot be linked (package libseccomp-dev)"
        );
        return;
    };
    let folder = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("static");
    std::fs::create_dir_all(&folder).expect("OUT_DIR is writable");
    let link = folder.join("libseccomp.a");
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(archive, link).expect("OUT_DIR is writable");
    println!("cargo:rustc-link-search=native={}", folder.display());
}
