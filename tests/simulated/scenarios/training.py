"""Trains on the simulated card: evaluations, a resume, and what one iteration costs. Prints JSON."""

import simulated_card as card  # isort: skip - before torch

import json
import sys
from pathlib import Path

from scenario_helpers import NETWORK, ROOT, pictures

from codes import train
from codes.trainer.trainer import Trainer

SETS = [
    "device=cuda", "name=trained", "datasets.train.batch_size=4", "datasets.train.target_size=64",
    "datasets.train.n_workers=0", "datasets.train.paths=in", f"networks.generator.args={NETWORK}",
    "eval.evaluators.fidelity.dataset.paths=in/1.png", "eval.evaluators.detail.dataset.paths=in/1.png",
    "use_tb_logger=false", "logger.print_freq=1", *sys.argv[1:],
]  # fmt: skip


def main() -> None:
    pictures(Path("in"))
    iterate, costs = Trainer._iterate, []

    def counted(self, batch):
        card.counts()
        result = iterate(self, batch)
        costs.append(vars(card.counts()))
        return result

    Trainer._iterate = counted
    recipe = ["-opt", str(ROOT / "recipes/diffusion/train_sr.yml"), "--debug"]
    first = train.main([*recipe, "--set", *SETS, "train.niter=3", "train.val_freq=2"])
    again = train.main([*recipe, "--auto_resume", "--set", *SETS, "train.niter=5", "train.val_freq=2"])
    sys.stdout.write("\n" + json.dumps({"codes": [first, again], "costs": costs}) + "\n")


main()
