"""README.md of a bundle: how to run it without this product, what is before and after it, who made it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from deploy.bundle import golden as goldens
from deploy.bundle.manifest import FileEntry
from deploy.engines import BuildPlan, serving
from deploy.engines.serving import Serving
from deploy.processing import whole
from profiles.device import DeviceProfile

README = """# {title}

`{file}` was proven with {engine} in {precision} on {device}; `report.json` has the figures, `golden.npz` inputs
and the outputs to expect (as many samples as a megabyte holds), `preprocessing.json` what was done to a sample before the
model saw it. Kernels of another processor or version round otherwise: it is normal that {difference}.
{example}
Who made it: `manifest.json` has the SHA-256 of every file. Where there is a `manifest.sig`, this checks it:

    openssl pkeyutl -verify -pubin -inkey KEY.pem -rawin -in manifest.json -sigfile manifest.sig

With the device side of edge-compress, from outside of this folder (Python imports files of the one where it is started):

    python -m deploy verify FOLDER --key KEY.pem      # the signature by that key, every file, the golden samples
    python -m deploy verify FOLDER                    # by the keys that this device trusts
    python -m deploy verify FOLDER --unsigned         # everything but who signed it: what no key here can tell

After `compress ship`, `python -m deploy serve-check` does so for the model that the device serves.
"""
WHOLE = """
From a raw sample to its answer, with the device side of edge-compress and {needs}:

```python
import deploy

model = deploy.load("FOLDER")  # or "current", after `compress ship`
print(model({example}))
```

It takes {takes}. An answer has {gives}.
`raw.npz` holds raw samples and `answers.json` what is answered to the golden outputs of these; a device that installs the
bundle proves the whole path with them.
"""
READ = """
Its outputs are raw: `decode.md` has the lines of numpy that make boxes, classes and scores of them, `decode.json` the
classes and the score from which each is shown.
"""
SIZES = """
There is a model for each {name}: {sizes}; the smaller ones lie below `{smallest}` and its like. A sample goes to the
smallest that holds it, filled up as `serving.json` says.
"""
STATES = """
It is run step by step: {names} are fed back, from the outputs that `serving.json` names by their place; zeros begin a
sequence. The golden samples are whole sequences. `deploy.engines.served.open_served(FOLDER)` of a built engine does so,
with `step` and `reset`.
"""
PACKED_EXAMPLE = """
The model lies in `model.packed`, its weights as indices of few points. This makes `model.onnx` of it again, byte for
byte (SHA-256 `{sha256}`); run it first:

```python
import json
import zlib

import numpy as np

raw = open("model.packed", "rb").read()  # a safetensors file
start = 8 + int.from_bytes(raw[:8], "little")
header = json.loads(raw[8:start])
about, kinds = header.pop("__metadata__"), {{"F32": "<f4", "U8": "u1"}}
spans = {{name: [start + at for at in told["data_offsets"]] for name, told in header.items()}}
arrays = {{name: np.frombuffer(raw[a:b], kinds[header[name]["dtype"]]) for name, (a, b) in spans.items()}}


def take(name, number):
    found, arrays[name] = arrays[name][:number], arrays[name][number:]
    return found


def indices(w, number):
    stored = take("indices", w["bytes"])
    if w["code"] == "deflate":
        return np.frombuffer(zlib.decompress(stored.tobytes(), -15), "u1")
    bits = np.unpackbits(stored)
    return bits[: number * w["bits"]].reshape(number, -1) @ 2 ** np.arange(w["bits"])[::-1]


pieces = []
for w in json.loads(about["weights"]):
    number, levels = int(np.prod(w["shape"])), 2 ** w["bits"]
    bucket = np.arange(number) // w["bucket"]
    points = (np.arange(levels) / (levels - 1)).astype("f4") if w["even"] else take("points", levels)
    low, span = take("low", bucket[-1] + 1)[bucket], take("span", bucket[-1] + 1)[bucket]
    weight = (low + span * points[indices(w, number)]).reshape(w["shape"]).transpose(w["axes"])
    if w["form"] == "int8":
        scale = take("scales", w["scales"])
        pieces.append((w["scales_at"], scale.tobytes()))
        scale = scale.reshape([-1 if axis == w["axis"] else 1 for axis in range(weight.ndim)])
        weight = np.clip(np.rint(weight / scale), -w["limit"], w["limit"])
    pieces.append((w["at"], weight.astype(w["form"]).tobytes()))
rest, model = zlib.decompress(arrays["rest"].tobytes()), b""
for at, piece in sorted(pieces):
    model, rest = model + rest[: at - len(model)] + piece, rest[at - len(model) :]
open("model.onnx", "wb").write(model + rest)
```
"""


def text(title: str, plan: BuildPlan, profile: DeviceProfile, decoded: Mapping[str, FileEntry]) -> str:
    """Write the page, without what is told of processing, sizes and states."""
    hint = "bf16" if plan.precision == "bf16" else "f32"
    example = plan.format.example.format(batch=plan.batch, hint=hint)
    for entry in decoded.values():
        example = PACKED_EXAMPLE.format(sha256=entry.sha256) + example
    return README.format(
        title=title,
        file=plan.model_file,
        engine=plan.engine,
        precision=plan.precision,
        device=profile.title,
        difference=goldens.normal_difference(plan.precision),
        example=example,
    )


def around_text(part: Path) -> str:
    """Write how an application calls the bundle."""
    processing = whole.load(part)
    kind = type(processing.before).__name__
    texts, sounds = kind in ("Text", "Words"), kind == "Recording"
    example = '"a text"' if texts else '"sound.wav"' if sounds else "array" if kind == "Array" else '"photo.jpg"'
    needs = "tokenizers" if texts else "numpy" if sounds or kind == "Array" else "Pillow"
    more = ", box=(x, y, width, height)" if processing.before.takes_box else ""
    return WHOLE.format(needs=needs, example=example + more, takes=processing.before.takes, gives=processing.after.gives)


def serving_text(served: Serving) -> str:
    """Say how samples reach the engines."""
    lines = []
    if served.sizes is not None:
        sizes = ", ".join(str(size) for size in served.sizes.sizes)
        lines.append(SIZES.format(name=served.sizes.name, sizes=sizes, smallest=serving.part(served.sizes.sizes[0])))
    if served.states:
        lines.append(STATES.format(names=", ".join(state.name for state in served.states)))
    return "".join(lines)
