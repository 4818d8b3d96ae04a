//! An integration test that uses libtorch starts without LD_LIBRARY_PATH.

use tch::{Kind, Tensor};

#[test]
fn libtorch_computes_in_an_integration_test() {
    assert!(trainer::libraries::torch_folder().is_some());
    assert_eq!(Tensor::ones([2, 3], (Kind::Float, tch::Device::Cpu)).sum(Kind::Float).double_value(&[]), 6.0);
}
