"""Makes the small BMP, TIFF and (lossless) JPEG XL files of this folder, and `expected.txt`: the size and the SHA-256 of
the RGB pixels that Pillow 13 gives for each. Run it in this folder with Pillow 13, pillow-jxl-plugin 1.3 and numpy."""

import hashlib
import io
import struct
import zlib

import numpy as np
import pillow_jxl  # noqa: F401
from PIL import Image

W, H = 21, 13
rng = np.random.default_rng(1)
yy, xx = np.mgrid[0:H, 0:W]
RGB = np.stack([xx * 11 % 256, yy * 17 % 256, xx * yy % 256], -1).astype(np.uint8)
NOISE = rng.integers(0, 256, (H, W, 4), dtype=np.uint8)
files = {}


def pack(levels, bits):
    """Rows of indices as bits, most significant first, each row on a byte of its own."""
    rows = []
    for row in levels:
        text = "".join(format(int(v), f"0{bits}b") for v in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return rows


# ---- BMP


def bmp(name, bits, rows, *, header=40, compression=0, palette=b"", masks=(), height=None, colors=0, data=None, gap=0):
    height = H if height is None else height
    if data is None:
        order = rows if height < 0 else rows[::-1]
        data = b"".join(row + bytes(-len(row) % 4) for row in order)
    if header == 12:
        info = struct.pack("<IHHHH", 12, W, height, 1, bits)
    else:
        info = struct.pack("<IiiHHIIiiII", header, W, height, 1, bits, compression, len(data), 2835, 2835, colors, 0)
        mask_bytes = struct.pack(f"<{len(masks)}I", *masks)
        if header == 40:
            info += mask_bytes
        else:
            info += mask_bytes.ljust(header - 40, b"\0")[: header - 40]
    offset = 14 + len(info) + len(palette) + gap
    files[name + ".bmp"] = (
        struct.pack("<2sIHHI", b"BM", offset + len(data), 0, 0, offset) + info + palette + bytes(gap) + data
    )


def bmp_palette(n, size=4):
    return b"".join(bytes([(40 + i * 37) % 256, (90 + i * 91) % 256, (200 - i * 53) % 256]) + bytes(size - 3) for i in range(n))


idx = {bits: (xx * 3 + yy * 5) % (1 << bits) for bits in (1, 2, 4, 8)}
bmp("palette1", 1, pack(idx[1], 1), palette=bmp_palette(2))
bmp("palette4", 4, pack(idx[4], 4), palette=bmp_palette(16))
bmp("palette8", 8, pack(idx[8], 8), palette=bmp_palette(256))
bmp("palette8_short", 8, pack(idx[8] % 100, 8), palette=bmp_palette(100), colors=100)
bmp("palette8_beyond", 8, pack(idx[8], 8), palette=bmp_palette(20), colors=20)
gray = b"".join(bytes([i, i, i, 0]) for i in range(256))
bmp("gray8", 8, pack(idx[8], 8), palette=gray)
bmp("gray8_short", 8, pack(idx[8], 8), palette=gray[:80], colors=20)
bmp("black_white", 1, pack(idx[1], 1), palette=bytes([0, 0, 0, 0, 255, 255, 255, 0]))
bmp("white_black", 1, pack(idx[1], 1), palette=bytes([255, 255, 255, 0, 0, 0, 0, 0]))
rgb16 = rng.integers(0, 1 << 16, (H, W)).astype("<u2")
bmp("rgb555", 16, [r.tobytes() for r in rgb16])
bmp("rgb565", 16, [r.tobytes() for r in rgb16], compression=3, masks=(0xF800, 0x7E0, 0x1F))
bmp("rgb555_masks", 16, [r.tobytes() for r in rgb16], compression=3, masks=(0x7C00, 0x3E0, 0x1F))
bmp("rgb565_v5", 16, [r.tobytes() for r in rgb16], compression=3, masks=(0xF800, 0x7E0, 0x1F, 0), header=124)
rgb24 = [r[:, ::-1].tobytes() for r in NOISE[..., :3]]
bmp("rgb24", 24, rgb24)
bmp("rgb24_top_down", 24, rgb24, height=-H)
bmp("rgb24_gap", 24, rgb24, gap=10)
bmp("rgb24_v4", 24, rgb24, header=108)
bmp("rgb24_v5", 24, rgb24, header=124)
bmp("rgb24_os2_2", 24, rgb24, header=64)
bmp("rgb24_os2_1", 24, rgb24, header=12)
bmp("palette8_os2_1", 8, pack(idx[8], 8), palette=bmp_palette(256, 3), header=12)
bmp("palette4_os2_1", 4, pack(idx[4], 4), palette=bmp_palette(16, 3), header=12)
bmp("palette1_os2_1", 1, pack(idx[1], 1), palette=bmp_palette(2, 3), header=12)
rgb32 = [r.tobytes() for r in NOISE]
bmp("rgb32", 32, rgb32)
bmp("rgb32_top_down", 32, rgb32, height=-H)
for n, masks in enumerate([
    (0xFF0000, 0xFF00, 0xFF, 0x0),
    (0xFF000000, 0xFF0000, 0xFF00, 0x0),
    (0xFF000000, 0xFF00, 0xFF, 0x0),
    (0xFF000000, 0xFF0000, 0xFF00, 0xFF),
    (0xFF, 0xFF00, 0xFF0000, 0xFF000000),
    (0xFF0000, 0xFF00, 0xFF, 0xFF000000),
    (0xFF000000, 0xFF00, 0xFF, 0xFF0000),
    (0x0, 0x0, 0x0, 0x0),
]):
    bmp(f"rgb32_masks{n}", 32, rgb32, compression=3, masks=masks, header=[56, 108, 124][n % 3])
bmp("rgb32_masks_info", 32, rgb32, compression=3, masks=(0xFF0000, 0xFF00, 0xFF))


def rle8(levels, skip=False):
    out = b""
    for y, row in enumerate(levels[::-1]):
        row, x = list(row), 0
        while x < len(row):
            if skip and y in (3, 4) and x == 0:
                # Three pixels skipped, then two rows up at the end of row 4 below.
                out += bytes([0, 2, 3, 0])
                x += 3
                continue
            run = 1
            while x + run < len(row) and row[x + run] == row[x] and run < 255:
                run += 1
            if run > 1 or len(row) - x < 3:
                out += bytes([run, int(row[x])])
                x += run
            else:
                n = min(len(row) - x, 7)
                out += bytes([0, n]) + bytes(int(v) for v in row[x : x + n]) + bytes(n % 2)
                x += n
        out += b"\0\0"
    return out + b"\0\1"


steps = (xx // 4 + yy) % 200
mixed = np.where(yy % 2 == 0, steps, idx[8])
bmp("rle8", 8, None, compression=1, palette=bmp_palette(256), data=rle8(mixed))
bmp("rle8_skips", 8, None, compression=1, palette=bmp_palette(256), data=rle8(mixed, True))
bmp("rle8_gray", 8, None, compression=1, palette=gray, data=rle8(mixed))
bmp("rle8_short_rows", 8, None, compression=1, palette=bmp_palette(256), data=b"".join(bytes([9, y, 0, 0]) for y in range(H)) + b"\0\1")
bmp("rle8_long_runs", 8, None, compression=1, palette=bmp_palette(256), data=b"".join(bytes([40, y, 0, 0]) for y in range(H)) + b"\0\1")
bmp("rle8_top_down", 8, None, compression=1, palette=bmp_palette(256), data=rle8(mixed), height=-H)


def rle4(levels):
    out = b""
    for row in levels[::-1]:
        row = [int(v) for v in row]
        out += bytes([0, 7]) + bytes([row[0] << 4 | row[1], row[2] << 4 | row[3], row[4] << 4 | row[5], row[6] << 4])
        x = 7
        while x < len(row):
            n = min(2, len(row) - x)
            out += bytes([n, row[x] << 4 | row[min(x + 1, len(row) - 1)]])
            x += n
        out += b"\0\0"
    return out + b"\0\1"


bmp("rle4", 4, None, compression=2, palette=bmp_palette(16), data=rle4(idx[4]))

# ---- TIFF


def packbits(data):
    out, i = b"", 0
    while i < len(data):
        run = 1
        while i + run < len(data) and data[i + run] == data[i] and run < 128:
            run += 1
        if run > 2:
            out += bytes([257 - run, data[i]])
            i += run
        else:
            n = min(5, len(data) - i)
            out += bytes([n - 1]) + data[i : i + n]
            i += n
    return out + b"\x80"


COMPRESS = {1: bytes, 8: zlib.compress, 32946: zlib.compress, 32773: packbits}


def tiff(name, rows_of_planes, *, photo, bits, big=False, compression=1, strip=5, tile=None, planar=1, extra=(), tags={},
         bigtiff=False, chunks=None, fill=1, pages=1, size=(W, H)):
    """`rows_of_planes`: for each plane an array [H, W, bytes of a pixel] of bytes, or packed rows."""
    e = ">" if big else "<"
    w, h = size
    made = []
    for rows in rows_of_planes if chunks is None else []:
        if tile is None:
            groups = [b"".join(bytes(r) for r in rows[y : y + strip]) for y in range(0, h, strip)]
        else:
            tw, th = tile
            padded = np.zeros((-(-h // th) * th, -(-w // tw) * tw, rows.shape[2]), np.uint8) + 77
            padded[:h, :w] = rows
            groups = [
                padded[y : y + th, x : x + tw].tobytes()
                for y in range(0, padded.shape[0], th)
                for x in range(0, padded.shape[1], tw)
            ]
        made += [COMPRESS[compression](g) for g in groups]
    if chunks is not None:
        made = chunks
    if fill == 2:
        table = bytes(int(format(i, "08b")[::-1], 2) for i in range(256))
        made = [m.translate(table) for m in made]
    entries = {256: (3, [w]), 257: (3, [h]), 258: (3, list(bits)), 259: (3, [compression]), 262: (3, [photo]),
               277: (3, [len(bits)])}
    if planar != 1:
        entries[284] = (3, [planar])
    if extra:
        entries[338] = (3, list(extra))
    if fill != 1:
        entries[266] = (3, [fill])
    head = 16 if bigtiff else 8
    offsets, at = [], head
    for m in made:
        offsets.append(at)
        at += len(m) + len(m) % 2
    counts = [len(m) for m in made]
    entries[(273 if tile is None else 324)] = (4, offsets)
    entries[(279 if tile is None else 325)] = (4, counts)
    if tile is None:
        entries[278] = (3, [strip])
    else:
        entries[322], entries[323] = (3, [tile[0]]), (3, [tile[1]])
    entries.update(tags)
    body = b"".join(m + bytes(len(m) % 2) for m in made)
    directory, late = b"", b""
    n = len(entries)
    size_of = (8 + 20 * n + 8) if bigtiff else (2 + 12 * n + 4)
    word = 8 if bigtiff else 4
    for tag in sorted(entries):
        kind, values = entries[tag]
        raw = values if isinstance(values, bytes) else struct.pack(e + {3: "H", 4: "I", 1: "B", 7: "B"}[kind] * len(values), *values)
        if len(raw) > word:
            where = at + size_of + len(late)
            late += raw + bytes(len(raw) % 2)
            raw = struct.pack(e + ("Q" if bigtiff else "I"), where)
        directory += struct.pack(e + ("HHQ" if bigtiff else "HHI"), tag, kind, len(values)) + raw.ljust(word, b"\0")
    following = at + size_of + len(late) if pages == 2 else 0
    start = (b"MM" if big else b"II") + struct.pack(e + "HHHQ", 43, 8, 0, at) if bigtiff else (b"MM" if big else b"II") + struct.pack(e + "HI", 42, at)
    count = struct.pack(e + ("Q" if bigtiff else "H"), n)
    nothing = struct.pack(e + ("Q" if bigtiff else "I"), following)
    file = start + body + count + directory + nothing + late
    if pages == 2:
        # A second directory of the same strips, with half of the rows.
        file += count + directory.replace(struct.pack(e + "HHIH", 257, 3, 1, h), struct.pack(e + "HHIH", 257, 3, 1, h // 2), 1) + bytes(4)
    files[name + ".tif"] = file


def be16(a, big):
    return np.ascontiguousarray(a.astype(">u2" if big else "<u2")).view(np.uint8).reshape(a.shape[0], a.shape[1], -1)


g8 = NOISE[..., :1]
g16 = rng.integers(0, 700, (H, W)).astype(np.uint16)
rgb16w = rng.integers(0, 1 << 16, (H, W, 4)).astype(np.uint16)
for big in (False, True):
    e = "_be" if big else ""
    for bits in (1, 2, 4):
        tiff(f"gray{bits}{e}", [pack(idx[bits], bits)], photo=1, bits=[bits], big=big)
    tiff(f"white1{e}", [pack(idx[1], 1)], photo=0, bits=[1], big=big)
    tiff(f"white4{e}", [pack(idx[4], 4)], photo=0, bits=[4], big=big, compression=8)
    tiff(f"white8{e}", [g8], photo=0, bits=[8], big=big)
    tiff(f"gray8{e}", [g8], photo=1, bits=[8], big=big)
    tiff(f"gray16{e}", [be16(g16, big)], photo=1, bits=[16], big=big)
    tiff(f"gray16_deflate{e}", [be16(g16, big)], photo=1, bits=[16], big=big, compression=8)
    tiff(f"rgb8{e}", [NOISE[..., :3]], photo=2, bits=[8] * 3, big=big)
    tiff(f"rgb16{e}", [be16(rgb16w[..., :3], big)], photo=2, bits=[16] * 3, big=big)
    tiff(f"rgb16_deflate{e}", [be16(rgb16w[..., :3], big)], photo=2, bits=[16] * 3, big=big, compression=8)
    tiff(f"rgba16{e}", [be16(rgb16w, big)], photo=2, bits=[16] * 4, big=big, extra=[2])
    tiff(f"cmyk8{e}", [NOISE], photo=5, bits=[8] * 4, big=big)
    tiff(f"cmyk16{e}", [be16(rgb16w, big)], photo=5, bits=[16] * 4, big=big)
    table = [int(v) for v in rng.integers(0, 1 << 16, 3 * 256)]
    for bits in (1, 2, 4, 8):
        n = 1 << bits
        tiff(f"palette{bits}{e}", [pack(idx[bits], bits)], photo=3, bits=[bits], big=big,
             tags={320: (3, table[:n] + table[256 : 256 + n] + table[512 : 512 + n])}, compression=[1, 8][bits % 8 == 0])
for name, extra in [("none", []), ("unspecified", [0]), ("straight", [2]), ("premultiplied", [1]), ("corel", [999])]:
    tiff(f"rgba8_{name}", [NOISE], photo=2, bits=[8] * 4, extra=extra)
tiff("rgba16_premultiplied", [be16(rgb16w, False)], photo=2, bits=[16] * 4, extra=[1])
tiff("rgba8_premultiplied_deflate", [NOISE], photo=2, bits=[8] * 4, extra=[1], compression=8)
tiff("rgb8_one_bits", [NOISE[..., :3]], photo=2, bits=[8] * 3, tags={258: (3, [8])})
tiff("rgbxx", [np.concatenate([NOISE, g8], -1)], photo=2, bits=[8] * 5, extra=[0, 0])
tiff("gray_alpha", [NOISE[..., :2]], photo=1, bits=[8, 8], extra=[2])
tiff("gray_extra", [NOISE[..., :2]], photo=1, bits=[8, 8], extra=[0])
tiff("rgb8_packbits", [RGB], photo=2, bits=[8] * 3, compression=32773)
tiff("rgb8_deflate", [RGB], photo=2, bits=[8] * 3, compression=8)
tiff("rgb8_old_deflate", [RGB], photo=2, bits=[8] * 3, compression=32946)
tiff("rgb8_one_strip", [RGB], photo=2, bits=[8] * 3, strip=H)
tiff("rgb8_high_strip", [RGB], photo=2, bits=[8] * 3, strip=200, compression=8)
tiff("rgb8_tiles", [RGB], photo=2, bits=[8] * 3, tile=(16, 16))
tiff("rgb8_tiles_deflate_be", [RGB], photo=2, bits=[8] * 3, tile=(16, 16), compression=8, big=True)
tiff("gray8_tiles_packbits", [g8], photo=1, bits=[8], tile=(16, 16), compression=32773)
tiff("gray16_tiles", [be16(g16, False)], photo=1, bits=[16], tile=(16, 16), compression=8)
tiff("rgb8_planes", [NOISE[..., c : c + 1] for c in range(3)], photo=2, bits=[8] * 3, planar=2)
tiff("rgb8_planes_deflate", [NOISE[..., c : c + 1] for c in range(3)], photo=2, bits=[8] * 3, planar=2, compression=8)
tiff("rgba8_planes", [NOISE[..., c : c + 1] for c in range(4)], photo=2, bits=[8] * 4, planar=2, extra=[2])
tiff("rgb8_planes_tiles", [NOISE[..., c : c + 1] for c in range(3)], photo=2, bits=[8] * 3, planar=2, tile=(16, 16))
tiff("gray8_planar", [g8], photo=1, bits=[8], planar=2)
tiff("white1_fill2", [pack(idx[1], 1)], photo=0, bits=[1], fill=2)
tiff("gray8_fill2", [g8], photo=1, bits=[8], fill=2)
tiff("gray8_fill2_deflate", [g8], photo=1, bits=[8], fill=2, compression=8)
tiff("rgb8_fill2", [RGB], photo=2, bits=[8] * 3, fill=2)
tiff("rgb8_bigtiff", [RGB], photo=2, bits=[8] * 3, bigtiff=True)
tiff("palette8_bigtiff", [pack(idx[8], 8)], photo=3, bits=[8], bigtiff=True, tags={320: (3, table)})
tiff("rgb8_two_pages", [RGB], photo=2, bits=[8] * 3, pages=2)
for orientation in range(1, 10):
    tiff(f"oriented{orientation}", [RGB], photo=2, bits=[8] * 3, tags={274: (3, [orientation])})
tiff("oriented6_deflate", [RGB], photo=2, bits=[8] * 3, tags={274: (3, [6])}, compression=8)
tiff("stray_predictor", [RGB], photo=2, bits=[8] * 3, tags={317: (3, [2])})
tiff("stray_predictor_packbits", [RGB], photo=2, bits=[8] * 3, tags={317: (3, [2])}, compression=32773)


def predicted(a):
    out = a.copy()
    out[:, 1:] -= a[:, :-1]
    return out


tiff("rgbx_predictor", [predicted(NOISE)], photo=2, bits=[8] * 4, extra=[0], compression=8, tags={317: (3, [2])})
for big in (False, True):
    e = "_be" if big else ""
    tiff(f"gray16_predictor{e}", [be16(predicted(g16), big)], photo=1, bits=[16], big=big, compression=8, tags={317: (3, [2])})
    tiff(f"rgb16_predictor{e}", [be16(predicted(rgb16w[..., :3]), big)], photo=2, bits=[16] * 3, big=big, compression=8, tags={317: (3, [2])})
tiff("palette8_predictor", [predicted(idx[8].astype(np.uint8))[..., None]], photo=3, bits=[8], compression=8, tags={320: (3, table), 317: (3, [2])})


def saved(name, image, **options):
    out = io.BytesIO()
    image.save(out, "TIFF", **options)
    files[name + ".tif"] = out.getvalue()


big_picture = Image.fromarray(np.stack([np.add.outer(np.arange(50) * 3, np.arange(70) * 2) % 256, np.multiply.outer(np.arange(50), np.arange(70)) % 256, np.add.outer(np.arange(50) * 5 % 256, np.arange(70)) % 256], -1).astype(np.uint8))
saved("lzw", big_picture, compression="tiff_lzw")
saved("lzw_predictor", big_picture, compression="tiff_lzw", tiffinfo={317: 2})
saved("lzw_noise", Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)), compression="tiff_lzw")
saved("lzw_gray1", Image.fromarray(idx[1].astype(bool)), compression="tiff_lzw")
saved("lzw_palette", big_picture.quantize(64), compression="tiff_lzw")
saved("jpeg", big_picture, compression="jpeg")
saved("jpeg_gray", big_picture.convert("L"), compression="jpeg", quality=80)


def coded(image, **options):
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def bare(jpeg):
    """Without JFIF's marker, as libtiff writes it."""
    assert jpeg[2:4] == b"\xff\xe0"
    return jpeg[:2] + jpeg[4 + struct.unpack(">H", jpeg[4:6])[0] :]


array = np.asarray(big_picture)
padded = np.zeros((64, 80, 3), np.uint8)
padded[:50, :70] = array
tiles = [Image.fromarray(padded[y : y + 32, x : x + 16]) for y in range(0, 64, 32) for x in range(0, 80, 16)]
for name, sub in [("444", 0), ("422", 1), ("420", 2)]:
    chunks = [bare(coded(t, quality=85, subsampling=sub)) for t in tiles]
    h, v = [(1, 1), (2, 1), (2, 2)][sub]
    tiff(f"jpeg_tiles_{name}", None, photo=6, bits=[8] * 3, compression=7, tile=(16, 32), chunks=chunks, size=(70, 50), tags={530: (3, [h, v])})
strips = [Image.fromarray(array[y : y + 16]) for y in range(0, 50, 16)]
tiff("jpeg_strips_420", None, photo=6, bits=[8] * 3, compression=7, strip=16, chunks=[bare(coded(s, quality=85, subsampling=2)) for s in strips], size=(70, 50), tags={530: (3, [2, 2])})
tiff("jpeg_rgb", None, photo=2, bits=[8] * 3, compression=7, strip=16, chunks=[bare_adobe for bare_adobe in (coded(s, quality=90, keep_rgb=True) for s in strips)], size=(70, 50))

# ---- JPEG XL


def jxl(name, image, **options):
    out = io.BytesIO()
    image.save(out, "JXL", lossless=True, **options)
    files[name + ".jxl"] = out.getvalue()


jxl("rgb", big_picture)
jxl("noise", Image.fromarray(NOISE[..., :3]))
jxl("rgba", Image.fromarray(NOISE))
jxl("gray", big_picture.convert("L"))

# ---- What Pillow makes of them

lines = []
for name in sorted(files):
    try:
        image = Image.open(io.BytesIO(files[name]))
        fmt = image.format
        rgb = image.convert("RGB")
        assert fmt == {"bmp": "BMP", "tif": "TIFF", "jxl": "JXL"}[name[-3:]], fmt
        lines.append(f"{name} {rgb.width} {rgb.height} {hashlib.sha256(rgb.tobytes()).hexdigest()}")
    except Exception as error:  # noqa: BLE001
        raise SystemExit(f"{name}: Pillow says {error!r}") from error
    open(name, "wb").write(files[name])
open("expected.txt", "w").write("\n".join(lines) + "\n")
print(len(files), "files,", sum(map(len, files.values())), "bytes")
