"""Explanations for common ssh errors."""

from __future__ import annotations

# What ssh says, and what to do. The first that fits; those marked True may go away by themselves.
NO_ANSWER = "no answer: is the board on, and in this network?"
HINTS: tuple[tuple[str, str, bool], ...] = (
    ("HOST IDENTIFICATION HAS CHANGED", "remove the old key with ssh-keygen -R if you set the board up anew", False),
    ("Host key verification failed", "the board's key is not known yet: connect once by hand and compare it", False),
    ("Permission denied", "the board accepts no key that ssh offers: ssh-copy-id; passwords are not asked for", False),
    ("Could not resolve hostname", "no such host: check the name, or give its address", False),
    ("Bad configuration option", "mend the ssh configuration", False),
    ("Can't open user config file", "EDGE_SSH_CONFIG names no file that can be read", False),
    ("is not used, and nothing in it was removed", "", False),
    ("Connection refused", "nothing listens there: is the board on, and its sshd running on that port?", True),
    ("timed out", NO_ANSWER, True),
    ("No route to host", NO_ANSWER, True),
    ("Network is unreachable", "this machine has no network", True),
)


def is_final(words: str) -> bool:
    """Return whether trying again cannot help."""
    hint = next((h for h in HINTS if h[0] in words), None)
    return hint is not None and not hint[2]


def explain(words: str) -> str:
    """Return the last line of ssh's output, and the remedy."""
    hint = next((f"; {remedy}" * bool(remedy) for sign, remedy, _ in HINTS if sign in words), "")
    lines = [line.strip(" \r@") for line in words.splitlines() if line.strip(" \r@")]
    return f"{lines[-1] if lines else 'ssh said nothing'}{hint}"
