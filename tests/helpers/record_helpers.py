"""What a small checkpoint of ours records of itself."""

NETWORK = {
    "image_size": 16, "in_channels": 3, "out_channels": 3, "model_channels": 16, "num_res_blocks": 1,
    "attention_resolutions": [2], "channel_mult": [1, 2], "num_heads": 2, "num_corruptions": 2,
}  # fmt: skip
PROCESS = {
    "beta_schedule": {"schedule_name": "cosine", "num_diffusion_timesteps": 50},
    "diffusion_args": {"model_mean_type": "start_x", "model_var_type": "fixed_small"},
}
DATA = {"scale": 2, "corruptions": ["jpeg", "gaussian_blur"]}
