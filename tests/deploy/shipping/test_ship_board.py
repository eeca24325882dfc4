"""Shipping to a real board over SSH: the one that EDGE_DEVICE names, in a store of its own there."""

import os
import uuid

import pytest

from compress.pipeline import signing_keys
from deploy.devices import device
from deploy.shipping.ship import Destination, ShipOptions, load, roll_back, ship, status
from tests.deploy.bundles import bundle


@pytest.mark.slow
def test_a_board_takes_in_refuses_and_goes_back(tmp_path, monkeypatch):
    """Checked by OpenSSL there where the board's Python has no cryptography."""
    if not os.environ.get("EDGE_DEVICE"):
        pytest.skip("EDGE_DEVICE names no board")
    monkeypatch.setenv("EDGE_KEYS", str(tmp_path / "keys"))
    key = signing_keys.new("default")
    there = Destination(device=device(os.environ["EDGE_DEVICE"]))
    root = f"/tmp/edge-store-{uuid.uuid4().hex}"
    way = ShipOptions(root=root, public_key=key.pem)
    arch = there.device.run(["uname", "-m"]).stdout.strip()
    one, two = (bundle(tmp_path / str(v), seed=v, key=key, version=v, arch=arch) for v in (1, 2))
    foreign = bundle(tmp_path / "3", seed=3, key=key, version=3, arch="riscv64")
    try:
        first, second = ship(load(one), there, way), ship(load(two), there, way)
        assert (first.state, first.trusted, second.state, second.was) == ("shipped", key.id, "shipped", 1), (first, second)
        assert second.proof and second.proof["golden"]["cosine"] > 0.9999
        refused = ship(load(foreign), there, way)
        assert (refused.state, refused.now) == ("refused", 2) and "it was made for riscv64" in refused.reasons[0]
        assert roll_back(there, None, way)["version"] == 1
        assert [model["version"] for model in status(there, way)["models"]] == [1]
    finally:
        there.device.run(["rm", "-rf", root])
        there.device.close()
