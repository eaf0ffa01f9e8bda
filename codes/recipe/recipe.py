"""The recipe: every option of a training or inference run, typed, and the checks that need more than one section."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AliasChoices, Field, GetJsonSchemaHandler, ValidationInfo, field_validator, model_validator
from pydantic_core import CoreSchema

from ..config.all_problems import check_all
from ..config.effect import OnlyWith
from ..config.fingerprint import CONTENT_ONLY, PLACE_ONLY, REPORT_ONLY, SPEED_ONLY, TRAINING_ONLY
from ..config.options import ONE_OF, FilePart, OneOf, Options, nested, parse, parse_typed, validate_nested
from ..config.paths import UserPath, user_path
from ..config.plugins import import_plugins, import_submodules
from ..config.yaml_source import Issue, Source, located
from ..data.datasets import DATASETS, DatasetOptions
from ..evaluation.evaluators.base import EVALUATORS, EvaluatorOptions
from ..graph.step_options import WITHOUT_EMPTY, StepOptions
from ..models.diffusion.networks.base import NETWORKS
from .generation_options import GenerationOptions
from .name_checks import name_issues
from .output_options import OutputOptions
from .train_options import LoggerOptions, TrainOptions

PRETRAIN = "pretrain_model_"
INDEPENDENT = ("train", "logger", "path")
REGISTERING = (
    "models.diffusion",
    "models.diffusion.networks",
    "data",
    "data.corruptions",
    "graph.injectors",
    "graph.losses",
    "evaluation.evaluators",
)  # packages whose modules register classes


class NetworkSection(Options):
    """One network: `networks.<name>`."""

    type: Literal["generator"] = Field("generator", description="Kind of network; only generators are known.")
    which_model_G: str = Field(
        validation_alias=AliasChoices("which_model_G", "which_model"),
        description="The architecture: its registered name.",
    )
    trainable: Annotated[bool, TRAINING_ONLY] = Field(
        True, description="false freezes the parameters and keeps the network in evaluation mode."
    )
    args: Any = Field(default_factory=dict, validate_default=True, description="Options of the architecture.")

    @field_validator("which_model_G")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in NETWORKS:
            raise nested([Issue((), NETWORKS.unknown(name))])
        return name

    @field_validator("args", mode="before")
    @classmethod
    def _typed_args(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.data.get("which_model_G")
        return value if name is None else validate_nested(NETWORKS.get(name).Options, value)

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = super().__get_pydantic_json_schema__(core, handler)
        own = handler.resolve_ref_schema(schema)
        own["properties"]["args"] = {"type": "object", "description": cls.model_fields["args"].description}
        own["allOf"] = [
            {ONE_OF: {"kind": NETWORKS.kind, "key": key, "below": "args"}} for key in ("which_model_G", "which_model")
        ]
        return schema


class PathOptions(Options):
    """Where weights come from: `path`. A key `pretrain_model_<network>` names the weights of a network."""

    pretrain: Annotated[dict[str, UserPath], CONTENT_ONLY] = Field(
        {},
        validation_alias=PRETRAIN + "<network>",
        description="Network -> checkpoint file, the name of weights that come with the project (tessera-photo-2x), or "
        "of `experiment` `auto`: the newest EMA weights, or `best`: those that logger.keep_best kept.",
    )
    experiment: Annotated[UserPath | None, CONTENT_ONLY] = Field(
        None, description="Name or folder of the experiment that `auto` and `best` look into; default: `name`."
    )
    results: Annotated[UserPath | None, PLACE_ONLY] = Field(
        None, description="Folder that a test run writes to; default: results/<name>."
    )
    strict_load: Annotated[bool, OnlyWith("pretrain")] = Field(
        True, description="Every parameter must be found in the checkpoint, and nothing else in it."
    )
    resume_state: Annotated[UserPath | None, TRAINING_ONLY] = Field(
        None, description="A training_state/<iteration>.state file to continue from."
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = super().__get_pydantic_json_schema__(core, handler)
        own = handler.resolve_ref_schema(schema)
        named = own["properties"].pop(PRETRAIN + "<network>")
        weights = {"type": ["string", "null"], "description": named["description"]}
        own["patternProperties"] = {f"^{PRETRAIN}": weights}
        return schema

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        if "pretrain" in data:
            raise nested([Issue(("pretrain",), f"unknown key (write {PRETRAIN}<network>: FILE, or auto)")])
        own = {key: value for key, value in data.items() if not key.startswith(PRETRAIN)}
        named = {key.removeprefix(PRETRAIN): value for key, value in data.items() if key.startswith(PRETRAIN)}
        if wrong := [issue for key, value in named.items() for issue in _file_issues(PRETRAIN + key, value)]:
            raise nested(wrong)
        return {**own, PRETRAIN + "<network>": {key: value for key, value in named.items() if value is not None}}


def _file_issues(key: str, value: Any) -> Iterator[Issue]:
    """What is wrong with a file name that may be left out."""
    if not isinstance(value, str | None):
        yield Issue((key,), f"expected a file name or ~, found {value!r}", wants_text=True)
        return
    try:
        user_path("auto" if value is None else value)
    except ValueError as error:
        yield Issue((key,), str(error))


class EvalOptions(Options):
    """What is measured and written: `eval`."""

    output_state: str | tuple[str, ...] | None = Field(
        None,
        description="State keys of the images that a test run writes; ~: all that inference injectors write.",
    )
    evaluators: Annotated[
        dict[FilePart, Annotated[EvaluatorOptions, OneOf(EVALUATORS, "type")]], WITHOUT_EMPTY, REPORT_ONLY
    ] = Field({}, description="Evaluations during training; `name: ~` takes one of a `base:` away.")

    @field_validator("output_state")
    @classmethod
    def _names_something(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if value == ():
            raise ValueError("an empty list; name at least one state key, or remove this key to write all results")
        return value


class Recipe(Options):
    """A whole option file."""

    name: Annotated[FilePart, PLACE_ONLY] = Field(
        description="Name of the experiment: the folder under experiments/ or results/."
    )
    model: Literal["extensibletrainer"] = Field("extensibletrainer", description="The trainer; there is one.")
    plugins: tuple[UserPath, ...] = Field((), description="Python files of your own to import, relative to the recipe.")
    scale: int = Field(1, ge=1, le=1024, description="Upsampling factor from lq to hq; datasets inherit it.")
    gpu_ids: Annotated[tuple[int, ...] | None, SPEED_ONLY] = Field(
        None, description="The CUDA device to use without a launcher: the first of these."
    )
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], SPEED_ONLY] = Field(
        "auto", description="auto: CUDA, else MPS, else the CPU."
    )
    start_step: Annotated[int, TRAINING_ONLY] = Field(
        -1, ge=-1, description="Iteration number to start counting from; -1 is not set. A resume always wins."
    )
    force_start_step: Annotated[int, TRAINING_ONLY] = Field(
        -1, ge=-1, description="Older name of start_step; -1 is not set."
    )
    use_tb_logger: Annotated[bool, REPORT_ONLY] = Field(
        True, description="Write TensorBoard logs to experiments/<name>/tb_logger."
    )
    wandb: Annotated[bool, REPORT_ONLY] = Field(
        False, description="Also log to Weights & Biases (`pip install wandb`)."
    )
    checkpointing_enabled: Annotated[bool, SPEED_ONLY] = Field(
        False, description="Recompute activations in the backward pass: less memory, one more forward pass."
    )
    fp16: bool = Field(False, description="Mixed precision in float16; the same as `precision: fp16`.")
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = Field(
        "fp32",
        description="Arithmetic of the networks; weights stay in float32. auto: bf16 where the hardware has it, "
        "else fp32; tf32: float32 that CUDA rounds to 10 bits in convolutions and products.",
    )
    compile: Annotated[bool, SPEED_ONLY] = Field(
        False, description="Compile networks with torch.compile: slow to start, then faster."
    )
    seed: int | None = Field(
        None, ge=0, description="Seed from which every random draw follows; ~: train.manual_seed, or 0 without `train`."
    )
    datasets: dict[FilePart, Annotated[DatasetOptions, OneOf(DATASETS, "mode")]] = Field(
        {}, description="The data, by phase."
    )
    networks: Annotated[dict[FilePart, NetworkSection], WITHOUT_EMPTY] = Field(
        {},
        description="The networks; a test run can take them from the checkpoint. `name: ~` takes one of `base:` away.",
    )
    path: PathOptions = Field(PathOptions(), description="Where weights come from.")
    steps: Annotated[dict[FilePart, StepOptions], WITHOUT_EMPTY] = Field(
        {}, description="The graph: what happens to a batch, in order; `name: ~` takes one of a `base:` away."
    )
    train: Annotated[TrainOptions | None, TRAINING_ONLY] = Field(
        None, description="The training loop; absent in inference recipes."
    )
    eval: EvalOptions = Field(EvalOptions(), description="What is measured and written.")
    output: OutputOptions = Field(OutputOptions(), description="How a test run writes its results.")
    generate: GenerationOptions | None = Field(None, description="Make images from nothing instead of restoring some.")
    logger: Annotated[LoggerOptions, REPORT_ONLY] = Field(LoggerOptions(), description="What is shown and kept.")

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, data: Any) -> Any:
        """Datasets take `scale` and their name from where they stand."""
        if not isinstance(data, Mapping) or not isinstance(data.get("datasets"), Mapping):
            return data
        scale = {"scale": data["scale"]} if "scale" in data else {}
        named = {
            phase: {"name": phase, **scale, **section} if isinstance(section, Mapping) else section
            for phase, section in data["datasets"].items()
        }
        return {**data, "datasets": named}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.fp16 and self.precision == "bf16":
            raise nested([Issue(("fp16",), "fp16: true contradicts precision: bf16; remove one")])
        if self.generate is not None and self.train is not None:
            message = "belongs to a recipe for test.py, and `train` to one for train.py; write two recipes"
            raise nested([Issue(("generate",), message)])
        return self

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        evaluators, visuals = list(self.eval.evaluators), self.logger.visuals
        if issues := [*name_issues(self.datasets, list(self.networks), evaluators, visuals)]:
            raise nested(issues)
        return self

    @property
    def arithmetic(self) -> Literal["auto", "fp32", "tf32", "bf16", "fp16"]:
        return "fp16" if self.fp16 else self.precision

    @property
    def seed_in_use(self) -> int:
        """The seed of every draw, in training and afterwards: `seed`, else `train.manual_seed`, else 0."""
        if self.seed is not None:
            return self.seed
        return self.train.manual_seed if self.train else 0

    @property
    def first_iteration(self) -> int:
        return max(self.start_step, self.force_start_step, 0)


def import_registered() -> None:
    """Import every module that registers something, so that the registries are complete."""
    package = __name__.rpartition(".recipe.")[0]
    for name in REGISTERING:
        import_submodules(f"{package}.{name}", str(Path(__file__).parents[1] / name.replace(".", "/")))


def read_recipe(source: Source, check: Callable[[Recipe], object] = lambda _: None) -> Recipe:
    """The typed recipe with its plugins imported. Raises ConfigError that lists every problem.

    `check` finds contradictions between its sections; they are reported together with what does not parse.
    """
    import_registered()
    plugins = source.data.get("plugins")
    if isinstance(plugins, list) and all(isinstance(name, str) for name in plugins):
        where = source.where(("plugins",))
        # Line 0 is the command line, whose paths start from the working directory.
        with located(source):
            import_plugins(plugins, Path(where.file).parent if where.line else Path())
    return check_all(source, partial(parse, Recipe), check, INDEPENDENT)


def settled(source: Source) -> Source:
    """The source of a recipe that was read, with text where text is meant (`name: 007`): what is recorded of it."""
    return parse_typed(Recipe, source)[1]
