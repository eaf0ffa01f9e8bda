"""A device that works ahead of the host: what is not finite, stops and resumes, on the simulated card. Prints JSON."""

import simulated_card as card  # isort: skip - before torch

import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from trainer_helpers import different, everything, fill, make_trainer, recipe_data, write_recipe

from codes.trainer.results import Results
from codes.trainer.trainer import Trainer
from codes.utils.errors import TesseraError

FOLDER = fill(Path("im"))


def trainer_of(name: str, *sets: str, resume: bool = False, **changes: Any) -> Trainer:
    recipe = write_recipe(Path(f"{name}.yml"), recipe_data(FOLDER, {"device": "cuda", "name": name, **changes}))
    return make_trainer(recipe, *sets, auto_resume=resume)


def spoil(trainer: Trainer, iterations: set[int], value: float = float("nan")) -> None:
    """Fill one gradient with a value in the given iterations."""

    def hook(gradient: torch.Tensor) -> torch.Tensor:
        return torch.full_like(gradient, value) if trainer.iteration + 1 in iterations else gradient

    next(trainer.parts.networks["generator"].parameters()).register_hook(hook)


def watched(trainer: Trainer, look: Callable[[], Any]) -> list[Any]:
    """What `look` sees when an iteration has been launched."""
    seen, iterate = [], trainer._iterate

    def iterated(batch: Any) -> Any:
        launched = iterate(batch)
        seen.append(look())
        return launched

    trainer._iterate = iterated
    return seen


def log_of(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("experiments", name, "log.jsonl").read_text().splitlines()]


def skipped() -> dict[str, Any]:
    """Iteration 3 of 5 is not finite; the host learns it during iteration 4."""
    trainer = trainer_of("skipped", "train.niter=5")
    spoil(trainer, {3})
    states = watched(trainer, lambda: everything(trainer))
    told: list[tuple[int, int]] = []
    skip = Results._skip
    Results._skip = lambda self, one: (told.append((one.iteration, trainer.iteration)), skip(self, one))[1]
    trainer.run()
    Results._skip = skip
    changed = [len(different(before, after)) for before, after in itertools.pairwise(states)]
    lines = log_of("skipped")
    return {
        "told": told,
        "changed": changed,
        "named": [line["iteration"] for line in lines if "skipped_files" in line],
        "skipped": [line["skipped"] for line in lines if "skipped" in line],
    }


def resumed(optimizer: str) -> list[str]:
    """What differs between a run of 6 iterations and one that was stopped after 4; iteration 2 is not finite."""
    changes = {"steps": {"generator": {"optimizer": optimizer}}}
    whole = trainer_of(f"whole_{optimizer}", "train.niter=6", **changes)
    first = trainer_of(f"cut_{optimizer}", "train.niter=4", **changes)
    for trainer in (whole, first):
        spoil(trainer, {2})
        trainer.run()
    second = trainer_of(f"cut_{optimizer}", "train.niter=6", resume=True, **changes)
    second.run()
    return different(everything(whole), everything(second))


def overflowed() -> dict[str, Any]:
    """Finite gradients whose norm is not: no update, and the scale of fp16 is not to blame."""
    trainer = trainer_of("overflowed", "train.niter=3", "precision=fp16")
    spoil(trainer, {2, 3}, 1e38)
    trainer.parts.steps[0].scaler = scaler = torch.amp.GradScaler("cuda", init_scale=1.0)
    states = watched(trainer, lambda: (everything(trainer), scaler.get_scale()))
    trainer.run()
    return {
        "changed": [len(different(before[0], after[0])) for before, after in itertools.pairwise(states)],
        "scales": [scale for _, scale in states],
    }


def hopeless() -> dict[str, Any]:
    trainer = trainer_of("hopeless", "train.niter=50", "train.max_skipped_in_a_row=3")
    spoil(trainer, set(range(50)))
    try:
        trainer.run()
    except TesseraError as error:
        return {
            "said": str(error),
            "iteration": trainer.iteration,
            "saved": trainer.experiment.state(trainer.iteration).is_file(),
        }
    return {"said": ""}


def first_iteration() -> dict[str, list[float]]:
    """Losses and norm of the first iteration, on the device and on the CPU."""
    both: dict[str, list[float]] = {}
    for device in ("cuda", "cpu"):
        trainer_of(f"on_{device}", "train.niter=1", "precision=fp32", f"device={device}").run()
        (line,) = log_of(f"on_{device}")
        both[device] = [line[key] for key in ("loss/mse", "loss/vb", "loss/total", "gradient_norm")]
    return both


def four_iterations() -> dict[str, float]:
    """The largest differences of weights and averages to a CPU's after four iterations, by optimiser."""
    found = {}
    for optimizer in ("sgd", "adamw"):
        states = []
        for device in ("cuda", "cpu"):
            changes = {"steps": {"generator": {"optimizer": optimizer}}}
            trainer = trainer_of(
                f"four_{optimizer}_{device}", "train.niter=4", "precision=fp32", f"device={device}", **changes
            )
            trainer.run()
            states.append({name: value.cpu() for name, value in everything(trainer).items()})
        for kind in ("network", "ema"):
            names = [name for name in states[0] if name.startswith(f"{kind}/")]
            found[f"{optimizer} {kind}"] = max(float((states[0][name] - states[1][name]).abs().max()) for name in names)
    return found


def main() -> None:
    done = {
        "skipped": skipped(),
        "resumed": {name: resumed(name) for name in ("adamw", "sgd", "adagrad", "adamax")},
        "overflowed": overflowed(),
        "hopeless": hopeless(),
        "first_iteration": first_iteration(),
        "four_iterations": four_iterations(),
    }
    card.counts()
    sys.stdout.write("\n" + json.dumps(done) + "\n")


main()
