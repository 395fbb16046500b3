//! The table of dyno sizes: what each gives and which limits it sets.
//!
//! Source: Heroku's "Dyno Types" article and the table in its API; memory and
//! process limits follow it, the writable layer's size is ours.

/// A dyno size. Names are compared without regard to case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DynoSize {
    /// API name, lower-case: `standard-1x`.
    pub name: &'static str,
    /// As the API prints it: `Standard-1X`.
    pub display_name: &'static str,
    pub memory_bytes: u64,
    /// Relative share of the processor: cgroup v1 `cpu.shares`, mapped for v2.
    pub cpu_shares: u32,
    /// Processes and threads.
    pub pids: u32,
    /// Size of the dyno's writable layer.
    pub disk_bytes: u64,
    /// Heroku's "compute" figure, for the API.
    pub compute: u32,
    pub dedicated: bool,
    /// Most dynos of one process type. Heroku gives basic one; a node of one's own has no reason to.
    pub max_quantity: u32,
}

const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * MIB;

/// Every size, smallest first.
pub const DYNO_SIZES: &[DynoSize] = &[
    DynoSize {
        name: "eco",
        display_name: "Eco",
        memory_bytes: 512 * MIB,
        cpu_shares: 256,
        pids: 256,
        disk_bytes: 2 * GIB,
        compute: 1,
        dedicated: false,
        max_quantity: 1,
    },
    DynoSize {
        name: "basic",
        display_name: "Basic",
        memory_bytes: 512 * MIB,
        cpu_shares: 256,
        pids: 256,
        disk_bytes: 2 * GIB,
        compute: 1,
        dedicated: false,
        max_quantity: 100,
    },
    DynoSize {
        name: "standard-1x",
        display_name: "Standard-1X",
        memory_bytes: 512 * MIB,
        cpu_shares: 256,
        pids: 256,
        disk_bytes: 2 * GIB,
        compute: 1,
        dedicated: false,
        max_quantity: 100,
    },
    DynoSize {
        name: "standard-2x",
        display_name: "Standard-2X",
        memory_bytes: GIB,
        cpu_shares: 512,
        pids: 512,
        disk_bytes: 2 * GIB,
        compute: 2,
        dedicated: false,
        max_quantity: 100,
    },
    DynoSize {
        name: "performance-m",
        display_name: "Performance-M",
        memory_bytes: 2560 * MIB,
        cpu_shares: 3072,
        pids: 16384,
        disk_bytes: 4 * GIB,
        compute: 12,
        dedicated: true,
        max_quantity: 10,
    },
    DynoSize {
        name: "performance-l",
        display_name: "Performance-L",
        memory_bytes: 14 * GIB,
        cpu_shares: 12800,
        pids: 32768,
        disk_bytes: 4 * GIB,
        compute: 50,
        dedicated: true,
        max_quantity: 10,
    },
];

/// The size of an app's process types until it chooses another.
pub const DEFAULT_DYNO_SIZE: &str = "basic";

/// Whether an app whose web dynos are of this size sleeps when nobody asks for it.
pub fn sleeps(name: &str) -> bool {
    name.eq_ignore_ascii_case("eco")
}

/// The size with this name, whatever its case.
pub fn find(name: &str) -> Option<&'static DynoSize> {
    DYNO_SIZES.iter().find(|size| size.name.eq_ignore_ascii_case(name))
}
