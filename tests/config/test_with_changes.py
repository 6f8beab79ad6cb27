"""Changed copies of settings."""

import pytest

from etc.config import load_settings, with_changes
from etc.errors import ConfigError


def test_some_keys_change_in_the_copy_alone():
    settings = load_settings(None, ["TEST.scales=[1.0, 2.0]", "TRAIN.resume=auto"])
    changed = with_changes(settings, TEST={"fps": 5.0}, TRAIN={"layers": 50})
    assert (changed.TEST.fps, changed.TRAIN.layers) == (5.0, 50) and settings.TEST.fps != 5.0
    assert with_changes(changed, TEST={"fps": settings.TEST.fps}, TRAIN={"layers": settings.TRAIN.layers}) == settings


@pytest.mark.parametrize("change", [{"layers": 34}, {"layers": "18"}, {"depth": 18}])
def test_a_change_is_validated(change):
    with pytest.raises(ConfigError, match=rf"TRAIN\.{next(iter(change))}"):
        with_changes(load_settings(), TRAIN=change)
