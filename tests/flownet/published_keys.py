"""Keys and shapes of the published weights, from ``published_keys.txt``."""

from pathlib import Path

PARTS = {
    "flownet2-c": {"": "FlowNetC"},
    "flownet2-s": {"": "FlowNetS"},
    "flownet2-sd": {"": "FlowNetSD"},
    "flownet2-cs": {"flownetc.": "FlowNetC", "flownets_1.": "FlowNetS"},
    "flownet2-css": {"flownetc.": "FlowNetC", "flownets_1.": "FlowNetS", "flownets_2.": "FlowNetS"},
    "flownet2": {
        "flownetc.": "FlowNetC",
        "flownets_1.": "FlowNetS",
        "flownets_2.": "FlowNetS",
        "flownets_d.": "FlowNetSD",
        "flownetfusion.": "FlowNetFusion",
    },
}


def published_keys(variant):
    """Key and shape of every parameter of the published weights."""
    sections, section = {}, {}
    for line in (Path(__file__).parent / "published_keys.txt").read_text().splitlines():
        name, value = line.split()
        if name == "#":
            section = sections.setdefault(value, {})
        else:
            section[name] = tuple(int(size) for size in value.split("x"))
    keys = {prefix + k: v for prefix, part in PARTS[variant].items() for k, v in sections[part].items()}
    if variant == "flownet2-s":
        keys["conv1.0.weight"] = (64, 6, 7, 7)
    return keys
