"""A tiny random CLIP of transformers with what it makes of images and texts, and a check of similarities against it.

    .deps/python-bench/bin/python tests/peers/clip_similarity.py record FOLDER [SEED]
    .deps/python-bench/bin/python tests/peers/clip_similarity.py check FOLDER ROWS.json

`record` writes weights and tokenizer as Hugging Face lays them out, `io.safetensors` and `expected.json`. `check` reads rows of
`{"image": FILE, "texts": [...], "similarities": [...]}`, best first, as `blip2 data filter` kept them, with `candidates`, all texts
that competed; it exits with 1 when a similarity is off by more than 1e-5, or when another text is as good as a kept one and better
by more than that.
"""

import json
import pathlib
import sys

import numpy
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

IMAGES = pathlib.Path(__file__).parent.parent / "fixtures" / "preprocess"
FILES = ["gradient.jpg", "rgba.png", "tall.jpg"]
START, END = "<|startoftext|>", "<|endoftext|>"
MEAN = [0.48145466, 0.4578275, 0.40821073]
STD = [0.26862954, 0.26130258, 0.27577711]
TEXTS = [
    "a photo of a red circle",
    "A Photo  of a BLUE square, isn't it?",
    "no. 5: 12 cats & 3 dogs (outside)!",
    "übergrößen \u00e9t\u00e9 日本語 cafe\u0301",
    "",
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen",
]


def write_tokenizer(folder):
    """Bytes, bytes that end a word, and some merges: the form of OpenAI's list."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=600, end_of_word_suffix="</w>", initial_alphabet=alphabet, show_progress=False)
    learner.train_from_iterator([text.lower() for text in TEXTS[:1] + TEXTS[-1:]] * 3, trainer)
    learned = json.loads(learner.to_str())["model"]["merges"]
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in learned][:80]
    tokens = alphabet + [letter + "</w>" for letter in alphabet] + ["".join(merge) for merge in merges] + [START, END]
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2"] + [" ".join(merge) for merge in merges]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return vocabulary


def random_model(vocabulary, seed):
    both = dict(num_hidden_layers=2, hidden_act="quick_gelu")
    text = dict(both, vocab_size=len(vocabulary), hidden_size=16, intermediate_size=64, num_attention_heads=2)
    text |= dict(max_position_embeddings=16, eos_token_id=vocabulary[END], bos_token_id=vocabulary[START])
    vision = dict(both, hidden_size=32, intermediate_size=64, num_attention_heads=4, image_size=32, patch_size=8)
    config = CLIPConfig(text_config=dict(text, pad_token_id=vocabulary[END]), vision_config=vision, projection_dim=24)
    model = CLIPModel(config).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            norm = "norm" in name or "layrnorm" in name
            value = torch.randn_like(weight) * 0.2 + (1.0 if norm and name.endswith("weight") else 0.0)
            # Kept in f16, to keep the file small, and computed with in f32.
            weight.copy_(value.half().float())
    return model


def load(folder):
    model = CLIPModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    return model, CLIPTokenizer.from_pretrained(folder)


def pixels(file, side):
    """CLIPImageProcessor on Pillow: the shorter side resized, the middle square, normalised."""
    image = Image.open(file).convert("RGB")
    width, height = image.size
    short, long = min(width, height), max(width, height)
    longer = int(side * long / short)
    image = image.resize((side, longer) if width <= height else (longer, side), Image.Resampling.BICUBIC)
    width, height = image.size
    left, top = (width - side) // 2, (height - side) // 2
    values = torch.tensor(numpy.array(image.crop((left, top, left + side, top + side)))).float() / 255
    return ((values - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)


def features(model, tokenizer, images, texts):
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=model.config.text_config.max_position_embeddings)
    ids, mask = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["attention_mask"])
    with torch.no_grad():
        answer = model(input_ids=ids, attention_mask=mask, pixel_values=images)
    return answer.image_embeds, answer.text_embeds, ids, mask


def record(folder, seed):
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder)
    model = random_model(vocabulary, seed)
    model.config.save_pretrained(folder)
    state = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    model, tokenizer = load(folder)
    images = torch.stack([pixels(IMAGES / name, 32) for name in FILES])
    image, text, ids, mask = features(model, tokenizer, images, TEXTS)
    recorded = dict(pixels=images, image_features=image, text_features=text, ids=ids, mask=mask)
    save_file({name: tensor.contiguous() for name, tensor in recorded.items()}, folder / "io.safetensors")
    similarity = image @ text.T
    expected = dict(images=FILES, texts=TEXTS, similarity=similarity.tolist())
    expected["ranking"] = similarity.argsort(dim=1, descending=True).tolist()
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def check(folder, rows):
    model, tokenizer = load(folder)
    worst, kept = 0.0, 0
    for row in json.loads(pathlib.Path(rows).read_text(encoding="utf-8")):
        image = pixels(row["image"], model.config.vision_config.image_size)[None]
        image, text, _, _ = features(model, tokenizer, image, row["candidates"])
        expected = dict(zip(row["candidates"], (image @ text.T)[0].tolist()))
        for candidate, similarity in zip(row["texts"], row["similarities"]):
            worst = max(worst, abs(expected[candidate] - similarity))
        ranked = sorted(expected.values(), reverse=True)[: len(row["texts"])]
        worst = max([worst] + [abs(a - b) for a, b in zip(ranked, row["similarities"])])
        kept += len(row["texts"])
    print(f"{kept} similarities differ by {worst:.1e} at most")
    if kept == 0 or worst > 1e-5:
        sys.exit(f"{kept} similarities differ by {worst:.1e}, more than 1e-5")


def main():
    if sys.argv[1] == "record":
        record(pathlib.Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
    else:
        check(sys.argv[2], sys.argv[3])


if __name__ == "__main__":
    main()
