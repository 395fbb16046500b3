//! Which system calls a dyno may not make. All others are allowed: it has no capability to misuse them with.
//!
//! A denied call fails with EPERM unless its group says otherwise, so that programs fall back. System calls of other
//! processor modes (32-bit, x32) kill the caller.
//!
//! [`GROUPS`] is the whole list with its reasons. `tests/escape` tries to get past each group, and `docs/sandbox.md`
//! shows it; both fail to agree when a group is added here alone.

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};

/// System calls that are denied for one reason.
#[derive(Debug)]
pub struct Group {
    pub name: &'static str,
    pub calls: &'static [&'static str],
    pub only: Only,
    pub errno: i32,
    pub reason: &'static str,
}

/// With which arguments calls of a group are denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Only {
    /// With any.
    Always,
    /// With a flag that makes a namespace.
    NamespaceFlags,
    /// For other socket families than unix, IPv4, IPv6 and netlink.
    OddFamilies,
    /// With the request that fakes a terminal's input.
    TerminalInput,
}

const fn always(name: &'static str, calls: &'static [&'static str], reason: &'static str) -> Group {
    Group { name, calls, only: Only::Always, errno: libc::EPERM, reason }
}

/// What is denied, and why.
pub const GROUPS: &[Group] = &[
    always(
        "namespaces",
        &["unshare", "setns"],
        "a user namespace of its own gives a process all capabilities in it, and with them most kernel bugs",
    ),
    Group {
        name: "clone_namespaces",
        calls: &["clone"],
        only: Only::NamespaceFlags,
        errno: libc::EPERM,
        reason: "the same by another call; threads and processes are allowed",
    },
    Group {
        name: "clone3",
        calls: &["clone3"],
        only: Only::Always,
        errno: libc::ENOSYS,
        reason: "its flags lie in memory, where no filter can look; C libraries then use clone",
    },
    always(
        "mounts",
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
    always(
        "kernel_programs",
        &["bpf", "perf_event_open"],
        "programs and probes in the kernel; a long list of escapes",
    ),
    always("keyrings", &["keyctl", "add_key", "request_key"], "the kernel's keyrings are not namespaced"),
    always(
        "io_uring",
        &["io_uring_setup", "io_uring_enter", "io_uring_register"],
        "does file and socket work that no filter sees",
    ),
    Group {
        name: "asynchronous_io",
        calls: &["io_setup"],
        only: Only::Always,
        errno: libc::ENOSYS,
        reason: "what it takes is counted once for the whole machine (fs.aio-max-nr): one call of a dyno could leave \
                 nothing for databases; programs fall back to threads",
    },
    always(
        "userfaultfd",
        &["userfaultfd"],
        "lets a process hold the kernel up at will, which makes races winnable",
    ),
    always(
        "modules",
        &["init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "create_module"],
        "changes the kernel itself",
    ),
    always(
        "host",
        &["reboot", "swapon", "swapoff", "acct", "quotactl", "syslog", "nfsservctl", "vhangup"],
        "belongs to the host",
    ),
    always(
        "clock_and_name",
        &["settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname"],
        "the clock and the name are the host's",
    ),
    always(
        "file_handles",
        &["open_by_handle_at", "name_to_handle_at"],
        "opens files past the root folder (the shocker escape)",
    ),
    always(
        "hardware",
        &["ioperm", "iopl", "modify_ldt", "lookup_dcookie", "vm86", "vm86old"],
        "hardware and relics",
    ),
    always(
        "memory_placement",
        &["process_madvise", "move_pages", "migrate_pages", "mbind", "set_mempolicy"],
        "steers memory of the whole host",
    ),
    always("fanotify", &["fanotify_init"], "watches whole file systems"),
    always(
        "inside_of_the_kernel",
        &["kcmp", "uselib", "ustat", "sysfs", "_sysctl"],
        "tells of the kernel's inside, or obsolete",
    ),
    Group {
        name: "socket_families",
        calls: &["socket"],
        only: Only::OddFamilies,
        errno: libc::EAFNOSUPPORT,
        reason: "apps need unix, IPv4, IPv6 and, for name look-ups, netlink; the many others are seldom used, hence \
                 seldom tested",
    },
    Group {
        name: "terminal_input",
        calls: &["ioctl"],
        only: Only::TerminalInput,
        errno: libc::EPERM,
        reason: "a terminal's input can be faked with TIOCSTI, and so the client's next command line",
    },
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

/// Who reads the profile: they differ in two things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// Version 0.7 takes the mask of a masked comparison from the second value, where the OCI specification has it in
    /// the first.
    Libcontainer,
    /// As the specification says; runc does not know the name of the machine's own architecture.
    OciRuntime,
}

/// The profile as part of an OCI spec.
///
/// # Errors
/// Never: the builders have all that they need.
pub fn profile(reader: Reader) -> Result<LinuxSeccomp, OciSpecError> {
    let mut calls = Vec::new();
    for group in GROUPS {
        calls.extend(rules(group, reader)?);
    }
    let architecture = match reader {
        Reader::Libcontainer => Arch::ScmpArchNative,
        Reader::OciRuntime if cfg!(target_arch = "aarch64") => Arch::ScmpArchAarch64,
        Reader::OciRuntime => Arch::ScmpArchX86_64,
    };
    LinuxSeccompBuilder::default()
        .default_action(LinuxSeccompAction::ScmpActAllow)
        .architectures(vec![architecture])
        .syscalls(calls)
        .build()
}

fn rules(group: &Group, reader: Reader) -> Result<Vec<LinuxSyscall>, OciSpecError> {
    let arguments = match group.only {
        Only::Always => return Ok(vec![deny(group, None)?]),
        Only::NamespaceFlags => CLONE_NAMESPACES
            .iter()
            .map(|flag| *flag as u64)
            .map(|flag| argument(0, LinuxSeccompOperator::ScmpCmpMaskedEq, flag, Some(flag)))
            .collect::<Result<Vec<_>, _>>()?,
        Only::OddFamilies => {
            let usual =
                [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|family| family as u64);
            let odd = (0..=LAST_FAMILY).filter(|family| !usual.contains(family));
            odd.map(|family| argument(0, LinuxSeccompOperator::ScmpCmpEq, family, None))
                .chain([argument(0, LinuxSeccompOperator::ScmpCmpGt, LAST_FAMILY, None)])
                .collect::<Result<Vec<_>, _>>()?
        }
        // The kernel looks at the lower half only, so the rule does too.
        Only::TerminalInput => {
            const LOWER_HALF: u64 = 0xffff_ffff;
            let (first, second) = match reader {
                Reader::Libcontainer => (libc::TIOCSTI, LOWER_HALF),
                Reader::OciRuntime => (LOWER_HALF, libc::TIOCSTI),
            };
            vec![argument(1, LinuxSeccompOperator::ScmpCmpMaskedEq, first, Some(second))?]
        }
    };
    arguments.into_iter().map(|argument| deny(group, Some(argument))).collect()
}

fn deny(group: &Group, argument: Option<LinuxSeccompArg>) -> Result<LinuxSyscall, OciSpecError> {
    let call = LinuxSyscallBuilder::default()
        .names(group.calls.iter().map(ToString::to_string).collect::<Vec<_>>())
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(group.errno as u32);
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
