"""The examples of the contributor's page: a family and a hidden representation, added as it says."""

import re
from pathlib import Path

import pytest

from autoem import _augment, _family

PAGE = Path(__file__).parents[1] / "docs" / "contributing.md"


@pytest.fixture
def tables(monkeypatch):
    """The two tables, as they were once the test is done."""
    monkeypatch.setattr(_family, "FAMILIES", _family.FAMILIES)
    monkeypatch.setattr(_augment, "REPRESENTATIONS", _augment.REPRESENTATIONS)
    return _family.FAMILIES, _augment.REPRESENTATIONS


def test_examples_of_the_page_run(tables):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    exec(compile("\n".join(blocks), str(PAGE), "exec"), {})
    families, representations = tables
    assert _family.FAMILIES[:-1] == families
    assert _augment.REPRESENTATIONS[:-1] == representations
