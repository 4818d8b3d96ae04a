//! Image encoders of both families against LAVIS, and positions fitted to other image sizes.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise and says what it saw")]

mod reference;

use configs::{Attention, ImageBlock, ImageSizes};
use serde_json::Value;
use tch::Tensor;
use trainer::frozen::IMAGE_ENCODER;
use trainer::model::Tensors;
use trainer::model::image_tower::{ImageTower, fit_positions};

use reference::{Fixture, assert_near};

/// The fixtures' tolerance.
const TOLERANCE: f64 = 1e-5;

fn size(value: &Value, key: &str) -> usize {
    value[key].as_u64().unwrap() as usize
}

#[test]
fn the_eva_tower_equals_lavis_at_two_image_sizes() {
    let Some(fixture) = Fixture::open("vit") else { return };
    let eva = &fixture.json("expected.json")["eva"];
    let sizes = ImageSizes {
        block: ImageBlock::EvaClip,
        patch_size: size(eva, "patch_size"),
        width: size(eva, "embed_dim"),
        depth: size(eva, "depth"),
        heads: size(eva, "num_heads"),
        mlp_dim: size(eva, "mlp_hidden"),
    };
    let io = fixture.tensors("eva_io.safetensors");
    for (image_size, image, output) in
        [("image_size", "image", "output"), ("larger_image_size", "image_larger", "output_larger")]
    {
        let image_size = size(eva, image_size);
        let mut weights = fixture.public_tower("eva_weights.safetensors");
        fit_positions(&mut weights, IMAGE_ENCODER, sizes, image_size).unwrap();
        for kernel in [Attention::Math, Attention::Flash] {
            let tower = ImageTower::new(&weights.scope(IMAGE_ENCODER), sizes, image_size, kernel).unwrap();
            assert_near(output, &tower.forward(io.get(image).unwrap()), io.get(output).unwrap(), TOLERANCE);
        }
        if image == "image_larger" {
            let positions = weights.get("vision_model.embeddings.position_embedding").unwrap();
            assert_near("positions", positions, io.get("pos_embed_larger").unwrap(), TOLERANCE);
        }
    }
}

#[test]
fn the_clip_tower_equals_lavis() {
    let Some(fixture) = Fixture::open("vit") else { return };
    let clip = &fixture.json("expected.json")["clip"];
    let (weights, io) = (fixture.tensors("clip_weights.safetensors"), fixture.tensors("clip_io.safetensors"));
    let sizes = ImageSizes {
        block: ImageBlock::Clip,
        patch_size: size(clip, "patch_size"),
        width: size(clip, "width"),
        // The last layer is not built.
        depth: size(clip, "layers") - 1,
        heads: size(clip, "heads"),
        mlp_dim: 4 * size(clip, "width"),
    };
    for kernel in [Attention::Math, Attention::Flash] {
        let tower = ImageTower::new(&weights.scope(""), sizes, size(clip, "image_size"), kernel).unwrap();
        assert_near("output", &tower.forward(io.get("image").unwrap()), io.get("output").unwrap(), TOLERANCE);
    }
}

#[test]
fn positions_of_other_sizes_equal_lavis() {
    let Some(fixture) = Fixture::open("pos_embed") else { return };
    let io = fixture.tensors("io.safetensors");
    let patch_size = size(&fixture.json("expected.json"), "patch");
    for (key, expected) in io.iter() {
        let (family, side) = key.split_once('_').unwrap();
        let (block, name) = match family {
            "eva" => (ImageBlock::EvaClip, "vision_model.embeddings.position_embedding"),
            _ => (ImageBlock::Clip, "vision_model.positional_embedding"),
        };
        // The trained size of both published towers.
        let start = io.get(&format!("{family}_224")).unwrap().shallow_clone();
        let width = *start.size().last().unwrap() as usize;
        let sizes = ImageSizes { block, patch_size, width, depth: 1, heads: 1, mlp_dim: 1 };
        let mut weights: Tensors = [(name.to_owned(), start)].into_iter().collect();
        fit_positions(&mut weights, IMAGE_ENCODER, sizes, side.parse().unwrap()).unwrap();
        assert_near(key, weights.get(name).unwrap(), expected, TOLERANCE);
    }
    assert!(io.len() >= 4);
}

#[test]
fn positions_without_a_grid_are_refused() {
    let name = "vision_model.positional_embedding".to_owned();
    let zeros = Tensor::zeros([12, 24], (tch::Kind::Float, tch::Device::Cpu));
    let mut weights: Tensors = [(name, zeros)].into_iter().collect();
    let sizes = ImageSizes { block: ImageBlock::Clip, patch_size: 14, width: 24, depth: 1, heads: 1, mlp_dim: 1 };
    let error = fit_positions(&mut weights, IMAGE_ENCODER, sizes, 224).unwrap_err().to_string();
    assert!(error.contains("[12, 24]") && error.contains("[257, 24]"), "{error}");
}
