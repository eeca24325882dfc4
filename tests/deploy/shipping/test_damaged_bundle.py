"""A bundle that is signed and whole, and whose files are none: each is told in a line, and what was served still is."""

import base64
import io
import json

import numpy as np
import pytest

from compress.pipeline import signing_keys
from deploy.bundle import bundle as bundles
from deploy.bundle import manifest
from deploy.shipping import commands
from deploy.shipping.install import ProofError
from profiles.errors import UserError
from tests.deploy.bundles import bundle, change, put, served


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


INPUT, OUTPUT = np.zeros((4, 1, 8, 8), np.float32), np.zeros((4, 5), np.float32)
CONTENTS = {
    "golden.npz": [
        b"",
        b"text",
        b"PK\3\4" + b"x" * 50,
        npz(),
        npz(input=INPUT),
        npz(output=OUTPUT, other=INPUT),
        npz(input=INPUT, output=OUTPUT[:2]),
        npz(input=INPUT[0, 0, 0, 0], output=OUTPUT),
        npz(input=INPUT.astype(object), output=OUTPUT),
        npz(input=INPUT.astype("U4"), output=OUTPUT),
        npz(input=INPUT[:0], output=OUTPUT[:0]),
        npz(input=INPUT, output=OUTPUT)[:-30],
        npz(input=np.zeros((4, 3), np.float32), output=OUTPUT),
    ],
    "plan.json": [b"", b"[]", b"5", b"{", b"{}", b'{"engine": 5}', b"[" * 100_000, b"\xff"],
    "profile.json": [b"", b"[]", b"{}", b"[" * 100_000],
    "report.json": [b"", b"[]", b"5", b'{"environment": 5}', b"[" * 100_000, b"\xff"],
}


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in CONTENTS for content in CONTENTS[name]])
def test_a_file_that_is_none_is_told_and_nothing_is_switched(name, content, store, key, tmp_path, capfd):
    put(store, bundle(tmp_path / "1", key=key, version=1))
    folder = bundle(tmp_path / "2", seed=2, version=2)
    (folder / name).write_bytes(content)
    change(folder, files=manifest.entries(folder))
    bundles.sign(folder, signing_keys.signer(key))
    with pytest.raises((UserError, ProofError, RuntimeError)):
        put(store, folder)
    assert served(store) == 1
    raw, signature = (folder / "manifest.json").read_text(), (folder / "manifest.sig").read_bytes()
    request = {"manifest": raw, "signature": base64.b64encode(signature).decode()}
    code, answer = commands.answer("install", store, json.dumps(request).encode())
    assert code in (1, 2) and answer["serving"] == {"small": 1}
    assert all("\n" not in reason for reason in answer["reasons"])
    assert "Traceback" not in capfd.readouterr().err
