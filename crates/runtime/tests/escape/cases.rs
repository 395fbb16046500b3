//! The attempts that one process can make, and what stops each.

/// Who tries it on the host, without a sandbox.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Host {
    Root,
    /// An ordinary user.
    User,
    /// Why it is not tried there.
    Not(&'static str),
}

/// Where an attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum From {
    Dyno,
    /// In a dyno, together with others that wait for the network.
    DynoAtOnce,
    /// By an ordinary user of the node.
    NodeUser,
    /// By root of the node.
    NodeRoot,
    /// By a machine in the node's network.
    FarSide,
}

pub struct Case {
    pub theme: &'static str,
    /// A function in `attempts.py`.
    pub attempt: &'static str,
    pub from: From,
    pub host: Host,
    /// Each of these stops it alone: it must fail as long as one of them is there, and work without all of them.
    pub stopped_by: &'static [&'static str],
}

use Host::{Not, Root, User};

const fn case(
    theme: &'static str,
    attempt: &'static str,
    host: Host,
    stopped_by: &'static [&'static str],
) -> Case {
    Case { theme, attempt, from: From::Dyno, host, stopped_by }
}

const fn link(attempt: &'static str, from: From, host: Host, stopped_by: &'static [&'static str]) -> Case {
    Case { theme: "network", attempt, from, host, stopped_by }
}

const PROCESSES: &str = "processes";
const KERNEL: &str = "kernel interfaces";
const FILES: &str = "files and names of the host";

const EXHAUSTION: &str = "exhaustion";
const OTHER_PLACE: &str = "the node is another place in the network";
const COUNTED: &str = "it shows in a dyno only: what a neighbour's namespace leaves";

pub const CASES: &[Case] = &[
    case(PROCESSES, "sees_a_process_of_the_host", User, &["pid namespace"]),
    case(PROCESSES, "signals_its_own_user_outside", Root, &["pid namespace"]),
    case(PROCESSES, "signals_a_process_of_another_app", Root, &["pid namespace", "uid range of the app"]),
    case(
        PROCESSES,
        "reads_the_environment_of_another_app",
        Root,
        &["pid namespace", "user namespace", "no capabilities"],
    ),
    case(
        PROCESSES,
        "traces_a_process_of_another_app",
        Root,
        &["pid namespace", "user namespace", "no capabilities"],
    ),
    case(
        PROCESSES,
        "traces_the_first_process",
        Not("pid 1 of the host is nothing to stop"),
        &["hidden first process"],
    ),
    case(
        PROCESSES,
        "reads_the_first_process",
        Not("pid 1 of the host is nothing to stop"),
        &["hidden first process"],
    ),
    case(KERNEL, "makes_a_user_namespace", User, &["seccomp namespaces"]),
    case(KERNEL, "clones_a_user_namespace", User, &["seccomp clone_namespaces"]),
    case(KERNEL, "clones_3_a_user_namespace", User, &["seccomp clone3"]),
    case(KERNEL, "enters_a_namespace", Root, &["seccomp namespaces", "no capabilities"]),
    case(KERNEL, "mounts", Root, &["seccomp mounts", "no capabilities"]),
    case(KERNEL, "opens_a_file_system", Root, &["seccomp mounts", "no capabilities"]),
    case(KERNEL, "changes_the_root", Root, &["seccomp mounts", "no capabilities"]),
    case(
        KERNEL,
        "mounts_the_cgroups_and_finds_the_release_agent",
        Root,
        &["seccomp mounts", "no capabilities", "user namespace", "cgroup namespace"],
    ),
    case(KERNEL, "loads_a_bpf_map", Root, &["seccomp kernel_programs", "no capabilities", "user namespace"]),
    case(KERNEL, "opens_a_perf_event", User, &["seccomp kernel_programs"]),
    case(KERNEL, "uses_a_keyring", User, &["seccomp keyrings"]),
    case(KERNEL, "asks_for_a_keyring", User, &["seccomp keyrings"]),
    case(KERNEL, "sets_up_io_uring", User, &["seccomp io_uring"]),
    case(KERNEL, "takes_asynchronous_io", User, &["seccomp asynchronous_io"]),
    case(KERNEL, "holds_page_faults", User, &["seccomp userfaultfd"]),
    case(KERNEL, "loads_a_module", Root, &["seccomp modules", "no capabilities", "user namespace"]),
    case(KERNEL, "loads_a_kernel", Root, &["seccomp modules", "no capabilities", "user namespace"]),
    case(KERNEL, "reads_the_kernel_log", Root, &["seccomp host", "no capabilities", "user namespace"]),
    case(KERNEL, "reads_the_clock_discipline", User, &["seccomp clock_and_name"]),
    case(KERNEL, "renames_the_host", Root, &["seccomp clock_and_name", "no capabilities"]),
    case(KERNEL, "names_a_file_by_handle", User, &["seccomp file_handles"]),
    case(
        KERNEL,
        "opens_a_file_by_handle",
        Root,
        &["seccomp file_handles", "no capabilities", "user namespace"],
    ),
    case(KERNEL, "opens_io_ports", Root, &["seccomp hardware", "no capabilities", "user namespace"]),
    case(KERNEL, "reads_the_descriptor_table", User, &["seccomp hardware"]),
    case(KERNEL, "sets_a_memory_policy", User, &["seccomp memory_placement"]),
    case(KERNEL, "watches_a_file_system", User, &["seccomp fanotify"]),
    case(KERNEL, "compares_kernel_pointers", User, &["seccomp inside_of_the_kernel"]),
    case(KERNEL, "fakes_terminal_input", User, &["seccomp terminal_input"]),
    case(KERNEL, "fakes_terminal_input_past_a_64_bit_filter", User, &["seccomp terminal_input"]),
    case(
        KERNEL,
        "opens_a_packet_socket",
        Root,
        &["seccomp socket_families", "no capabilities", "user namespace"],
    ),
    case(KERNEL, "opens_a_virtual_machine_socket", User, &["seccomp socket_families"]),
    case(KERNEL, "opens_a_raw_socket", Root, &["no capabilities", "user namespace"]),
    case(KERNEL, "changes_the_network", Root, &["no capabilities", "user namespace"]),
    case(KERNEL, "calls_as_a_32_bit_program", User, &["seccomp architectures"]),
    case(KERNEL, "goes_before_everybody_else", Root, &["no capabilities", "user namespace"]),
    case(KERNEL, "makes_a_device_of_the_host", Root, &["no capabilities", "user namespace", "device rules"]),
    case(
        KERNEL,
        "gains_root_by_a_set_uid_program",
        User,
        &["no new privileges", "no set-uid files", "user namespace"],
    ),
    case(KERNEL, "writes_a_sysctl", Root, &["read-only paths", "unprivileged user", "user namespace"]),
    case(
        KERNEL,
        "asks_the_kernel_by_sysrq",
        Root,
        &["read-only paths", "unprivileged user", "user namespace"],
    ),
    case(KERNEL, "opens_physical_memory", Root, &["device rules", "no capabilities", "user namespace"]),
    case(KERNEL, "reads_how_the_kernel_was_started", User, &["masked paths"]),
    case(KERNEL, "reads_the_kernels_addresses", User, &["masked paths"]),
    case(KERNEL, "reads_any_masked_path", User, &["masked paths"]),
    case(KERNEL, "opens_any_read_only_path_for_writing", User, &["read-only paths"]),
    case(KERNEL, "reads_the_kernels_folder", User, &["masked paths"]),
    case(KERNEL, "writes_to_sys", Root, &["read-only /sys", "no capabilities", "user namespace"]),
    case(FILES, "reads_another_slug", User, &["root folder of its own"]),
    case(FILES, "reads_a_file_in_var", User, &["root folder of its own"]),
    case(FILES, "reads_a_file_in_run", User, &["root folder of its own"]),
    case(FILES, "reads_the_node_identity", User, &["root folder of its own"]),
    case(
        FILES,
        "reads_the_log_of_another_app",
        Root,
        &["root folder of its own", "unprivileged user", "user namespace"],
    ),
    case(
        FILES,
        "reads_the_disk_of_another_app",
        Root,
        &["root folder of its own", "unprivileged user", "user namespace"],
    ),
    case(
        FILES,
        "reads_the_home_of_root",
        Root,
        &["root folder of its own", "unprivileged user", "user namespace"],
    ),
    case(FILES, "reads_the_hosts_users", User, &["generated /etc"]),
    case(FILES, "talks_to_a_socket_of_the_host", User, &["root folder of its own"]),
    case(FILES, "talks_to_an_abstract_socket_of_the_host", User, &["network namespace"]),
    case(FILES, "talks_to_the_hosts_loopback", User, &["network namespace"]),
    case(FILES, "reads_shared_memory_of_the_host", User, &["ipc namespace"]),
    case(FILES, "opens_a_message_queue_of_the_host", User, &["ipc namespace"]),
    case(FILES, "reads_the_hosts_name", User, &["uts namespace"]),
    case(
        FILES,
        "reads_its_place_among_the_cgroups",
        Not("the host's own processes are in no dyno"),
        &["cgroup namespace"],
    ),
    case(FILES, "writes_to_usr", Root, &["read-only stack", "unprivileged user", "user namespace"]),
    case(
        FILES,
        "writes_to_the_root_folder",
        Root,
        &["read-only root", "unprivileged user", "user namespace"],
    ),
    case(
        FILES,
        "finds_an_inherited_descriptor",
        Not("it takes a program that leaks one; libcontainer closes all but the standard streams"),
        &[],
    ),
    case(EXHAUSTION, "forks_without_end", User, &["processes limit"]),
    case(EXHAUSTION, "takes_memory", User, &["memory limit"]),
    case(EXHAUSTION, "takes_memory_by_files_of_memory", User, &["memory limit", "size of /dev/shm"]),
    case(EXHAUSTION, "takes_memory_by_shared_segments", User, &["memory limit"]),
    case(EXHAUSTION, "fills_the_disk", User, &["disk limit"]),
    case(EXHAUSTION, "fills_the_disk_through_the_slug", User, &["disk limit"]),
    case(EXHAUSTION, "fills_the_disk_behind_a_sparse_file", User, &["disk limit"]),
    case(EXHAUSTION, "takes_the_inodes", User, &["disk limit"]),
    case(EXHAUSTION, "opens_files_without_end", User, &["process limits"]),
    case(EXHAUSTION, "dumps_its_core", User, &["process limits"]),
    case(EXHAUSTION, "takes_the_terminals", User, &["terminals limit"]),
    case(EXHAUSTION, "is_starved_of_inotify_by_a_neighbour", Not(COUNTED), &["account of the app"]),
    case(EXHAUSTION, "is_starved_of_message_queues_by_a_neighbour", Not(COUNTED), &["account of the app"]),
    link(
        "reaches_another_dyno",
        From::DynoAtOnce,
        Not(OTHER_PLACE),
        &["one neighbour", "isolated bridge ports"],
    ),
    link(
        "reaches_another_dyno_by_the_node",
        From::DynoAtOnce,
        Not(OTHER_PLACE),
        &["filter: nobody but the router", "filter: no private addresses"],
    ),
    link(
        "reaches_another_dyno_by_link_local",
        From::DynoAtOnce,
        Not(OTHER_PLACE),
        &["link without IPv6", "isolated bridge ports"],
    ),
    link("fills_the_table_of_neighbours", From::Dyno, User, &["one neighbour"]),
    link("fills_the_table_of_neighbours_by_link_local", From::Dyno, User, &["link without IPv6"]),
    link("reaches_the_node_at_the_bridge", From::DynoAtOnce, User, &["filter: no ports of the node"]),
    link("reaches_the_node_at_its_address", From::DynoAtOnce, User, &["filter: no ports of the node"]),
    link(
        "reaches_the_node_by_link_local",
        From::DynoAtOnce,
        Not(OTHER_PLACE),
        &[
            "link without IPv6",
            "bridge without IPv6",
            "filter: no ports of the node",
            "filter: the router's user only",
        ],
    ),
    link("reaches_the_metadata_service", From::DynoAtOnce, User, &["filter: no private addresses"]),
    link("reaches_private_networks", From::DynoAtOnce, User, &["filter: no private addresses"]),
    link(
        "sends_as_somebody_else",
        From::DynoAtOnce,
        Root,
        &["no capabilities", "user namespace", "filter: own addresses only"],
    ),
    link("opens_connections_without_end", From::Dyno, User, &["filter: limited connections"]),
    link("reaches_a_dyno_as_a_user", From::NodeUser, Not(OTHER_PLACE), &["filter: the router's user only"]),
    link("reaches_a_dyno_as_root", From::NodeRoot, Not(OTHER_PLACE), &["filter: the router's user only"]),
    link("reaches_a_dyno_from_outside", From::FarSide, Not(OTHER_PLACE), &["filter: nobody but the router"]),
];
