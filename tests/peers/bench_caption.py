"""Races captions by beam search against transformers' `generate`: the same weights, images and settings, in turn.

    .deps/python-bench/bin/python tests/peers/bench_caption.py --json docs/benchmarks/caption.json

Two sizes, `tiny` and `mid` (tower 12 x 384, Q-Former 6 x 384, OPT 6 x 512, 224 pixels), random weights in f32, 8 images, 5 beams, 30
tokens for every text, 2 threads on both sides. A pair is one process of ours, which reads the folder that transformers wrote, and three calls of
`generate`; both have warmed up, and the median of three counts. Everything from pixels to tokens is timed. Both must write the same tokens.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time

import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration

from hugging_face import answers, generate
from racing import processor

# LAVIS writes captions of at most 30 tokens with 5 beams.
IMAGES, BEAMS, TOKENS, END, START = 8, 5, 30, 6, 2
#        image, patch; width, depth, heads, mlp;  Q-Former: width, depth, heads, mlp, queries;  OPT: width, depth, heads, words
SIZES = {"tiny": (112, 14, (128, 4, 2, 512), (128, 4, 2, 512, 16), (128, 2, 2, 2000)),
         "mid": (224, 14, (384, 12, 6, 1536), (384, 6, 6, 1536, 32), (512, 6, 8, 50272))}


def build(sizes):
    """transformers' model with random weights, and the overrides of the tiny preset that give it the same sizes here."""
    image, patch, (width, depth, heads, mlp), (hidden, layers, q_heads, q_mlp, queries), (lm, lm_depth, lm_heads, words) = sizes
    config = Blip2Config(
        vision_config=dict(hidden_size=width, intermediate_size=mlp, num_hidden_layers=depth, num_attention_heads=heads, image_size=image,
                           patch_size=patch, layer_norm_eps=1e-6, initializer_range=0.02),
        qformer_config=dict(hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=q_heads, intermediate_size=q_mlp,
                            encoder_hidden_size=width, vocab_size=100, max_position_embeddings=40),
        text_config=dict(model_type="opt", hidden_size=lm, word_embed_proj_dim=lm, num_hidden_layers=lm_depth, num_attention_heads=lm_heads,
                         ffn_dim=4 * lm, vocab_size=words, max_position_embeddings=256, pad_token_id=1, bos_token_id=2, eos_token_id=2),
        num_query_tokens=queries, image_token_index=words - 1)
    torch.manual_seed(0)
    model = Blip2ForConditionalGeneration(config).eval()
    with torch.no_grad():
        # Starting values are so small that every text would be the same; these are not.
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(2.0)
    names = dict(image_size=image, patch_size=patch, width=width, depth=depth, heads=heads, mlp_dim=mlp, dtype="f32")
    overrides = [f"model.image_encoder.{key}={value}" for key, value in names.items()] + [f"data.image_size={image}"]
    names = dict(hidden_dim=hidden, depth=layers, heads=q_heads, mlp_dim=q_mlp, num_query_tokens=queries, cross_attention_every=2,
                 dtype="f32", image_norm_eps=1e-6, dropout=0.0)
    overrides += [f"model.qformer.{key}={value}" for key, value in names.items()]
    names = dict(hidden_dim=lm, depth=lm_depth, heads=lm_heads, mlp_dim=4 * lm, vocab_size=words, max_positions=256, dtype="f32")
    return model, overrides + [f"model.language_model.{key}={value}" for key, value in names.items()]


def race(name, args):
    """A row of the result."""
    model, overrides = build(SIZES[name])
    pixels = torch.randn(IMAGES, 3, SIZES[name][0], SIZES[name][0])
    ids = torch.full((IMAGES, 1), START)
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        weights = f"{folder}/model"
        model.save_pretrained(weights)
        theirs_tokens = generate(model, pixels, ids, END, BEAMS, TOKENS, TOKENS)
        for _ in range(args.pairs):
            settings = dict(end=END, beams=BEAMS, max_tokens=TOKENS, min_tokens=TOKENS, threads=args.threads, repeat=4)
            _, tokens, seconds = answers(folder, weights, overrides, pixels, ids, **settings)
            ours.append(statistics.median(seconds[1:]))
            seconds = []
            for _ in range(3):
                began = time.perf_counter()
                generate(model, pixels, ids, END, BEAMS, TOKENS, TOKENS)
                seconds.append(time.perf_counter() - began)
            theirs.append(statistics.median(seconds))
    if not torch.equal(tokens, theirs_tokens):
        sys.exit(f"{name}: texts differ: {tokens.tolist()}, transformers writes {theirs_tokens.tolist()}")
    ratios = sorted(b / a for a, b in zip(ours, theirs))
    row = {"name": f"captions, {name}", "peer_name": "transformers", "unit": "images/s", "ours": IMAGES / statistics.median(ours),
           "peer": IMAGES / statistics.median(theirs), "ratio_median": statistics.median(ratios), "ratio_interval": [ratios[0], ratios[-1]],
           "pairs": args.pairs}
    print(f"{row['name']:<16} vs transformers  {row['ours']:7.2f} / {row['peer']:6.2f} images/s, ratio {row['ratio_median']:.2f} "
          f"({ratios[0]:.2f}-{ratios[-1]:.2f}, {args.pairs} pairs), same tokens", flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", metavar="OUT")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = [race(name, args) for name in SIZES]
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"schema_version": 1, "command": "tests/peers/bench_caption.py", "machine": processor(), "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
