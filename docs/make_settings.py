"""Writes docs/settings.md, every setting with its values, default and meaning, from the schema.

python docs/make_settings.py
"""

from etc.cli import shown_value
from etc.config import TOOLKIT
from etc.config.schema import SECTIONS, Settings
from etc.config.words import type_of
from utils.files import write_text

PAGE = TOOLKIT / "docs/settings.md"
HEAD = """# Settings

`python docs/make_settings.py` writes this page. A setting stands in a YAML file (`--config FILE`) or on the command
line (`TRAIN.epochs 40` or `TRAIN.epochs=40`), which wins. Without `--config`, `configs/quickstart.yaml` applies; what
neither names has the default below. `--help` of a script lists the settings that it reads, with the values in force.
[The motion loss](motion-loss.md) explains `st_weight`, `visibility` and the settings around them.
"""


def page() -> str:
    """The whole page, Markdown."""
    defaults, lines = Settings(), [HEAD]
    for section, model in SECTIONS.items():
        lines += [f"\n## {section}\n\n{(model.__doc__ or '').strip()}\n", "| setting | values | default | meaning |"]
        lines.append("|---|---|---|---|")
        for name, field in model.model_fields.items():
            values, meaning = (text.replace("|", "\\|") for text in (type_of(field), str(field.description)))
            default = shown_value(defaults, f"{section}.{name}")
            lines.append(f"| `{section}.{name}` | {values} | `{default}` | {meaning} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_text(PAGE, page())
    print(PAGE)
