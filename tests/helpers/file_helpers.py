"""Image files written by hand, byte by byte, so that what they mean is known from the formats' specifications alone."""

import struct
import zlib

import numpy as np


def tiff(planes, *, bits, photometric=1, planar=1, extra=(), kind=None, colormap=None, compress=False):
    """A little-endian TIFF of one strip (or one a plane): `planes` is (H, W, C), integers of `bits` or floats.

    Rows of 10, 12 and 14 bits are packed; `kind` is the SampleFormat.
    """
    height, width, channels = planes.shape
    parts = [planes[..., [c]] for c in range(channels)] if planar == 2 else [planes]
    strips = [_packed(part.reshape(height, -1), bits, kind) for part in parts]
    strips = [zlib.compress(strip) for strip in strips] if compress else strips
    tags = [
        (256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [8 if compress else 1]),
        (262, 3, [photometric]), (273, 4, None), (277, 3, [channels]), (278, 4, [height]),
        (279, 4, [len(strip) for strip in strips]), (284, 3, [planar]),
    ]  # fmt: skip
    tags += [(320, 3, colormap)] if colormap is not None else []
    tags += [(338, 3, list(extra))] if extra else []
    tags += [(339, 3, [kind] * channels)] if kind else []
    start = 8 + 2 + 12 * len(tags) + 4
    outside, entries, values = b"", [], {}
    for number, code, given in tags:
        values[number] = (code, given if given is not None else [0] * len(strips))
    room = sum(len(content) * (2 if code == 3 else 4) for code, content in values.values()) + 64
    places, at = [], start + room
    for strip in strips:
        places.append(at)
        at += len(strip)
    values[273] = (4, places)
    for number in sorted(values):
        code, content = values[number]
        data = struct.pack(f"<{len(content)}{'H' if code == 3 else 'I'}", *content)
        if len(data) > 4:
            entries.append(struct.pack("<HHII", number, code, len(content), start + len(outside)))
            outside += data
        else:
            entries.append(struct.pack("<HHI", number, code, len(content)) + data.ljust(4, b"\0"))
    head = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return head + outside.ljust(room, b"\0") + b"".join(strips)


def _packed(rows, bits, kind):
    if kind == 3:
        return rows.astype({16: "<f2", 32: "<f4", 64: "<f8"}[bits]).tobytes()
    if bits in (8, 16, 32):
        return rows.astype(f"<{'i' if kind == 2 else 'u'}{bits // 8}").tobytes()
    ones = (rows[..., None].astype(np.int64) >> np.arange(bits - 1, -1, -1)) & 1
    return np.packbits(ones.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()


def png(samples, colour, *, bits=16, chunks=()):
    """A PNG of samples (H, W, C); `colour` is IHDR's: 0 gray, 2 RGB, 4 gray and alpha, 6 RGB and alpha."""
    height, width = samples.shape[:2]
    rows = samples.astype(">u2" if bits == 16 else "u1").reshape(height, -1)
    body = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = [(b"IHDR", head), *chunks, (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


def chunk(name, data):
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))  # XYZ (D50) of the primaries
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))


def profile(name, primaries, gamma):
    """An ICC profile (version 2) of RGB: primaries, one gamma for all (None: linear light), a name."""
    text = name.encode() + b"\0"
    curve = b"curv\0\0\0\0" + (struct.pack(">I", 0) if gamma is None else struct.pack(">IH", 1, round(gamma * 256)))
    tags = {
        b"cprt": b"text\0\0\0\0none\0",
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78),
        b"wtpt": b"XYZ \0\0\0\0" + _fixed((0.9642, 1, 0.8249)),
    }
    for letter, xyz in zip("rgb", primaries, strict=True):
        tags[letter.encode() + b"XYZ"] = b"XYZ \0\0\0\0" + _fixed(xyz)
        tags[letter.encode() + b"TRC"] = curve
    start, table, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    date = struct.pack(">6H", 2024, 1, 1, 0, 0, 0)
    head = struct.pack(">I4xI", start + len(body), 0x02100000) + b"mntrRGB XYZ " + date + b"acsp"
    return (head + bytes(28) + _fixed((0.9642, 1, 0.8249))).ljust(128, b"\0") + table + body


def _fixed(values):
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def srgb_curve(linear):
    """Light in [0, 1] to sRGB (IEC 61966-2-1)."""
    low = np.clip(linear, 0, 1)
    return np.where(low <= 0.0031308, 12.92 * low, 1.055 * low ** (1 / 2.4) - 0.055)
