"""Weights at an address: held to a hash, whole or not at all."""

import hashlib

import pytest

from compress.models.hub import address
from compress.models.hub.address import address_folder, fetch_address, file_name
from compress.models.hub.resolve import Resolver
from profiles.errors import UserError

CONTENT = b"weights" * 100_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served(hub, monkeypatch):
    hub.plain["/a/net.pth"] = CONTENT
    monkeypatch.setattr(address, "PAUSE_S", 0.0)
    return hub


def fetched(served, tmp_path, path="/a/net.pth", **held):
    return fetch_address(f"{served.url}{path}", tmp_path / "kept", lambda _: None, **held)


def test_it_comes_once_through_redirects_and_after_a_break(served, tmp_path):
    served.cut["net.pth"] = 2
    assert fetched(served, tmp_path, "/elsewhere/a/net.pth", expected=DIGEST).read_bytes() == CONTENT
    asked = len(served.asked)
    assert fetched(served, tmp_path, "/elsewhere/a/net.pth").read_bytes() == CONTENT
    assert len(served.asked) == asked


def test_other_bytes_leave_nothing_behind(served, tmp_path):
    served.lies["net.pth"] = CONTENT[:-1] + b"x"
    with pytest.raises(UserError, match=f"{DIGEST[:12]} is wanted; it was changed .* nothing was kept"):
        fetched(served, tmp_path, expected=DIGEST)
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_kept_file_is_checked_each_time(served, tmp_path):
    fetched(served, tmp_path, expected=DIGEST).write_bytes(b"altered")
    with pytest.raises(UserError, match="delete it to fetch it again"):
        fetched(served, tmp_path, expected=DIGEST)


def test_what_does_not_come_is_one_line(served, tmp_path, monkeypatch):
    served.cut["net.pth"] = 99
    with pytest.raises(UserError, match=r"did not arrive \(.*give its path as weights"):
        fetched(served, tmp_path)
    with pytest.raises(UserError, match="the server answers 404"):
        fetched(served, tmp_path, "/a/none.pth")
    served.slow_s = 0.5
    monkeypatch.setattr(address, "TIMEOUT_S", 0.05)
    monkeypatch.setattr(address, "ATTEMPTS", 1)
    with pytest.raises(UserError, match=r"did not arrive \(.*timed out"):
        fetched(served, tmp_path)
    with pytest.raises(UserError, match="did not arrive"):
        fetch_address("http://127.0.0.1:9/x.pth", tmp_path, lambda _: None)
    assert not list((tmp_path / "kept").iterdir())


def test_plain_http_needs_a_hash(tmp_path):
    with pytest.raises(UserError, match="write https, or sha256"):
        fetch_address("http://example.invalid/net.pth", tmp_path, print)


def test_https_is_not_left(served):
    request = address.urllib.request.Request("https://a.invalid/x")
    with pytest.raises(address.urllib.error.HTTPError, match="https to plain http"):
        address._Redirects().redirect_request(request, None, 302, "Found", {}, "http://a.invalid/x")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a/b/net.pth?x=/../y", "net.pth"),
        ("https://a/%2e%2e%2fup", "up"),
        ("https://a/..", "weights"),
        ("https://a/", "weights"),
        ("https://a/b%5Cc", "weights"),
        ("https://a/con", "weights"),
        ("https://a/.bashrc", "weights"),
    ],
)
def test_names_of_addresses_are_names_of_files(url, name):
    assert file_name(url) == name


def test_the_recipes_lock_holds_what_an_address_gave(served, tmp_path):
    url, said = f"{served.url}/a/net.pth", []
    resolver = Resolver(recipe=tmp_path / "my.toml", say=said.append)
    assert resolver.weights(url, "").file == str(address_folder(url) / "net.pth")
    assert any(f'sha256 = "{DIGEST}"' in line for line in said), "to be written into the recipe"
    resolver.save()
    (address_folder(url) / "net.pth").unlink()
    served.plain["/a/net.pth"] = b"others"
    with pytest.raises(UserError, match="is wanted; it was changed"):
        Resolver(recipe=tmp_path / "my.toml", say=said.append).weights(url, "")


def test_a_file_is_held_to_a_hash_too(tmp_path):
    (tmp_path / "net.pth").write_bytes(CONTENT)
    resolver = Resolver(recipe=None, say=print)
    assert resolver.weights(str(tmp_path / "net.pth"), DIGEST).file == str(tmp_path / "net.pth")
    with pytest.raises(UserError, match="the recipe says 00"):
        resolver.weights(str(tmp_path / "net.pth"), "00" * 32)
