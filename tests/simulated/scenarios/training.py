"""Trains on the simulated card: evaluations, a resume, and what one iteration costs. Prints JSON."""

import simulated_card as card  # isort: skip - before torch

import json
import sys
from pathlib import Path

from scenario_helpers import NETWORK, ROOT, pictures

from codes import evaluate, train
from codes.trainer.results import Results
from codes.trainer.trainer import Trainer

SETS = [
    "device=cuda", "name=trained", "datasets.train.batch_size=4", "datasets.train.target_size=64",
    "datasets.train.n_workers=0", "datasets.train.paths=in", f"networks.generator.args={NETWORK}",
    "eval.evaluators.fidelity.dataset.paths=in/1.png", "eval.evaluators.detail.dataset.paths=in/1.png",
    "steps.strengths.injectors.cut.size=32", "use_tb_logger=false", "logger.print_freq=100", *sys.argv[1:],
]  # fmt: skip


def main() -> None:
    pictures(Path("in"))
    iterate, costs = Trainer._iterate, {}

    def counted(self, batch):
        """From here on until the next iteration, with all that the loop does in between, is iteration `at`."""
        at = self.iteration + 1
        card.counts()
        launched = iterate(self, batch)
        costs[at] = vars(card.counts())
        return launched

    add = Results.add

    def added(self, one, wanted_now):
        add(self, one, wanted_now)
        costs[one.iteration] = {
            key: value + vars(card.counts(reset=False))[key] for key, value in costs[one.iteration].items()
        }

    Trainer._iterate, Results.add = counted, added
    recipe = ["-opt", str(ROOT / "recipes/diffusion/train_sr.yml"), "--debug"]
    first = train.main([*recipe, "--set", *SETS, "train.niter=4", "train.val_freq=2"])
    again = train.main([*recipe, "--auto_resume", "--set", *SETS, "train.niter=8", "train.val_freq=4"])
    codes = [first, again]
    if "eval.evaluators={}" not in sys.argv:
        codes.append(evaluate.main([*recipe, "--set", *SETS]))
    sys.stdout.write("\n" + json.dumps({"codes": codes, "costs": list(costs.values())}) + "\n")


main()
