"""Every reader of files and answers, each with the target that fuzzes it, or why there is none.

A reader is a function that hands bytes from outside of the process to a parser (``PARSERS``, ``METHODS``), or opens a file
to read. A new one fails ``test_readers.py`` until it stands here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("calib", "compress", "deploy", "profiles")
PARSERS = {
    "json.load", "json.loads", "parse_json", "read_json", "tomllib.load", "tomllib.loads", "read_toml", "parse_toml",
    "yaml.load", "yaml.safe_load", "np.load", "np.fromfile", "np.memmap", "np.frombuffer", "np.loadtxt",
    "np.genfromtxt", "read_array", "read_arrays", "np.lib.format.open_memmap", "safe_open", "load_tensors",
    "torch.load", "onnx.load", "onnx.load_model_from_string", "ElementTree.parse", "ElementTree.fromstring",
    "ElementTree.iterparse", "csv.reader", "csv.DictReader", "zipfile.ZipFile", "tarfile.open", "pickletools.genops",
    "pickle.load", "pickle.loads", "Image.open", "wave.open", "LibraryTokenizer.from_str", "sqlite3.connect",
}  # fmt: skip
METHODS = {
    "read_text", "read_bytes", "ParseFromString", "FromString", "deserialize_cuda_engine", "readline", "readlines",
    "from_pretrained",
}  # fmt: skip

FUZZED = {
    "test_recalibration.py::test_preprocessing": ("compress.pipeline.check.sides:read_preprocessing",),
    "test_recalibration.py::test_profiles": ("compress.pipeline.recalibration.opened:read_profile",),
    "test_recalibration.py::test_lineage": ("compress.pipeline.derived_bundle:earlier_lineage",),
    "test_recalibration.py::test_other_classes": (
        "compress.pipeline.class_vectors:_rows",
        "compress.pipeline.class_vectors:_names",
    ),
    "test_stored_sets.py::test_sets_that_are_given": (
        "compress.pipeline.given:_is_set",
        "compress.pipeline.given:open_samples",
    ),
    "test_recalibration.py::test_given_arrays": ("compress.data.given_samples:_arrays",),
    "test_texts.py::test_tables": (
        "compress.data.text_files:_separated",
        "compress.data.text_files:_json_lines",
        "compress.data.text_files:_text",
    ),
    "test_texts.py::test_tokenizer_files": (
        "deploy.processing.tokens:Tokenizer.__init__",
        "deploy.processing.tokens:Tokenizer._encoded",
        "deploy.processing.tokens:encode",
        "deploy.processing.tokens:_read",
    ),
    "test_whole_path.py::test_tables": (
        "deploy.processing.whole:read_table",
        "deploy.bundle.raw_samples:_answers",
        "deploy.bundle.raw_samples:read",
        "compress.pipeline.whole_path:kept_path",
        "deploy.processing.preprocessing.pixels:_image",
    ),
    "test_whole_path.py::test_recordings": (
        "deploy.processing.preprocessing.recording:_content",
        "deploy.processing.sound:_numbers",
        "deploy.processing.sound:read_wav",
    ),
    "test_plans_and_tables.py::test_sounds_and_their_tables": ("compress.data.audio_files:_table",),
    "test_task_data.py::test_sound_files": ("compress.data.recordings:read_head",),
    "test_task_data.py::test_masks": (
        "compress.data.masks:_Files.read",
        "compress.data.mask_samples:MaskCache._decode",
        "compress.data.decoding:read_header",
    ),
    "test_task_data.py::test_annotations": ("compress.data.keypoint_samples:KeypointSamples._cut",),
    "test_pictures.py::test_pictures": (
        "compress.data.images:FileImages.take",
        "compress.data.box_samples:ImageCache._decode",
        "compress.data.patches:read_image",
        "compress.data.patches:read_numbers",
        "compress.data.decoding:reason",
    ),
    "test_data_and_reports.py::test_cifar_batches": (
        "compress.data.cifar:_read_python",
        "compress.data.pickle_reader:read_pickled",
        "compress.data.pickle_reader:_Reader.fill",
    ),
    "test_pictures.py::test_binary_batches": ("compress.data.cifar:_read_binary",),
    "test_data_and_reports.py::test_coco_tables": ("compress.data.coco_files:_table",),
    "test_data_and_reports.py::test_voc_annotations_and_lists": (
        "compress.data.voc:_Reader.read",
        "compress.data.decoding:read_text",
    ),
    "test_data_and_reports.py::test_npz_files": (
        "compress.data.npz:_read",
        "deploy.files.npz:read_arrays",
        "deploy.files.npz:_checked_names",
    ),
    "test_own_files.py::test_remembered_digests_of_data": (
        "compress.data.fingerprints:_recall",
        "compress.data.fingerprints:file_digests.read",
    ),
    "test_own_files.py::test_steps": (
        "compress.execution.cache:StepCache._read",
        "compress.execution.cache:step_fault",
        "deploy.files.__init__:sha256",
        "profiles.json_text:read_json",
    ),
    "test_own_files.py::test_owners_of_locks": (
        "compress.execution.locks:_owner",
        "profiles.json_text:parse_json",
    ),
    "test_own_files.py::test_remembered_factories_and_sources": (
        "compress.models.trust:_remembered",
        "compress.pipeline.cache_keys:_Memory._load",
    ),
    "test_own_files.py::test_own_keys": (
        "compress.pipeline.signing_keys:_private",
        "deploy.bundle.signing:read_pem",
    ),
    "test_own_files.py::test_kept_times": (
        "deploy.latency.stopwatch:Stopwatch._cached",
        "deploy.latency.stopwatch:_entry",
    ),
    "test_own_files.py::test_histories_and_proofs": (
        "deploy.shipping.releases:Release.proof",
        "deploy.shipping.releases:Slot._read_history",
    ),
    "test_own_files.py::test_lists_of_trees": ("deploy.board.store:Store._forget_blobs",),
    "test_own_files.py::test_marks_of_roots": ("deploy.board.root:check",),
    "test_own_files.py::test_locks_of_boards": ("deploy.board.lock:_parsed",),
    "test_plans_and_tables.py::test_golden_samples_and_arrays_of_losses": (
        "compress.losses.base:load_npy",
        "deploy.bundle.golden:read",
        "deploy.files.npz:read_array",
    ),
    "test_stored_sets.py::test_recovery_sets": ("compress.methods.condensation.stored:load",),
    "test_stored_sets.py::test_records_of_placement": ("deploy.engines.placement:load",),
    "test_data_and_reports.py::test_checkpoints_of_safetensors": (
        "compress.models.checkpoint:load_tensors",
        "compress.models.file_kinds:_safetensors_fault",
        "compress.models.foreign:_safetensors",
    ),
    "test_confined_readers.py::test_checkpoints_of_pytorch": (
        "compress.models.foreign:read_checkpoint",
        "compress.models.foreign:_torch_file",
        "compress.models.file_kinds:zip_fault",
        "deploy.files.confined:call",
        "deploy.files.confined:_Server.ask",
    ),
    "test_hub_files.py::test_kinds_of_files": ("compress.models.file_kinds:checkpoint_kind",),
    "test_hub_files.py::test_configurations": ("compress.models.hub.hub_names:_json",),
    "test_plans_and_tables.py::test_locks_of_recipes": ("compress.models.hub.lock:read_lock",),
    "test_plans_and_tables.py::test_models_that_a_run_left": ("compress.models.plan:load",),
    "test_plans_and_tables.py::test_plans_of_engines_and_their_records": (
        "deploy.engines.base:load_plan",
        "deploy.engines.build_record:load",
    ),
    "test_bundles.py::test_tables_of_bundles": (
        "compress.pipeline.check.sides:_recipe_of",
        "deploy.bundle.bundle:load_plan",
        "deploy.bundle.manifest:read",
        "deploy.shipping.first_start:plan_here",
        "deploy.shipping.install:_reference_ms",
    ),
    "test_bundles.py::test_cascades": ("deploy.bundle.cascade:read_margin",),
    "test_bundles.py::test_packed_models": (
        "deploy.bundle.model_file:model_file",
        "deploy.packing.packed_layout:parse",
        "deploy.packing.packed_file:_read_weight",
        "deploy.packing.indices:unpack_indices",
    ),
    "test_bundles.py::test_how_outputs_are_decoded": ("deploy.processing.detection.decode:load",),
    "test_bundles.py::test_archives_of_ncnn": (
        "deploy.engines.ncnn:_stored",
        "deploy.engines.ncnn:_tensors",
    ),
    "test_data_and_reports.py::test_manifests_and_packed_files": ("deploy.bundle.manifest:parse",),
    "test_data_and_reports.py::test_reports": ("compress.report.record:read",),
    "test_first_recipes.py::test_names_of_classes": ("compress.pipeline.drafting.data_guess:_names_in",),
    "test_first_recipes.py::test_masks": ("compress.pipeline.drafting.data_guess:_mask_classes",),
    "test_studies.py::test_files_of_studies": ("compress.pipeline.search.records:_value",),
    "test_recipe_and_profile.py::test_mutated_tables_and_bytes_are_read_or_told": (
        "compress.recipe.parse:read_table",
        "profiles.device:_table",
        "profiles.toml:read_toml",
        "profiles.toml:parse_toml",
        "profiles.toml:_text",
    ),
    "test_confined_readers.py::test_onnx_files": (
        "deploy.export.from_onnx:read",
        "deploy.export.from_onnx:external_bytes",
        "deploy.export.from_onnx:convert",
        "deploy.export.from_onnx:_lost_data",
        "deploy.export.from_onnx:first_outputs",
        "deploy.export.from_onnx:run_once",
        "deploy.latency.bench:read_fault",
        "deploy.latency.estimates:_kernels",
    ),
    "test_answers.py::test_first_words_of_boards": ("deploy.board.install:_parse_probe",),
    "test_answers.py::test_agents": (
        "deploy.board.wire:Wire.receive",
        "deploy.board.link:_drain",
    ),
    "test_answers.py::test_supervisors": (
        "deploy.board.relay:Relay._read_connection",
        "deploy.board.relay:_read_words",
    ),
    "test_answers.py::test_device_sides": ("deploy.shipping.ship:_request_once",),
    "test_answers.py::test_workers": (
        "deploy.worker.client:RemoteWorker.infer",
        "deploy.worker.client:RemoteWorker._call",
        "deploy.worker.client:RemoteWorker._read_stderr",
    ),
    "test_shards.py::test_shards": (
        "compress.data.webdataset:_Shards.content",
        "compress.data.webdataset:_Shards.take",
        "compress.data.webdataset:_of_shard",
    ),
    "test_stored_sets.py::test_records_of_serving": ("deploy.engines.serving:load",),
}
"""Target in this folder, and the readers that it reaches."""

NOT_SEEN = {
    "deploy.processing.tokens:encode",
    "deploy.processing.tokens:_read",
    "compress.data.decoding:reason",
    "compress.data.masks:_Files.read",
    "compress.data.patches:read_image",
    "compress.data.patches:read_numbers",
    "compress.data.images:FileImages.take",
    "compress.data.webdataset:_Shards.content",
    "compress.data.webdataset:_Shards.take",
    "compress.data.box_samples:ImageCache._decode",
    "compress.data.mask_samples:MaskCache._decode",
    "compress.data.keypoint_samples:KeypointSamples._cut",
    "compress.data.fingerprints:file_digests.read",
    "compress.data.decoding:read_header",
    "compress.data.recordings:read_head",
    "compress.models.foreign:_torch_file",
    "compress.models.file_kinds:zip_fault",
    "deploy.export.from_onnx:external_bytes",
    "deploy.export.from_onnx:convert",
    "deploy.export.from_onnx:_lost_data",
    "deploy.export.from_onnx:run_once",
    "deploy.latency.bench:read_fault",
    "deploy.latency.estimates:_kernels",
    "deploy.board.link:_drain",
    "deploy.board.relay:Relay._read_connection",
    "deploy.board.relay:_read_words",
    "deploy.worker.client:RemoteWorker._read_stderr",
    "compress.pipeline.drafting.data_guess:_names_in",
}
"""Run in another thread or process than the target's, where it is not noted that they are reached."""

ELSEWHERE = {
    "deploy/board/test_malformed.py::test_a_worker_answers_each_malformed_request_with_one_error": (
        "deploy.worker.server:_parsed",
    ),
    "deploy/board/test_malformed.py::test_a_job_goes_on_when_a_client_speaks_another_language": (
        "deploy.board.job:JobSupervisor._hear",
    ),
    "deploy/shipping/test_ship.py::test_a_device_that_answers_anything_is_told_in_short_lines": (
        "deploy.shipping.commands:_read_request",
    ),
    "compress/data/test_hostile_names.py::test_rows_of_the_hub_name_pictures": (
        "compress.data.huggingface:_opened",
        "compress.data.huggingface:_content",
    ),
    "compress/training/test_teacher_cache.py": (
        "compress.training.teacher_cache:TeacherCache._array",
        "compress.training.teacher_cache:TeacherCache._make",
    ),
}
"""Test of another folder, below ``tests/``, that gives the readers damaged input."""

NOT_FUZZED = {
    "a file that this very process, or a step of this run whose files are checked by SHA-256, has written": (
        "compress.data.box_samples:room",
        "compress.methods.condensation.stored:StoredSet.arrays",
        "compress.methods.distillation.query_budget:QueriedSignals.query",
        "compress.methods.quantization.calibration_selection:load_selection",
        "compress.models.plan:copy_saved",
        "compress.pipeline.check.kept:_replace",
        "compress.pipeline.check.labelled:_misfits",
        "compress.methods.condensation.making:identity",
        "compress.pipeline.device_costs:DeviceCostModel.costs",
        "compress.pipeline.device_costs:DeviceCostModel._in_float",
        "compress.pipeline.device_costs:DeviceCostModel._layers",
        "compress.pipeline.evaluation:Evaluation.kept",
        "compress.pipeline.evaluator:Evaluator.float_model",
        "compress.pipeline.model_builder:ModelBuilder.float_model",
        "compress.pipeline.recalibration.opened:load_plain",
        "compress.pipeline.recalibration.recalibrate:_write_model",
        "compress.pipeline.agreement:Agreement._parted",
        "compress.pipeline.evaluator:Evaluator._structure",
        "compress.pipeline.evaluator:Evaluator.infer",
        "compress.pipeline.exports:Exporter._from_onnx.make",
        "compress.pipeline.exports:Exporter._from_program.calibrated",
        "compress.pipeline.exports:Exporter.exported.make",
        "compress.pipeline.exports:Exporter._post_training.make",
        "compress.pipeline.exports:Exporter.packed.make",
        "compress.pipeline.served_models:ServedModels._reference_at",
        "compress.pipeline.teachers:Teachers.labelled",
        "compress.pipeline.condensing:condense",
        "compress.stages.base:Context.train",
        "compress.recipe.spec:Recipe.as_json",
        "compress.pipeline.folding:fold.make",
        "compress.pipeline.whole_path:WholePath.preprocessing",
        "compress.pipeline.search.space:_chosen",
        "compress.training.state:_read",
        "compress.training.trainer:Trainer._layout",
        "deploy.bundle.bundle:_copy_model",
        "deploy.export.pnnx:convert",
        "deploy.export.to_litert:to_litert",
        "deploy.export.to_mnn:_convert",
        "deploy.export.to_ncnn:_packed",
        "deploy.export.to_packed:pack_model",
        "deploy.engines.ort_providers:ProviderEngine._placement",
        "deploy.latency.bench:_builder.prepare",
        "deploy.worker.server:Worker.infer",
        "deploy.worker.server:Worker.warm",
        "compress.methods.pruning.structure.coupling:_sets",
        "compress.models.hub.lock:write_lock",
        "deploy.board.agent:Agent._start",
        "deploy.board.agent:_is_alive",
        "deploy.devices.ssh_connection:SharedConnection._start_master",
        "deploy.devices.ssh_connection:is_dead_here",
        "deploy.shipping.releases:locked",
        "compress.pipeline.drafting.draft:draft",
    ),
    "a file of the package itself": (
        "compress.cli.static:SourceModule.__init__",
        "compress.models.plan:sources",
        "compress.pipeline.cache_keys:_Memory.source",
        "deploy.board.install:payload",
        "deploy.board.install:unpack_script",
        "deploy.latency.roofline:calibrations",
        "deploy.processing.detection.standalone:_source",
        "profiles.facts:jetpack_table",
        "profiles.facts:core_table",
    ),
    "a file of the system itself": (
        "compress.pipeline.host:_governor",
        "compress.pipeline.search.study:_started",
        "deploy.board.lock:boot_id",
        "deploy.files.confined:bounded_memory",
        "deploy.files.confined:_limit",
        "deploy.measure.clocks:ClockLock.__init__",
        "deploy.measure.clocks:_performance_governor",
        "deploy.measure.conditions:_text",
        "deploy.measure.footprint:peak_mib",
        "deploy.measure.load:load_average",
        "deploy.measure.load:_ticks",
        "profiles.facts:_read",
    ),
    "a request of the process that started this one": (
        "deploy.files.confined:serve",
        "deploy.files.confined:main",
    ),
    "bytes that are sent on as they are, against their SHA-256": (
        "deploy.board.link:Link.put.send",
        "deploy.board.store:Store.read",
        "deploy.shipping.ship:_Shipment._read",
        "compress.pipeline.derived_bundle:write_derived",
        "deploy.devices.ssh:SSH._make_venv",
    ),
    "bytes of a sample that its own reader has taken, handed on": (
        "compress.data.audio_samples:AudioSamples.raw",
        "compress.data.box_samples:ImageCache.content",
        "compress.data.images:FileImages.content",
        "compress.data.keypoint_samples:KeypointSamples.raw",
        "compress.data.mask_samples:MaskCache.content",
        "deploy.processing.raws:pack",
    ),
    "read after another reader of the table has taken the file": (
        "deploy.processing.preprocessing.text:tokenizer_from",
        "deploy.processing.raws:_sample",
        "compress.pipeline.check.sides:_precision",
        "compress.tasks.detection:_priors",
        "deploy.shipping.detect:_samples",
    ),
    "a reader of the runtime itself, for which its makers answer": (
        "deploy.engines.executorch:_input_names",
        "deploy.engines.tensorrt:TensorRT.build",
        "deploy.engines.tensorrt:TensorRT.open",
        "deploy.engines.tensorrt:_parse",
    ),
    "a library builds the class alone, from a state dict that is read before": (
        "compress.models.factory:_transformers.build",
        "compress.models.hub.hub_names:published",
    ),
}
"""Reason, and the readers that it holds for."""


def find_readers() -> Iterator[str]:
    """Find all readers, as ``module:function``."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield from (f"{module}:{name}" for name in dict.fromkeys(_readers_in(ast.parse(path.read_text("utf-8")), ())))


def _readers_in(node: ast.AST, scope: tuple[str, ...]) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inner = (*scope, child.name) if isinstance(child, ast.FunctionDef | ast.ClassDef) else scope
        if isinstance(child, ast.Call) and _is_reading(child):
            yield ".".join(inner)
        yield from _readers_in(child, inner)


def _is_reading(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if name in PARSERS or (isinstance(call.func, ast.Attribute) and last in METHODS):
        return True
    modes = [a.value for a in (*call.args, *(k.value for k in call.keywords)) if isinstance(a, ast.Constant)]
    mode = next((m for m in modes if isinstance(m, str) and m and set(m) <= set("rwabxt+")), "")
    return last == "open" and ("r" in mode or "+" in mode)
