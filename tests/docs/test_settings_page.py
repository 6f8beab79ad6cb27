"""docs/settings.md is what docs/make_settings.py writes now."""

import importlib.util

from tests.conftest import REPOSITORY


def test_the_page_of_the_settings_is_that_of_the_schema():
    spec = importlib.util.spec_from_file_location("make_settings", REPOSITORY / "docs/make_settings.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run: python docs/make_settings.py"
