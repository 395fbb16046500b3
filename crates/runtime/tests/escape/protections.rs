//! What a dyno is protected by, each under a name, and how a test takes that one away.

use ferroku_core::uids::{APP_UIDS, DYNO_UID, FIRST_APP_UID};
use ferroku_runtime::DynoSpec;
use ferroku_runtime::dyno_init::seccomp;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;

/// A protection, what it is, and how it is taken away.
pub struct Protection {
    pub name: &'static str,
    pub what: &'static str,
    pub removal: Removal,
}

pub enum Removal {
    /// By another OCI spec; runs in the altered `dyno-create`, right before the container is made.
    Spec(fn(&mut Value)),
    /// By another request to the driver.
    Request(fn(&mut DynoSpec)),
    /// From the node itself, for a while.
    Node(NodeRemoval),
}

#[derive(Debug, Clone, Copy)]
pub enum NodeRemoval {
    /// Rules of the packet filter with this comment.
    Rules(&'static str),
    IsolatedPorts,
    NoIpv6,
}

use NodeRemoval::{IsolatedPorts, NoIpv6, Rules};
use Removal::{Node, Request, Spec};

/// A neighbour's app, whose uids a dyno gets when it has none of its own.
pub const STRANGER_UID_BASE: u32 = FIRST_APP_UID + APP_UIDS;

/// An app that holds much of what is counted by user.
pub const HUNGRY_UID_BASE: u32 = FIRST_APP_UID + 2 * APP_UIDS;

/// In front of the names of seccomp's groups.
const SECCOMP: &str = "seccomp ";

pub const PROTECTIONS: &[Protection] = &[
    Protection {
        name: "user namespace",
        what: "its root, and all capabilities that it could win, are nobody's outside",
        removal: Spec(|spec| {
            drop_namespace(spec, "user");
            let base = spec["linux"]["uidMappings"][0]["hostID"].as_u64().unwrap_or(0);
            for map in ["uidMappings", "gidMappings"] {
                spec["linux"].as_object_mut().unwrap().remove(map);
            }
            if spec["process"]["user"]["uid"] != 0 {
                let owner = base + u64::from(DYNO_UID);
                spec["process"]["user"] = json!({ "uid": owner, "gid": owner, "umask": 0o022 });
            }
        }),
    },
    Protection {
        name: "pid namespace",
        what: "a dyno sees and signals its own processes only",
        removal: Spec(|spec| {
            drop_namespace(spec, "pid");
            mount_at(spec, "/proc", json!({ "type": "bind", "source": "/proc", "options": ["rbind"] }));
        }),
    },
    Protection {
        name: "ipc namespace",
        what: "shared memory, semaphores and message queues of its own",
        removal: Spec(|spec| drop_namespace(spec, "ipc")),
    },
    Protection {
        name: "uts namespace",
        what: "a host name of its own",
        removal: Spec(|spec| {
            drop_namespace(spec, "uts");
            // Else the name would be given to the host.
            spec.as_object_mut().unwrap().remove("hostname");
        }),
    },
    Protection {
        name: "cgroup namespace",
        what: "its cgroup looks like the root; names of the node stay hidden, and cgroup files of the host cannot be mounted",
        removal: Spec(|spec| drop_namespace(spec, "cgroup")),
    },
    Protection {
        name: "network namespace",
        what: "devices, addresses, loopback and abstract sockets of its own",
        removal: Spec(|_| {
            let host = File::open(host_network()).expect("the host's network");
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(host.as_fd(), kind).expect("enters the host's network");
        }),
    },
    Protection {
        name: "unprivileged user",
        what: "processes are uid 1000, not root",
        removal: Spec(|spec| spec["process"]["user"] = json!({ "uid": 0, "gid": 0, "umask": 0o022 })),
    },
    Protection {
        name: "uid range of the app",
        what: "65,536 uids for each app, so that no two apps are the same user of the host",
        removal: Request(|spec| spec.uid_base = STRANGER_UID_BASE),
    },
    Protection {
        name: "no capabilities",
        what: "every set is empty, the bounding set too",
        removal: Spec(|spec| {
            for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
                spec["process"]["capabilities"][set] = json!(CAPABILITIES);
            }
        }),
    },
    Protection {
        name: "no new privileges",
        what: "set-uid programs and file capabilities give nothing",
        removal: Spec(|spec| {
            spec["process"]["noNewPrivileges"] = false.into();
            // Without either this or a capability, the kernel takes no filter.
            spec["linux"].as_object_mut().unwrap().remove("seccomp");
        }),
    },
    Protection {
        name: "no set-uid files",
        what: "every mount is nosuid",
        removal: Spec(|spec| {
            mount_at(spec, "/usr", json!({ "type": "bind", "source": "/usr", "options": ["rbind", "ro"] }));
        }),
    },
    Protection {
        name: "hidden first process",
        what: "pid 1 is not dumpable: the command, the same user, cannot trace it or read its memory and descriptors",
        removal: Spec(|spec| {
            let program = std::env::current_exe().expect("our own program");
            let bind = json!({ "type": "bind", "source": program, "options": ["rbind", "ro"] });
            mount_at(spec, "/.ferroku/init", bind);
        }),
    },
    Protection {
        name: "root folder of its own",
        what: "nothing of the host but its programs and libraries is there: no data folder, home, run or var",
        removal: Spec(|spec| {
            mount_at(spec, "/opt", json!({ "type": "bind", "source": "/", "options": ["rbind"] }));
        }),
    },
    Protection {
        name: "generated /etc",
        what: "nothing of the host's people, names or secrets",
        removal: Spec(|spec| {
            mount_at(spec, "/etc", json!({ "type": "bind", "source": "/etc", "options": ["rbind"] }));
        }),
    },
    Protection {
        name: "read-only stack",
        what: "the host's /usr cannot be written",
        removal: Spec(|spec| {
            mount_at(spec, "/usr", json!({ "type": "bind", "source": "/usr", "options": ["rbind"] }));
        }),
    },
    Protection {
        name: "read-only root",
        what: "the root folder cannot be written",
        removal: Spec(|spec| spec["root"]["readonly"] = false.into()),
    },
    Protection {
        name: "read-only /sys",
        what: "of its own network namespace",
        removal: Spec(|spec| {
            mount_at(spec, "/sys", json!({ "type": "bind", "source": "/sys", "options": ["rbind"] }));
        }),
    },
    Protection {
        name: "read-only paths",
        what: "what configures the kernel below /proc",
        removal: Spec(|spec| spec["linux"]["readonlyPaths"] = json!([])),
    },
    Protection {
        name: "masked paths",
        what: "what tells of the host's kernel below /proc and /sys",
        removal: Spec(|spec| spec["linux"]["maskedPaths"] = json!([])),
    },
    Protection {
        name: "device rules",
        what: "the devices cgroup: null, zero, full, random, terminals",
        removal: Spec(|spec| {
            spec["linux"]["resources"]["devices"] = json!([{ "allow": true, "access": "rwm" }]);
        }),
    },
    Protection {
        name: "seccomp architectures",
        what: "system calls of other processor modes kill the caller",
        removal: Spec(|spec| {
            let architectures = spec["linux"]["seccomp"]["architectures"].as_array_mut();
            architectures.expect("the profile names the machine's own").push(json!("SCMP_ARCH_X86"));
        }),
    },
    Protection {
        name: "account of the app",
        what: "the user namespace belongs to the app: what the kernel counts by user is counted for it, not for root",
        removal: Spec(|spec| {
            for namespace in spec["linux"]["namespaces"].as_array_mut().unwrap() {
                if namespace["type"] == "user" {
                    namespace.as_object_mut().unwrap().remove("path");
                }
            }
        }),
    },
    Protection {
        name: "processes limit",
        what: "the pids cgroup, by dyno size",
        removal: Request(|spec| spec.limits.pids = 1000),
    },
    Protection {
        name: "memory limit",
        what: "the memory cgroup, by dyno size, swap included; files of memory count",
        removal: Request(|spec| spec.limits.memory_bytes = 1 << 30),
    },
    Protection {
        name: "size of /dev/shm",
        what: "256 MB",
        removal: Spec(|spec| drop_option(spec, "/dev/shm", "size=")),
    },
    Protection {
        name: "disk limit",
        what: "/app and /tmp are a file system of the dyno's own size, blocks and inodes",
        removal: Request(|spec| spec.limits.disk_bytes = 256 << 20),
    },
    Protection {
        name: "process limits",
        what: "10,000 open files for each process, no core dumps",
        removal: Spec(|spec| spec["process"]["rlimits"] = json!([])),
    },
    Protection {
        name: "terminals limit",
        what: "64 pseudo terminals",
        removal: Spec(|spec| drop_option(spec, "/dev/pts", "max=")),
    },
    Protection {
        name: "isolated bridge ports",
        what: "frames pass between a dyno and the node only, never between dynos",
        removal: Node(IsolatedPorts),
    },
    Protection {
        name: "one neighbour",
        what: "a dyno's address is alone at its link: only the gateway is to be asked for",
        removal: Spec(|_| {
            let shown = ip(&["-4", "-o", "address", "show", "dev", "eth0"]);
            let own = shown.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
            let subnet = Ipv4Addr::from(u32::from(own.parse::<Ipv4Addr>().unwrap()) & !1023);
            ip(&["route", "add", &format!("{subnet}/22"), "dev", "eth0"]);
        }),
    },
    Protection {
        name: "link without IPv6",
        what: "a dyno has IPv6 on loopback only",
        removal: Spec(|_| {
            let setting = |name: &str, value: &str| {
                fs::write(format!("/proc/sys/net/ipv6/conf/eth0/{name}"), value).unwrap();
            };
            setting("accept_dad", "0");
            setting("disable_ipv6", "0");
        }),
    },
    Protection {
        name: "bridge without IPv6",
        what: "the node has no address there that a dyno could guess",
        removal: Node(NoIpv6),
    },
    Protection {
        name: "filter: nobody but the router",
        what: "nothing is forwarded to a dyno, from wherever",
        removal: Node(Rules("nobody but the router")),
    },
    Protection {
        name: "filter: the router's user only",
        what: "no other user of the node, root included, opens a connection to a dyno",
        removal: Node(Rules("the router's user only")),
    },
    Protection {
        name: "filter: no ports of the node",
        what: "a dyno gets names from the node, and nothing else: not the API, not the router",
        removal: Node(Rules("no ports of the node")),
    },
    Protection {
        name: "filter: no private addresses",
        what: "what is not the internet, metadata services included, unless the admin allows it",
        removal: Node(Rules("no private addresses")),
    },
    Protection {
        name: "filter: own addresses only",
        what: "no packet leaves with a source that is no dyno's",
        removal: Node(Rules("own addresses only")),
    },
    Protection {
        name: "filter: limited connections",
        what: "4,096 open connections of a dyno; the kernel's table of them is the whole node's",
        removal: Node(Rules("limited connections")),
    },
];

/// Without CAP_SYS_RESOURCE, which the machine that runs this may lack itself.
const CAPABILITIES: &[&str] = &[
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_TIME",
    "CAP_MKNOD",
    "CAP_SYSLOG",
    "CAP_PERFMON",
    "CAP_BPF",
];

/// The file in the node's data folder from which the altered `dyno-create` learns where the host's network is.
pub const HOST_NETWORK: &str = "host-network";

/// Takes protections away from a dyno's OCI spec.
pub fn alter(removed: &[String], spec: &mut Value) {
    // The user is told in the terms of the namespace that is there: change it first.
    let by_user = |name: &&String| *name != "unprivileged user";
    let (mut order, rest): (Vec<_>, Vec<_>) = removed.iter().partition(|name| !by_user(name));
    order.extend(rest);
    for name in order {
        if let Some(group) = name.strip_prefix(SECCOMP).and_then(|name| group(name)) {
            let Some(calls) = spec["linux"]["seccomp"]["syscalls"].as_array_mut() else { continue };
            calls.retain(|rule| !group.calls.contains(&rule["names"][0].as_str().unwrap()));
            continue;
        }
        if let Removal::Spec(edit) = find(name).removal {
            edit(spec);
        }
    }
}

/// Takes protections away from the request for a dyno.
pub fn alter_request(removed: &[String], spec: &mut DynoSpec) {
    for name in removed.iter().filter(|name| group_of(name).is_none()) {
        if let Removal::Request(edit) = find(name).removal {
            edit(spec);
        }
    }
}

/// Those of the protections that are taken from the whole node.
pub fn node_removals(removed: &[String]) -> Vec<NodeRemoval> {
    let removal = |name: &String| match find(name).removal {
        Removal::Node(removal) => Some(removal),
        _ => None,
    };
    removed.iter().filter(|name| group_of(name).is_none()).filter_map(removal).collect()
}

/// Every rule of the packet filter that drops has a protection, but for those that say here why not.
pub fn check_rules(comments: &[String]) {
    // The bridge has no IPv6, and dynos have no address but link-local ones: nothing of it could be forwarded.
    const SPARE: &[&str] = &["no IPv6"];
    for comment in comments.iter().filter(|comment| !SPARE.contains(&comment.as_str())) {
        let name = format!("filter: {comment}");
        assert!(PROTECTIONS.iter().any(|known| known.name == name), "no protection {name:?}");
    }
}

/// Every namespace, limit and mount option of a dyno's OCI spec that is there for its safety has a protection.
pub fn check_spec(spec: &Value) {
    let namespaces = spec["linux"]["namespaces"].as_array().unwrap();
    for kind in namespaces.iter().map(|namespace| namespace["type"].as_str().unwrap()) {
        let name =
            if kind == "mount" { "root folder of its own".to_owned() } else { format!("{kind} namespace") };
        assert!(PROTECTIONS.iter().any(|known| known.name == name), "no protection {name:?}");
    }
    let known = ["RLIMIT_NOFILE", "RLIMIT_CORE"];
    for limit in spec["process"]["rlimits"].as_array().unwrap() {
        assert!(known.contains(&limit["type"].as_str().unwrap()), "{limit}: no case of it");
    }
    let sets = spec["process"]["capabilities"].as_object().unwrap();
    assert!(sets.values().all(|set| set.as_array().is_none_or(Vec::is_empty)), "{sets:?}");
}

/// Every protection there is: those above, and each group of the seccomp profile.
pub fn names() -> Vec<String> {
    let groups = seccomp::GROUPS.iter().map(|group| format!("{SECCOMP}{}", group.name));
    PROTECTIONS.iter().map(|protection| protection.name.to_owned()).chain(groups).collect()
}

/// Whether it is a group of system calls that the profile denies.
pub fn is_filter_group(name: &str) -> bool {
    group_of(name).is_some()
}

fn group(name: &str) -> Option<&'static seccomp::Group> {
    seccomp::GROUPS.iter().find(|group| group.name == name)
}

fn group_of(name: &str) -> Option<&'static seccomp::Group> {
    name.strip_prefix(SECCOMP).and_then(group)
}

fn find(name: &str) -> &'static Protection {
    PROTECTIONS.iter().find(|known| known.name == name).unwrap_or_else(|| panic!("no protection {name:?}"))
}

fn drop_namespace(spec: &mut Value, kind: &str) {
    spec["linux"]["namespaces"].as_array_mut().unwrap().retain(|namespace| namespace["type"] != kind);
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("/sbin/ip").args(arguments).output().expect("ip runs");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn drop_option(spec: &mut Value, target: &str, option: &str) {
    let mounts = spec["mounts"].as_array_mut().unwrap();
    let mount = mounts.iter_mut().find(|mount| mount["destination"] == target).expect("it is mounted");
    let options = mount["options"].as_array_mut().unwrap();
    let before = options.len();
    options.retain(|known| !known.as_str().unwrap().starts_with(option));
    assert_eq!(options.len() + 1, before, "{target} has the option {option}");
}

/// Mounts something at a place, instead of what is mounted there.
fn mount_at(spec: &mut Value, target: &str, mut mount: Value) {
    mount["destination"] = target.into();
    let mounts = spec["mounts"].as_array_mut().unwrap();
    match mounts.iter_mut().find(|known| known["destination"] == target) {
        Some(known) => *known = mount,
        None => mounts.push(mount),
    }
}

fn host_network() -> String {
    // argv: dyno-create RUN_FOLDER ROOT; the run folder is DATA/run/dynos/ID.
    let run_folder = std::env::args().nth(1).expect("a run folder");
    let data = Path::new(&run_folder).ancestors().nth(3).expect("a data folder");
    fs::read_to_string(data.join(HOST_NETWORK)).expect("the test wrote it")
}
