//! What memory this process takes.

use tch::Device;

use crate::shim;

/// Bytes of a line of `/proc/self/status`, as `VmRSS:` (resident now) or `VmHWM:` (the most so far).
pub(crate) fn of_process(line: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let found = status.lines().find(|text| text.starts_with(line))?;
    Some(found.split_whitespace().nth(1)?.parse::<u64>().ok()? << 10)
}

/// What metrics tell of the rank that writes them, in MiB: what it holds of its heap, what is resident, and what its tensors
/// hold of its GPU.
pub(crate) fn metrics(device: Device) -> impl Iterator<Item = (String, f64)> {
    let in_use = Some(shim::memory_in_use()).filter(|bytes| *bytes > 0);
    let gpu = match device {
        Device::Cuda(number) => shim::gpu_memory(number, false).ok(),
        _ => None,
    };
    let values = [
        ("heap_in_use_mib", in_use),
        ("resident_mib", of_process("VmRSS:")),
        ("gpu_in_use_mib", gpu.map(|gpu| gpu.now)),
        ("gpu_peak_mib", gpu.map(|gpu| gpu.peak)),
    ];
    values.into_iter().filter_map(|(name, bytes)| Some((name.to_owned(), bytes? as f64 / f64::from(1 << 20))))
}
