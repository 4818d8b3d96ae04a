"""Loads a model that `blip2 weights export` wrote into transformers, and compares scores and texts.

    .deps/python-bench/bin/python tests/peers/hf_round_trip.py EXPORTED OVERRIDES.json

EXPORTED is the folder, OVERRIDES.json the list of overrides of the tiny preset that the model was trained with. Exits with 1 when
a key is missing or unexpected, when logits differ by more than 1e-4, or when a beam search with 5 beams writes another token.
"""

import json
import sys
import tempfile

import torch
from transformers import Blip2ForConditionalGeneration

from hugging_face import answers, generate, with_placeholders

END, START = 6, 2


def main():
    weights, overrides = sys.argv[1], json.load(open(sys.argv[2], encoding="utf-8"))
    torch.manual_seed(0)
    model, loaded = Blip2ForConditionalGeneration.from_pretrained(weights, output_loading_info=True, dtype=torch.float32)
    model.eval()
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loaded[kind]:
            sys.exit(f"{kind}: {sorted(loaded[kind])}")
    side = model.config.vision_config.image_size
    pixels = torch.randn(5, 3, side, side)
    ids = torch.tensor([[START, 9, 10, 11]] * 5)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        settings = dict(end=END, beams=5, max_tokens=16, min_tokens=0, threads=2, repeat=1)
        logits, _, _ = answers(folder, weights, overrides, pixels, ids, **settings)
        whole, mask = with_placeholders(model, ids)
        expected = model(pixel_values=pixels, input_ids=whole, attention_mask=mask).logits[:, -ids.shape[1]:]
        difference = (logits - expected).abs().max().item()
        start = ids[:, :1]
        _, tokens, _ = answers(folder, weights, overrides, pixels, start, **settings)
        texts = generate(model, pixels, start, END, 5, 16, 0)
    print(f"logits differ by {difference:.2e}; texts: {[[t for t in row if t >= 0] for row in texts.tolist()]}")
    if difference > 1e-4:
        sys.exit(f"logits differ by {difference:.2e}, more than 1e-4")
    if not torch.equal(tokens, texts):
        sys.exit(f"texts differ: {tokens.tolist()}, transformers writes {texts.tolist()}")


if __name__ == "__main__":
    main()
