//! GPUs that plans are made for: what their data sheets promise.
//!
//! Rates are dense ones, without the sparsity that doubles them on paper. Sources stand in docs/planning.md.

use crate::model::Dtype;

/// What one GPU promises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gpu {
    /// What the command line calls it.
    pub name: &'static str,
    /// What people call it.
    pub title: &'static str,
    /// 10^12 floating-point operations per second of dense matrix products in bf16, added up in f32; in f16 where there is
    /// no bf16.
    pub bf16_tflops: f64,
    /// The 16-bit format that `bf16_tflops` is the rate of: bf16, but for GPUs that have f16 only.
    pub format: Dtype,
    /// Memory in bytes: the data sheet's gigabytes, of 10^9 bytes. The driver may report a little more.
    pub memory_bytes: u64,
    /// 10^9 bytes per second between memory and processors.
    pub memory_gb_per_s: f64,
    /// 10^9 bytes per second that it can receive from GPUs of the same machine, over NVLink where it has that, else over
    /// PCIe.
    pub link_gb_per_s: f64,
    /// What the driver's name of it contains: all of these.
    driver: &'static [&'static str],
    /// What the driver's name of it must not contain.
    driver_without: &'static [&'static str],
}

const GB: u64 = 1_000_000_000;

impl Gpu {
    /// All that are known, in the order in which messages list them.
    pub const ALL: &[Gpu] = &[
        Gpu {
            name: "v100",
            title: "V100 SXM2 32 GB (f16)",
            bf16_tflops: 125.0,
            format: Dtype::F16,
            memory_bytes: 32 * GB,
            memory_gb_per_s: 900.0,
            link_gb_per_s: 150.0,
            driver: &["V100", "32GB"],
            driver_without: &[],
        },
        Gpu {
            name: "a100-40gb",
            title: "A100 SXM 40 GB",
            bf16_tflops: 312.0,
            format: Dtype::Bf16,
            memory_bytes: 40 * GB,
            memory_gb_per_s: 1555.0,
            link_gb_per_s: 300.0,
            driver: &["A100", "40GB"],
            driver_without: &["PCIE"],
        },
        Gpu {
            name: "a100",
            title: "A100 SXM 80 GB",
            bf16_tflops: 312.0,
            format: Dtype::Bf16,
            memory_bytes: 80 * GB,
            memory_gb_per_s: 2039.0,
            link_gb_per_s: 300.0,
            driver: &["A100", "80GB"],
            driver_without: &["PCIE"],
        },
        Gpu {
            name: "l40s",
            title: "L40S",
            bf16_tflops: 362.0,
            format: Dtype::Bf16,
            memory_bytes: 48 * GB,
            memory_gb_per_s: 864.0,
            link_gb_per_s: 32.0,
            driver: &["L40S"],
            driver_without: &[],
        },
        Gpu {
            name: "h100-pcie",
            title: "H100 PCIe 80 GB",
            bf16_tflops: 756.0,
            format: Dtype::Bf16,
            memory_bytes: 80 * GB,
            memory_gb_per_s: 2000.0,
            link_gb_per_s: 64.0,
            driver: &["H100", "PCIE"],
            driver_without: &[],
        },
        Gpu {
            name: "h100",
            title: "H100 SXM 80 GB",
            bf16_tflops: 989.4,
            format: Dtype::Bf16,
            memory_bytes: 80 * GB,
            memory_gb_per_s: 3350.0,
            link_gb_per_s: 450.0,
            driver: &["H100", "80GB HBM3"],
            driver_without: &["PCIE", "NVL"],
        },
        Gpu {
            name: "h200",
            title: "H200 SXM 141 GB",
            bf16_tflops: 989.4,
            format: Dtype::Bf16,
            memory_bytes: 141 * GB,
            memory_gb_per_s: 4800.0,
            link_gb_per_s: 450.0,
            driver: &["H200"],
            driver_without: &["NVL", "GH200"],
        },
    ];

    /// The GPU that the command line calls so; capital letters do not matter.
    pub fn named(name: &str) -> Option<&'static Gpu> {
        Self::ALL.iter().find(|gpu| gpu.name.eq_ignore_ascii_case(name))
    }

    /// The GPU that the driver calls so, as `nvidia-smi` prints it: `NVIDIA H100 80GB HBM3`.
    pub fn of_driver(name: &str) -> Option<&'static Gpu> {
        let name = name.to_uppercase();
        let is = |gpu: &&Gpu| {
            gpu.driver.iter().all(|part| name.contains(part))
                && !gpu.driver_without.iter().any(|part| name.contains(part))
        };
        Self::ALL.iter().find(is)
    }

    /// The names of all, for messages.
    pub fn names() -> String {
        Self::ALL.iter().map(|gpu| gpu.name).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_names_are_known() {
        for (driver, name) in [
            ("NVIDIA H100 80GB HBM3", Some("h100")),
            ("NVIDIA H100 PCIe", Some("h100-pcie")),
            ("NVIDIA H200", Some("h200")),
            ("NVIDIA A100-SXM4-80GB", Some("a100")),
            ("NVIDIA A100-SXM4-40GB", Some("a100-40gb")),
            ("NVIDIA L40S", Some("l40s")),
            ("Tesla V100-SXM2-32GB", Some("v100")),
            ("NVIDIA A100 80GB PCIe", None),
            ("NVIDIA H100 NVL", None),
            ("NVIDIA GeForce RTX 4090", None),
        ] {
            assert_eq!(Gpu::of_driver(driver).map(|gpu| gpu.name), name, "{driver}");
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        for gpu in Gpu::ALL {
            assert_eq!(Gpu::named(&gpu.name.to_uppercase()), Some(gpu));
            assert_eq!(Gpu::ALL.iter().filter(|other| other.name == gpu.name).count(), 1);
        }
        assert_eq!(Gpu::named("abacus"), None);
        assert!(Gpu::names().contains("h100-pcie, h100, h200"));
    }
}
