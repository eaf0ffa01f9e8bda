"""Following the state keys through the steps of a recipe, at every iteration that differs, before data is loaded."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..config.registry import nearest
from ..config.yaml_source import Issue, KeyPath
from ..graph.graph import check_keys
from ..graph.node_options import InjectorOptions, LossOptions, NodeOptions
from ..graph.step_graph import running_injectors
from ..graph.step_options import StepOptions
from ..graph.switches import TIMING, Switches, Timing, distinct_iterations
from ..models.diffusion.networks.base import DiffusionNetwork
from .recipe import Recipe

Node = tuple[KeyPath, NodeOptions]


@dataclass(frozen=True)
class Flow:
    """What happens at one iteration, or in a test run."""

    issues: list[Issue]
    known: Mapping[str, str]  # every key of the state at the end -> what wrote it


def graph_issues(recipe: Recipe, networks: Mapping[str, DiffusionNetwork], phase: str, training: bool) -> list[Issue]:
    """Everything that is wrong with the steps of a recipe over the dataset of a phase."""
    if phase not in recipe.datasets:
        return []
    provided = dict.fromkeys(recipe.datasets[phase].provides(), f"datasets.{phase}")
    return flow_issues(recipe, networks, provided, training)


def flow_issues(
    recipe: Recipe, networks: Mapping[str, DiffusionNetwork], provided: Mapping[str, str], training: bool
) -> list[Issue]:
    """Everything that is wrong with the steps of a recipe over a first state: its keys -> where they come from."""
    issues = list(_requires_issues(recipe, provided))
    if not training and recipe.train is None:
        issues += _timing_issues(recipe)
    flows = {moment: _flow(recipe, moment, provided) for moment in _moments(recipe, training)}
    first_at: dict[KeyPath, Issue] = {}
    for flow in flows.values():
        for issue in flow.issues:
            first_at.setdefault(issue.path, issue)
    issues += first_at.values()
    for path, node in all_nodes(recipe):
        issues += [Issue((*path, *issue.path), issue.message) for issue in node.problems(networks)]
    return issues + list(_visual_issues(recipe, flows))


def all_nodes(recipe: Recipe) -> list[tuple[KeyPath, InjectorOptions | LossOptions]]:
    """Every injector and loss of the recipe with its key path, in order."""
    nodes: list[tuple[KeyPath, InjectorOptions | LossOptions]] = []
    for name, step in recipe.steps.items():
        nodes += [(("steps", name, "injectors", key), node) for key, node in step.injectors.items()]
        nodes += [(("steps", name, "losses", key), node) for key, node in step.losses.items()]
    return nodes


def never_running(recipe: Recipe) -> list[str]:
    """One line for every step, injector and loss whose switches let it run at no iteration of the training."""
    assert recipe.train is not None
    last, lines = recipe.train.niter, []
    parts: list[tuple[KeyPath, Timing]] = [(("steps", name), step) for name, step in recipe.steps.items()]
    for path, part in [*parts, *all_nodes(recipe)]:
        first = -(-max(part.after, 1) // part.every) * part.every
        if first > min(last, last if part.before is None else part.before):
            lines.append(f"{'.'.join(map(str, path))} never runs in {last} iterations ({part.text()})")
    return lines


def _moments(recipe: Recipe, training: bool) -> list[int | None]:
    """Iterations that stand for all; None stands for evaluations and test runs."""
    nodes = [node for _, node in all_nodes(recipe)]
    if not training:
        return [None]
    last = recipe.train.niter if recipe.train else 1
    visuals = [Timing(every=recipe.logger.visual_debug_rate)] if recipe.logger.visuals else []
    timings: list[Timing] = [*recipe.steps.values(), *nodes, *visuals]
    evaluated = any(isinstance(node, InjectorOptions) and node.eval for node in nodes)
    return [*distinct_iterations(timings, last), *([None] if evaluated else [])]


def _flow(recipe: Recipe, iteration: int | None, provided: Mapping[str, str]) -> Flow:
    """Follow the keys through all that runs."""
    known, issues = dict(provided), []
    ran: set[str] = set()
    elsewhere: dict[str, str] = {}  # keys that an earlier injector writes at other times -> what to say of them
    for name, step in recipe.steps.items():
        runs = step.runs(iteration, {*known, *ran})
        names = running_injectors(step.injectors, iteration, {*known, *ran}) if runs else []
        for key, node in step.injectors.items():
            path: KeyPath = ("steps", name, "injectors", key)
            if key in names:
                new, known = check_keys([(path, node)], known, elsewhere)
                issues += new
            else:
                elsewhere |= {k: _switched_off(k, path, step, node, iteration) for k in node.writes().values()}
        if runs and iteration is not None:
            ran.add(name)
            issues += _loss_issues(("steps", name, "losses"), step, iteration, known, elsewhere)
        elif runs:
            ran.add(name)
    return Flow(issues, known)


def _loss_issues(
    path: KeyPath, step: StepOptions, iteration: int, known: Mapping[str, str], elsewhere: Mapping[str, str]
) -> list[Issue]:
    losses = {key: node for key, node in step.losses.items() if node.due(iteration)}
    if step.losses and not losses:
        message = f"none of them runs at iteration {iteration}, where their step does; give the step the same switches"
        return [Issue(path, message)]
    return check_keys([((*path, key), node) for key, node in losses.items()], known, elsewhere)[0]


def _switched_off(key: str, path: KeyPath, step: StepOptions, node: InjectorOptions, iteration: int | None) -> str:
    """What to tell a reader of a key of an injector that does not run."""
    when = "in a test run or an evaluation" if iteration is None else f"at iteration {iteration}"
    switches = [text for part in (step, node) if (text := _switches_text(part))]
    writer = ".".join(map(str, path))
    return (
        f"the state key {key!r} is read {when}, but {writer}, which writes it, does not run then "
        f"({'; '.join(switches)}); give the reader the same switches"
    )


def _switches_text(part: Switches) -> str:
    flags = [f"{name}: true" for name in ("train", "eval") if getattr(part, name, False)]
    needs = [f"requires: {', '.join(part.required)}"] if part.required else []
    return ", ".join([*([part.text()] if part.text() else []), *needs, *flags])


def _requires_issues(recipe: Recipe, provided: Mapping[str, str]) -> Iterator[Issue]:
    """Names under `requires` that nothing before could ever bring."""
    known = set(provided)
    for name, step in recipe.steps.items():
        yield from _unknown_required(("steps", name), step, known)
        for key, node in step.injectors.items():
            yield from _unknown_required(("steps", name, "injectors", key), node, known)
            known.update(node.writes().values())
        if name in known:
            message = f"is also a state key, so `requires: {name}` would be ambiguous; rename the step or the key"
            if any(name in part.required for _, part in _switched(recipe)):
                yield Issue(("steps", name), message)
        known.add(name)


def _switched(recipe: Recipe) -> Iterator[tuple[KeyPath, Switches]]:
    for name, step in recipe.steps.items():
        yield ("steps", name), step
        for key, node in step.injectors.items():
            yield ("steps", name, "injectors", key), node


def _unknown_required(path: KeyPath, part: Switches, known: set[str]) -> Iterator[Issue]:
    for name in part.required:
        if name not in known:
            close = nearest(name, sorted(known))
            there = f"{f'did you mean {close}? ' if close else ''}there are: {', '.join(sorted(known))}"
            yield Issue((*path, "requires"), f"no state key and no step {name!r} comes before this ({there})")


def _timing_issues(recipe: Recipe) -> Iterator[Issue]:
    for path, part in _switched(recipe):
        for name in TIMING:
            if name in part.model_fields_set:
                yield Issue((*path, name), "counts iterations of training, and a test run has none; remove this key")


def _visual_issues(recipe: Recipe, flows: Mapping[int | None, Flow]) -> Iterator[Issue]:
    """Visuals of keys that are never there, or not at the iterations at which visuals are written."""
    rate = recipe.logger.visual_debug_rate
    ever = dict.fromkeys(key for flow in flows.values() for key in flow.known)
    for index, key in enumerate(recipe.logger.visuals):
        shown = [at for at, flow in flows.items() if at is not None and at % rate == 0 and key not in flow.known]
        if key not in ever:
            message = f"no state key {key!r} (there are: {', '.join(ever)})"
        elif shown:
            message = f"nothing writes {key!r} at iteration {shown[0]}, a multiple of visual_debug_rate; change that"
        else:
            continue
        yield Issue(("logger", "visuals", index), message)
