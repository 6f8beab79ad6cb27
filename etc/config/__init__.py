"""The settings."""

from etc.config.load import DEFAULT_CONFIG, TOOLKIT, dump_settings, find_file, load_settings, with_changes

__all__ = ["DEFAULT_CONFIG", "TOOLKIT", "dump_settings", "find_file", "load_settings", "with_changes"]
