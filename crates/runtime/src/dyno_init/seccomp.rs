//! Which system calls a dyno may not make. All others are allowed: it has no capability to misuse them with.
//!
//! A denied call fails with EPERM, so that programs fall back; `clone3` with ENOSYS, because its flags lie in memory
//! where no filter can look, and C libraries then use `clone`. System calls of other processor modes
//! (32-bit, x32) kill the caller.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// Denied whatever the arguments, with the reason.
const DENIED: &[(&[&str], &str)] = &[
    (
        &["unshare", "setns"],
        "a user namespace of its own gives a process all capabilities in it, and with them most kernel bugs",
    ),
    (
        &[
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "open_tree",
            "move_mount",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr",
        ],
        "a dyno's file system is made before it starts",
    ),
    (&["bpf", "perf_event_open"], "programs and probes in the kernel; a long list of escapes"),
    (&["keyctl", "add_key", "request_key"], "the kernel's keyrings are not namespaced"),
    (
        &["io_uring_setup", "io_uring_enter", "io_uring_register"],
        "does file and socket work that no filter sees",
    ),
    (&["userfaultfd"], "lets a process hold the kernel up at will, which makes races winnable"),
    (
        &["init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "create_module"],
        "changes the kernel itself",
    ),
    (
        &["reboot", "swapon", "swapoff", "acct", "quotactl", "syslog", "nfsservctl", "vhangup"],
        "belongs to the host",
    ),
    (
        &["settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"],
        "the clock and the name are the host's",
    ),
    (&["open_by_handle_at", "name_to_handle_at"], "opens files past the root folder (the shocker escape)"),
    (&["ioperm", "iopl", "modify_ldt", "lookup_dcookie", "vm86", "vm86old"], "hardware and relics"),
    (
        &["process_madvise", "move_pages", "migrate_pages", "mbind", "set_mempolicy"],
        "steers memory of the whole host",
    ),
    (&["fanotify_init"], "watches whole file systems"),
    (&["kcmp", "uselib", "ustat", "sysfs", "_sysctl"], "tells of the kernel's inside, or obsolete"),
];

/// Namespace flags of `clone`.
const CLONE_NAMESPACES: &[i32] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// The highest socket family of today; what comes later is denied.
const LAST_FAMILY: u64 = 45;

/// The profile as part of an OCI spec.
///
/// # Errors
/// Never: the builders have all that they need.
pub fn profile() -> Result<LinuxSeccomp, OciSpecError> {
    let mut calls = Vec::new();
    for (names, _reason) in DENIED {
        calls.push(deny(names, libc::EPERM, None)?);
    }
    calls.push(deny(&["clone3"], libc::ENOSYS, None)?);
    for flag in CLONE_NAMESPACES {
        let flag = *flag as u64;
        let has = argument(0, LinuxSeccompOperator::ScmpCmpMaskedEq, flag, Some(flag))?;
        calls.push(deny(&["clone"], libc::EPERM, Some(has))?);
    }
    // Apps need unix, IPv4, IPv6 and (for name look-ups) netlink; the many others are seldom used, hence seldom tested.
    for family in 0..=LAST_FAMILY {
        let usual = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];
        if !usual.iter().any(|usual| *usual as u64 == family) {
            let is = argument(0, LinuxSeccompOperator::ScmpCmpEq, family, None)?;
            calls.push(deny(&["socket"], libc::EAFNOSUPPORT, Some(is))?);
        }
    }
    let later = argument(0, LinuxSeccompOperator::ScmpCmpGt, LAST_FAMILY, None)?;
    calls.push(deny(&["socket"], libc::EAFNOSUPPORT, Some(later))?);
    // A terminal's input can be faked with this request, and so the client's next command line. The kernel looks
    // at the lower half only, so the rule does too. libcontainer 0.7 takes the mask from the second value,
    // where the OCI specification has it in the first.
    const LOWER_HALF: u64 = 0xffff_ffff;
    let inject = argument(1, LinuxSeccompOperator::ScmpCmpMaskedEq, libc::TIOCSTI, Some(LOWER_HALF))?;
    calls.push(deny(&["ioctl"], libc::EPERM, Some(inject))?);
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(vec![Arch::ScmpArchNative])
        .syscalls(calls)
        .build()
}

fn deny(names: &[&str], errno: i32, argument: Option<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let call = LinuxSyscallBuilder::default()
        .names(names.iter().map(ToString::to_string).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(errno as u32);
    match argument {
        Some(argument) => call.args(vec![argument]).build(),
        None => call.build(),
    }
}

fn argument(
    index: usize,
    operator: LinuxSeccompOperator,
    value: u64,
    second: Option<u64>,
) -> Result<LinuxSeccompArg, OciSpecError> {
    let argument = LinuxSeccompArgBuilder::default().index(index).value(value).op(operator);
    match second {
        Some(second) => argument.value_two(second).build(),
        None => argument.build(),
    }
}
