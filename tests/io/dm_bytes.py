"""Files of DigitalMicrograph, byte by byte after C. B. Boothroyd's description of DM3 and DM4."""

import struct

import numpy as np

DM_TYPES = {"i2": 1, "f4": 2, "u1": 6, "i4": 7, "i1": 9, "u2": 10, "u4": 11, "f8": 12}
DM_CODES = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "i1": 9, "u1": 10}


def dm_tree(data, angles, size_nm):
    """The tags of an image or a stack: a thumbnail in colour first, as DigitalMicrograph writes it."""
    dims = data.shape[::-1] if len(data) > 1 else data.shape[:0:-1]
    steps = [(size_nm / 1000, "µm"), (size_nm / 1000, "µm"), (1.0, "")][: len(dims)]
    brightness = {"Origin": 0.0, "Scale": 1.0, "Units": ""}
    calibrations = {"Brightness": brightness, "Dimension": [{"Origin": 0.0, "Scale": s, "Units": u} for s, u in steps]}
    tags = {"Microscope Info": {"Stage Position": {"Stage Alpha": float(angles[0])}, "Voltage": 200000.0}}
    if len(data) > 1:
        listed = {str(i): float(a) for i, a in enumerate(angles)}
        tags["Meta Data"] = {"Dimension info": {"2": {"Label": "Tilt angle (deg)", "Data": listed}}}
    image = {"Calibrations": calibrations, "Data": data.ravel(), "DataType": DM_TYPES[data.dtype.str[1:]]}
    image |= {"Dimensions": [int(n) for n in dims], "PixelDepth": data.itemsize}
    small = {"Calibrations": {"Brightness": brightness, "Dimension": [brightness, brightness]}, "DataType": 23}
    small |= {"Data": np.zeros(16, "i4"), "Dimensions": [4, 4], "PixelDepth": 4}
    return {
        "ApplicationBounds": (0, 0, 100, 200),
        "ImageList": [{"ImageData": small, "ImageTags": {}}, {"ImageData": image, "ImageTags": tags, "Name": "x"}],
        "Thumbnails": [{"ImageIndex": 0, "SourceSize_Pixels": (4, 4)}],
    }


def dm_file(path, data, version, angles, size_nm, order="<"):
    """DM3 and DM4 after Boothroyd's description: structure big-endian, words of 4 or 8 bytes, values in `order`."""
    word = ">I" if version == 3 else ">Q"
    body = _dm_group(dm_tree(data, angles, size_nm), word, order)
    head = struct.pack(">I", version) + struct.pack(word, len(body)) + struct.pack(">I", order == "<")
    path.write_bytes(head + body + bytes(8))
    return path


def _dm_group(tags, word, order):
    named = list(tags.items()) if isinstance(tags, dict) else [("", value) for value in tags]
    text = b"\1\0" + struct.pack(word, len(named))
    for name, value in named:
        group = isinstance(value, dict | list)
        content = _dm_group(value, word, order) if group else _dm_value(value, word, order)
        length = struct.pack(word, len(content)) if word == ">Q" else b""
        text += struct.pack(">BH", 20 if group else 21, len(name)) + name.encode() + length + content
    return text


def _dm_value(value, word, order):
    if isinstance(value, str):
        text = value.encode("utf-16-le" if order == "<" else "utf-16-be")
        info, content = [20, 4, len(value)], text
    elif isinstance(value, np.ndarray):
        info, content = (
            [20, DM_CODES[value.dtype.str[1:]], value.size],
            value.astype(order + value.dtype.str[1:]).tobytes(),
        )
    elif isinstance(value, tuple):
        info = [15, 0, len(value), *(w for _ in value for w in (0, 3))]
        content = struct.pack(f"{order}{len(value)}i", *value)
    else:
        code, form = (7, "d") if isinstance(value, float) else (5, "I")
        info, content = [code], struct.pack(order + form, value)
    return b"%%%%" + struct.pack(word, len(info)) + b"".join(struct.pack(word, w) for w in info) + content
