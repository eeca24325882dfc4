"""Signatures: RFC 8032's own vectors by both verifiers, and none where there is neither."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from deploy.bundle import signing
from deploy.bundle.signing import from_pem, is_signed, is_signed_by_openssl, key_id, to_pem
from profiles.errors import UserError
from tests.conftest import ROOT

# RFC 8032, section 7.1, tests 1 and 2: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
]
VERIFIERS = [is_signed, is_signed_by_openssl]
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl on this machine")


def vector(index):
    return tuple(bytes.fromhex(text) for text in VECTORS[index])


@needs_openssl
@pytest.mark.parametrize("verifier", VERIFIERS)
def test_known_signatures_are_accepted_and_others_not(verifier):
    key, message, signature = vector(1)
    assert verifier(key, message, signature)
    assert not verifier(key, message + b"!", signature)
    assert not verifier(vector(0)[0], message, signature)
    assert not verifier(key, message, vector(0)[2])
    assert not verifier(key, message, bytes([signature[0] ^ 1]) + signature[1:])
    assert not verifier(key, message, signature[:-1] + bytes([signature[-1] ^ 16]))


def test_an_empty_message_is_checked_too():
    assert is_signed(*vector(0))


@pytest.mark.parametrize("length", [0, 63, 65])
def test_a_signature_of_another_length_is_none(length):
    key, message, signature = vector(1)
    assert not is_signed(key, message, (signature + b"0")[:length])


def test_a_key_survives_pem():
    key = vector(0)[0]
    assert from_pem(to_pem(key), "x") == key
    assert key_id(key) == "21fe31dfa154a261"


ZERO = to_pem(bytes(32))


@pytest.mark.parametrize("text", ["", "nonsense", to_pem(b"short"), ZERO.replace("MC", "MD"), ZERO[:-20], 2 * ZERO])
def test_what_is_no_key_is_refused(text):
    with pytest.raises(UserError, match="x: not an Ed25519 public key"):
        from_pem(text, "x")


WITHOUT = """
import sys
sys.modules["cryptography"] = None
sys.path.insert(0, {root!r})
from deploy.bundle.signing import is_signed
print(is_signed(bytes.fromhex({key!r}), b"\\x72", bytes.fromhex({signature!r})))
"""


def without_cryptography(path, signature):
    code = WITHOUT.format(root=str(ROOT), key=VECTORS[1][0], signature=signature)
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@needs_openssl
def test_openssl_checks_where_there_is_no_cryptography():
    right = VECTORS[1][2]
    assert without_cryptography(os.environ["PATH"], right).stdout == "True\n"
    assert without_cryptography(os.environ["PATH"], "00" + right[2:]).stdout == "False\n"


def test_without_both_nothing_is_accepted(tmp_path):
    done = without_cryptography(tmp_path, VECTORS[1][2])
    assert done.returncode != 0 and "no signature can be checked here" in done.stderr


@pytest.mark.parametrize("version", ["OpenSSL 1.1.1f  31 Mar 2020", "LibreSSL 3.3.6"])
def test_an_openssl_that_cannot_is_not_asked(tmp_path, version):
    """It knows no -rawin; whatever it answered to that would not be about the signature."""
    tool = tmp_path / "openssl"
    tool.write_text(f"#!/bin/sh\necho '{version}'\necho Signature Verified Successfully\n")
    tool.chmod(0o755)
    done = without_cryptography(f"{tmp_path}:/bin:/usr/bin", VECTORS[1][2])
    assert done.returncode != 0 and f"(found: {version}" in done.stderr


@pytest.mark.parametrize("filling", [" ", "\n", "\t", "A", "A ", "= ", "-", "-----BEGIN PUBLIC KEY-----", "\u2028"])
@pytest.mark.parametrize("frame", ["{}", "-----BEGIN PUBLIC KEY-----\n{}", "-----BEGIN PUBLIC KEY----- {} x", "{} -----END"])
def test_a_key_file_of_any_length_is_refused_at_once(filling, frame, tmp_path):
    (tmp_path / "key.pem").write_text(frame.format(filling * 300_000))
    for read in (lambda path: signing.read_pem(path), lambda path: signing.from_pem(path.read_text(), "key")):
        started = time.process_time()
        with pytest.raises(UserError, match="not an Ed25519 public key"):
            read(tmp_path / "key.pem")
        assert time.process_time() - started < 1.0
