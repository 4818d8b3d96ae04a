"""What the Python checks against transformers share: running `examples/answers`, and transformers on the same input."""

import json
import os
import subprocess
import sys

import torch
from safetensors.torch import load_file, save_file

HERE = os.path.dirname(os.path.abspath(__file__))
ANSWERS = os.path.join(HERE, "../../target/release/examples/answers")
# As `blip2` starts its ranks (launcher/src/ranks/plan.rs).
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(4 << 30), "MALLOC_TOP_PAD_": str(64 << 20)}


def answers(folder, weights, overrides, pixels, ids, **settings):
    """Our logits, tokens and seconds for a model in a folder of Hugging Face's."""
    files = {key: os.path.join(folder, f"{key}.safetensors") for key in ("input", "output")}
    save_file({"pixel_values": pixels.contiguous(), "input_ids": ids.contiguous()}, files["input"])
    path = os.path.join(folder, "settings.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(dict(settings, weights=weights, set=overrides, **files), file)
    done = subprocess.run([ANSWERS, path], capture_output=True, text=True, check=False, env={**os.environ, **MEMORY})
    if done.returncode != 0:
        sys.exit(f"{ANSWERS} failed with {done.returncode}:\n{done.stdout}{done.stderr}")
    found = load_file(files["output"])
    return found["logits"], found["tokens"], json.loads(done.stdout)["seconds"]


def with_placeholders(model, ids):
    """The text behind the places of the queries, and its mask."""
    queries = torch.full((ids.shape[0], model.config.num_query_tokens), model.config.image_token_index)
    ids = torch.cat([queries, ids], 1)
    return ids, torch.ones_like(ids)


def generate(model, pixels, ids, end, beams, max_tokens, min_tokens):
    """transformers' tokens behind the text, -1 behind the end."""
    whole, mask = with_placeholders(model, ids)
    found = model.generate(pixel_values=pixels, input_ids=whole, attention_mask=mask, num_beams=beams, do_sample=False,
                           max_new_tokens=max_tokens, min_new_tokens=min_tokens, eos_token_id=end, pad_token_id=1)
    tokens = torch.full((ids.shape[0], max_tokens), -1)
    for row, text in enumerate(found[:, whole.shape[1]:].tolist()):
        text = text[:text.index(end)] if end in text else text
        tokens[row, :len(text)] = torch.tensor(text, dtype=torch.long)
    return tokens
