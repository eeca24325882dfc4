"""The data as the models of a run take it: brought to sizes, as sequences where states are fed back."""

from __future__ import annotations

from pathlib import Path

from compress.data import Splits
from compress.pipeline.input_sizes import sized_data
from compress.pipeline.input_states import sequence_data
from compress.recipe.spec import Recipe, teacher_plan
from deploy.engines.serving import NOTHING, Serving
from deploy.export import from_onnx


def served_data(recipe: Recipe, data: Splits) -> tuple[Splits, Serving]:
    """Return the data as models take it, and how samples reach them; both as they are where the recipe says nothing.

    Raises:
        UserError: sizes or states that model and data do not have; all of them.
    """
    if not recipe.inputs and not recipe.states:
        return data, NOTHING
    teacher = recipe.teacher
    model = from_onnx.read(Path(teacher.model)) if teacher.is_onnx else teacher_plan(teacher).build()
    data, sizes = sized_data(data, recipe.inputs, model) if recipe.inputs else (data, None)
    return sequence_data(data, recipe.states, model) if recipe.states else (data, Serving(sizes=sizes))
