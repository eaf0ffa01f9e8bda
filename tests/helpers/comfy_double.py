"""What of ComfyUI the nodes meet: its rules of validating and executing a prompt, and the modules that nodes call.

Written after `execution.py`, `comfy_execution/validation.py` and `folder_paths.py` of ComfyUI (November 2026): the
order of checks, the kinds of errors, what is converted, what a node is called with, when it runs again, and that all of
it happens in inference mode.
"""

import os
import types
from pathlib import Path
from typing import Any

import torch


class Interrupted(Exception):
    """comfy.model_management.InterruptProcessingException."""


class Bar:
    """comfy.utils.ProgressBar: what it was told."""

    made: list["Bar"] = []  # noqa: RUF012 - the node makes its own, so the test looks here

    def __init__(self, total, node_id=None):
        del node_id
        self.total, self.told = total, []
        Bar.made.append(self)

    def update_absolute(self, value, total=None, preview=None):
        del preview
        self.total = self.total if total is None else total
        self.told.append((min(value, self.total), self.total))


class Preview:
    """The node at whose end a prompt hangs: ComfyUI refuses a prompt without an OUTPUT_NODE."""

    FUNCTION, RETURN_TYPES, OUTPUT_NODE, CATEGORY = "keep", (), True, "image"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def keep(self, images):
        return {"ui": {"images": [images.clone()]}}


class Given:
    """An image or a mask that is there."""

    FUNCTION, CATEGORY = "give", "test"

    def __init__(self, value):
        self.value = value

    def give(self):
        return (self.value,)


def source(kind, value):
    """The class of a node without inputs that gives `value` of a type."""
    members = {"__init__": lambda self: Given.__init__(self, value), "RETURN_TYPES": (kind,)}
    members["INPUT_TYPES"] = classmethod(lambda _: {"required": {}})
    return type(f"Given{kind.title()}", (Given,), members)


def is_link(value):
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


class Comfy:
    """A server without its window: `nodes` by their names, results kept from prompt to prompt."""

    def __init__(self, nodes):
        self.nodes = {**nodes, "Preview": Preview}
        self.cache: dict[Any, Any] = {}
        self.objects: dict[Any, Any] = {}
        self.ran: list[str] = []

    def validate(self, prompt):
        """Problems as (node, type, details); empty where the prompt may run."""
        outputs = [key for key, node in prompt.items() if getattr(self.nodes[node["class_type"]], "OUTPUT_NODE", False)]
        if not outputs:
            return [("", "prompt_no_outputs", "")]
        problems, seen = [], set()
        for key in outputs:
            self._validate(prompt, key, problems, seen)
        return problems

    def _validate(self, prompt, key, problems, seen):
        if key in seen:
            return
        seen.add(key)
        inputs, node = prompt[key]["inputs"], self.nodes[prompt[key]["class_type"]]
        sections = node.INPUT_TYPES()
        for section in ("required", "optional"):
            for name, (kind, *extra) in sections.get(section, {}).items():
                if name not in inputs:
                    if section == "required":
                        problems.append((key, "required_input_missing", name))
                elif isinstance(inputs[name], list):
                    self._validate_link(prompt, key, name, kind, problems, seen)
                else:
                    self._validate_value(key, inputs, name, kind, extra[0] if extra else {}, problems)

    def _validate_link(self, prompt, key, name, kind, problems, seen):
        value = prompt[key]["inputs"][name]
        if len(value) != 2:
            problems.append((key, "bad_linked_input", name))
            return
        given = self.nodes[prompt[value[0]]["class_type"]].RETURN_TYPES[value[1]]
        if given != kind and "*" not in (given, kind):
            problems.append((key, "return_type_mismatch", f"{name}: {given} for {kind}"))
            return
        self._validate(prompt, value[0], problems, seen)

    @staticmethod
    def _validate_value(key, inputs, name, kind, extra, problems):
        convert = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}.get(
            kind if isinstance(kind, str) else ""
        )
        try:
            value = inputs[name] = convert(inputs[name]) if convert else inputs[name]
        except (ValueError, TypeError):
            problems.append((key, "invalid_input_type", name))
            return
        if "min" in extra and value < extra["min"]:
            problems.append((key, "value_smaller_than_min", name))
        elif "max" in extra and value > extra["max"]:
            problems.append((key, "value_bigger_than_max", name))
        elif isinstance(kind, list) and value not in kind:
            problems.append((key, "value_not_in_list", f"{name}: {value!r} not in {kind}"))

    def run(self, prompt):
        """What the output nodes show. Raises what a node raises, and AssertionError for a prompt that is not valid."""
        assert self.validate(prompt) == []
        self.ran, shown = [], {}
        self.cache = {sign: kept for sign, kept in self.cache.items() if sign in self._signatures(prompt)}
        with torch.inference_mode():
            for key, node in prompt.items():
                if getattr(self.nodes[node["class_type"]], "OUTPUT_NODE", False):
                    shown[key] = self._result(prompt, key)
        return shown

    def _signatures(self, prompt):
        return {self._signature(prompt, key) for key in prompt}

    def _signature(self, prompt, key):
        """What a result is kept by: the class, IS_CHANGED of constants, all inputs and those of the nodes before."""
        node = prompt[key]
        kind, inputs = self.nodes[node["class_type"]], node["inputs"]
        constants = {name: None if is_link(value) else value for name, value in inputs.items()}
        changed = kind.IS_CHANGED(**constants) if hasattr(kind, "IS_CHANGED") else False
        before = {name: self._signature(prompt, value[0]) for name, value in inputs.items() if is_link(value)}
        plain = sorted((name, repr(value)) for name, value in inputs.items() if not is_link(value))
        return repr((node["class_type"], changed, plain, sorted(before.items())))

    def _result(self, prompt, key):
        sign = self._signature(prompt, key)
        if sign in self.cache:
            return self.cache[sign]
        node = prompt[key]
        kind = self.nodes[node["class_type"]]
        known = {name for section in ("required", "optional") for name in kind.INPUT_TYPES().get(section, {})}
        given = {}
        for name, value in node["inputs"].items():
            if is_link(value):
                given[name] = self._result(prompt, value[0])[value[1]]
            elif name in known:  # others are not handed over
                given[name] = value
        made = self.objects.setdefault((key, node["class_type"]), kind())  # one object a node, kept
        self.ran.append(key)
        answer = getattr(made, kind.FUNCTION)(**given)
        if isinstance(answer, dict):
            self.cache[sign] = answer["ui"]
        else:
            assert isinstance(answer, tuple)
            assert len(answer) == len(kind.RETURN_TYPES)
            self.cache[sign] = answer
        return self.cache[sign]


def comfy_modules(models):
    """folder_paths and comfy, as far as nodes call them."""
    paths = types.ModuleType("folder_paths")
    paths.models_dir = str(models)
    paths.folder_names_and_paths = {"checkpoints": ([str(models / "checkpoints")], {".safetensors"})}

    def add(name, path, is_default=False):
        known, endings = paths.folder_names_and_paths.setdefault(name, ([], set()))
        if path not in known:
            known.insert(0 if is_default else len(known), path)
        del endings

    def listed(kind):
        """With sub-folders, by their names; without endings, all files."""
        folders, endings = paths.folder_names_and_paths[kind]
        files = {
            os.path.relpath(file, folder): file.suffix.lower()
            for folder in folders
            for file in Path(folder).rglob("*")
            if file.is_file()
        }
        return sorted(name for name, ending in files.items() if not endings or ending in endings)

    def full_path(kind, name):
        for folder in paths.folder_names_and_paths[kind][0]:
            if os.path.isfile(os.path.join(folder, name)):
                return os.path.join(folder, name)
        raise FileNotFoundError(f"Model in folder '{kind}' with filename '{name}' not found.")

    paths.get_filename_list, paths.get_full_path_or_raise, paths.add_model_folder_path = listed, full_path, add
    comfy, utils, management = (types.ModuleType(name) for name in ("comfy", "comfy.utils", "comfy.model_management"))
    utils.ProgressBar = Bar
    management.InterruptProcessingException = Interrupted
    management.get_torch_device = management.intermediate_device = lambda: torch.device("cpu")
    management.pressed_after = None  # calls until Cancel is pressed
    management.freed = []
    management.free_memory = lambda needed, device, **_: management.freed.append((needed, device))

    def throw():
        if management.pressed_after is not None:
            management.pressed_after -= 1
            if management.pressed_after < 0:
                raise Interrupted

    management.throw_exception_if_processing_interrupted = throw
    comfy.utils, comfy.model_management = utils, management
    return {"folder_paths": paths, "comfy": comfy, "comfy.utils": utils, "comfy.model_management": management}
