//! Where a rank computes: on the processor, or on a GPU.

use configs::{Backend, Run};
use tch::{Cuda, Device, Tensor};

use crate::TrainerError;

/// The device that trains a run: with `cluster.backend: nccl` the GPU that has the rank's number on its host, else the
/// processor.
///
/// # Errors
/// [`TrainerError::NoGpu`] when the rank's GPU is not there.
pub fn of_training(run: &Run, local_rank: usize) -> Result<Device, TrainerError> {
    match run.cluster.backend {
        Backend::Nccl => gpu(local_rank),
        Backend::Mpi | Backend::Single => Ok(Device::Cpu),
    }
}

/// The device that uses what a run has trained: the first GPU where the run was trained on GPUs and one is here, else the
/// processor.
pub fn of_use(run: &Run) -> Device {
    of_training(run, 0).unwrap_or(Device::Cpu)
}

/// The GPU with this number.
///
/// # Errors
/// [`TrainerError::NoGpu`] when it is not there.
pub fn gpu(number: usize) -> Result<Device, TrainerError> {
    // As long as libtorch's CUDA part is not loaded, it counts none.
    let there = usize::try_from(Cuda::device_count()).unwrap_or(0);
    if number >= there {
        return Err(TrainerError::NoGpu { number, there });
    }
    Ok(Device::Cuda(number))
}

/// Returns when the device has done what it was given; a processor has when a call returns.
pub fn wait_for(device: Device) {
    if let Device::Cuda(number) = device {
        Cuda::synchronize(number as i64);
    }
}

/// A copy on a device, made without waiting for what the device was given before. Small tensors of the processor are kept
/// for it by the driver.
pub fn upload(x: &Tensor, device: Device) -> Tensor {
    x.to_device_(device, x.kind(), true, false)
}

/// Text for reports: `cpu`, or `cuda:` with a number.
pub fn name(device: Device) -> String {
    match device {
        Device::Cuda(number) => format!("cuda:{number}"),
        _ => "cpu".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_with_advice() {
        let error = gpu(4096).unwrap_err().to_string();
        assert!(error.contains("GPU 4096") && error.contains("self-check"), "{error}");
    }

    #[test]
    fn processors_serve_all_other_back_ends() {
        let text = configs::preset("tiny").unwrap();
        let run = configs::load_str("tiny.yaml", text, &configs::Overrides::default()).unwrap();
        assert_eq!((of_training(&run, 3).unwrap(), of_use(&run)), (Device::Cpu, Device::Cpu));
    }
}
