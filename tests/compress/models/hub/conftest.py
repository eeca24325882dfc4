"""A hub on loopback in the place of the real one, and caches of the test's own."""

import huggingface_hub.constants as constants
import pytest
import torch

from tests.compress.models.hub.loopback import serving

RESOLVE = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as served:
        monkeypatch.setattr(constants, "ENDPOINT", served.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", served.url + RESOLVE)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "torch"))
        yield served
