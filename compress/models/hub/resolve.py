"""From a name in a recipe to files on disk, held to the recipe's lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, final

from compress.models.checkpoint import WeightsSpec, checkpoint_path
from compress.models.hub.address import address_folder, fetch_address, pin_address
from compress.models.hub.fetch import Say
from compress.models.hub.fill import READERS
from compress.models.hub.lock import check_pin, lock_path, read_lock, write_lock
from compress.models.hub.records import Found, Pin, is_address
from deploy.files import sha256
from profiles.errors import UserError


@final
@dataclass(frozen=True, kw_only=True)
class Resolver:
    """Resolves the names of one recipe; ``save`` writes what they stood for beside it.

    Attributes:
        recipe: its file; None for a run without one, which has no lock.
    """

    recipe: Path | None
    say: Say
    pins: dict[tuple[str, str], Pin] = field(default_factory=dict)

    @property
    def lock(self) -> Path | None:
        """Path of the recipe's lock."""
        return None if self.recipe is None else lock_path(self.recipe)

    def model(self, reference: str, arguments: Mapping[str, Any], revision: str) -> Found:
        """Resolve ``timm:NAME``, ``torchvision:NAME`` or ``hf:OWNER/NAME`` with its published weights.

        Raises:
            UserError: there is no such name, it cannot be had, or the lock has other bytes.
        """
        kind, _, name = reference.partition(":")
        held = self._held(reference, revision)
        found: Found = READERS[kind].find(name, arguments, revision, held, self.say)
        self._keep(held, found.pin)
        return found

    def weights(self, spec: str | WeightsSpec, digest: str) -> WeightsSpec:
        """Resolve weights: those at an address are fetched; where the recipe has a SHA-256, the file must have it.

        Raises:
            UserError: they cannot be had, or have other bytes than the recipe or the lock says.
        """
        spec = WeightsSpec(file=spec) if isinstance(spec, str) else spec
        if not is_address(spec.file):
            if digest and (given := sha256(checkpoint_path(spec.file))) != digest:
                raise UserError(f"weights {spec.file}: the SHA-256 is {given}; the recipe says {digest}")
            return spec
        held = self._held(spec.file, "")
        expected = digest or (held.files[0].sha256 if held is not None and held.files else "")
        path = fetch_address(spec.file, address_folder(spec.file), self.say, expected=expected)
        pin = pin_address(spec.file, path)
        if not expected:
            self.say(f'  weights {spec.file}: sha256 = "{pin.files[0].sha256}"')
        self._keep(held, pin)
        return replace(spec, file=str(path))

    def save(self) -> None:
        """Write the lock beside the recipe, where there is something to pin."""
        lock = self.lock
        if lock is None or not self.pins or self.recipe is None:
            return
        try:
            write_lock(lock, self.recipe.name, self.pins.values())
        except OSError as error:
            self.say(f"warning: {lock} cannot be written ({error.strerror}); later runs are not held to these weights")

    def _held(self, model: str, asked: str) -> Pin | None:
        """Return the lock's entry for a name; None where the recipe asks for another revision than it did then."""
        if self.lock is None:
            return None
        pins = read_lock(self.lock)
        for pin in pins.values():
            if pin.model == model and pin.asked != asked and (model, asked) not in pins:
                was, now = pin.asked or "none", asked or "none"
                self.say(
                    f"  {self.lock}: the recipe asks for revision {now} of {model}, and did for {was}; it is pinned anew"
                )
        return pins.get((model, asked))

    def _keep(self, held: Pin | None, pin: Pin) -> None:
        check_pin(held, pin, self.lock)
        self.pins[pin.key] = pin
