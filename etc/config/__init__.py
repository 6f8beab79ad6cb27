"""Settings: sections and keys with their types and ranges, YAML files, overrides, and the published format.

May import: errors, distributed, interrupts, metrics.
"""

from etc.config.load import DEFAULT_CONFIG, TOOLKIT, dump_settings, find_file, is_given, load_settings, with_changes

__all__ = ["DEFAULT_CONFIG", "TOOLKIT", "dump_settings", "find_file", "is_given", "load_settings", "with_changes"]
