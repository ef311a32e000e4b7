//! What the process has asked of the system, from `/proc/self/status`.

/// Peak of the address space in bytes: also memory that was allocated and never touched, as a believed length field leaves it. Zero
/// where the system does not tell.
pub(crate) fn peak() -> u64 {
    field("VmPeak:")
}

/// Memory in use, in bytes.
pub(crate) fn resident() -> u64 {
    field("VmRSS:")
}

fn field(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next()).and_then(|word| word.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
