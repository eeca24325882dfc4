"""Keys that sign: made once, secret, and the right one chosen."""

import pytest

from compress.pipeline import signing_keys
from deploy.bundle.signing import from_pem, is_signed
from profiles.errors import UserError


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_KEYS", str(tmp_path / "keys"))
    monkeypatch.delenv("EDGE_KEY", raising=False)
    return tmp_path / "keys"


def test_what_a_key_signs_its_public_half_confirms():
    key = signing_keys.new("mine")
    signer = signing_keys.signer(key)
    public = from_pem(key.pem, "x")
    assert signer.key == key.id
    assert is_signed(public, b"words", signer.sign(b"words"))
    assert not is_signed(public, b"other words", signer.sign(b"words"))


def test_the_private_half_is_for_its_owner_alone(folder):
    key = signing_keys.new("mine")
    assert (folder / "mine.key").stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o077 == 0
    assert "PRIVATE" not in key.pem
    (folder / "mine.key").chmod(0o644)
    with pytest.raises(UserError, match="others may read this private key"):
        signing_keys.signer(key)


def test_a_key_is_never_overwritten(folder):
    signing_keys.new("mine")
    before = (folder / "mine.key").read_bytes()
    with pytest.raises(UserError, match="'mine' exists already"):
        signing_keys.new("mine")
    assert (folder / "mine.key").read_bytes() == before


@pytest.mark.parametrize("name", ["../x", "", "a b", "a/b", "."])
def test_a_key_is_a_plain_file(name):
    with pytest.raises(UserError, match="letters, digits"):
        signing_keys.new(name)


def test_which_key_signs(monkeypatch):
    assert signing_keys.default() is None
    signing_keys.new("one")
    assert signing_keys.default() == signing_keys.find("one")
    signing_keys.new("two")
    with pytest.raises(UserError, match="several keys, none of them 'default'"):
        signing_keys.default()
    monkeypatch.setenv("EDGE_KEY", "two")
    assert signing_keys.default() == signing_keys.find("two")
    monkeypatch.delenv("EDGE_KEY")
    signing_keys.new("default")
    assert signing_keys.default() == signing_keys.find("default")
    assert signing_keys.by_id(signing_keys.find("two").id) == signing_keys.find("two")
    assert signing_keys.by_id("0" * 16) is None


def test_a_missing_key_is_told_with_what_there_is():
    signing_keys.new("laptop")
    with pytest.raises(UserError, match="unknown key 'laptob' \\(did you mean 'laptop'\\?\\)"):
        signing_keys.find("laptob")


@pytest.mark.parametrize("content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_private_key_is_told(folder, content):
    key = signing_keys.new("mine")
    (folder / "mine.key").write_bytes(content)
    with pytest.raises(UserError, match="not a private key without passphrase"):
        signing_keys.signer(key)
