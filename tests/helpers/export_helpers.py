"""Small checkpoints for other systems: a one-step student and a class-conditional network."""

from restorer_helpers import KNOWN, NETWORK, network

from codes.models.diffusion.checkpoints.metadata import CheckpointMetadata, save_checkpoint
from codes.models.diffusion.process_options import BetaScheduleOptions, DiffusionArgs, ProcessOptions, StudentOptions

STUDENT = ProcessOptions(
    beta_schedule=BetaScheduleOptions(num_diffusion_timesteps=100),
    diffusion_args=DiffusionArgs(model_mean_type="residual", model_var_type="fixed_small"),
    student=StudentOptions(sigma=0.45, temperature_max=0.6),
)
PLAIN = {**NETWORK, "out_channels": 3, "low_res_upsampling": "bicubic"}


def write_student(path, process=STUDENT, changes=None, data=KNOWN):
    """A checkpoint of a one-step student of random weights."""
    made = network({**PLAIN, **(changes or {})})
    save_checkpoint(
        path, made.state_dict(), CheckpointMetadata.of(made, "ema", 7, process.model_dump(mode="json"), data)
    )
    return path
