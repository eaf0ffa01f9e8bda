"""Guidance, thresholding, experts and epsilon scaling: wrappers over a denoiser."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusion_helpers import SHAPE, ExactGaussian, linear_process, load_golden, normal, parameterized
from reference_sampling import steps_of
from torch import Tensor

from codes.models.diffusion.denoiser import Denoiser, NetworkDenoiser
from codes.models.diffusion.guidance import (
    ClassifierFree,
    Clipped,
    EpsilonScaled,
    SplitDenoiser,
    null_condition,
)
from codes.models.diffusion.prediction import Prediction
from codes.models.diffusion.process import GaussianDiffusion
from codes.models.diffusion.samplers import SAMPLERS
from codes.models.diffusion.schedule import NoiseSchedule, expert_index
from codes.models.diffusion.tiling.whole_image import Adjustment, Gathered

PIECES = load_golden("pieces.safetensors")[1]
T = torch.tensor([2, 7])


def class_network(x: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001 - the signature of networks
    """An eps network with learned variance that reacts to the class."""
    shift = (y.to(x.dtype) / 10).reshape(-1, 1, 1, 1)
    return torch.cat([torch.tanh(x + shift), 0.1 * x + shift], dim=1)


def by_class(outputs: Mapping[int, Tensor]) -> Callable[..., Tensor]:
    """A network that returns a given output of each class, for batches of whole sets of its samples."""

    def network(x: Tensor, timesteps: Tensor, y: Tensor) -> Tensor:  # noqa: ARG001
        return torch.stack([outputs[int(label)][row % len(outputs[int(label)])] for row, label in enumerate(y)])

    return network


def class_denoiser(process: GaussianDiffusion) -> NetworkDenoiser:
    return NetworkDenoiser(class_network, process, clip_denoised=False, low_res_upsampling="bilinear")


def class_process(spec: str = "trailing10") -> GaussianDiffusion:
    return GaussianDiffusion(NoiseSchedule.named("linear", 1000), parameterized("epsilon"), "learned_range").respaced(
        spec
    )


def assert_consistent(process: GaussianDiffusion, prediction: Prediction, x_t: Tensor, t: Tensor) -> None:
    torch.testing.assert_close(process.q_sample(prediction.x_start, t, prediction.eps), x_t, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mean_type", ["epsilon", "start_x", "v"])
def test_guidance_matches_golden(mean_type: Any) -> None:
    schedule = NoiseSchedule.named("linear", 1000)
    process = GaussianDiffusion(schedule, parameterized(mean_type), "learned_range", variance_convention="patch")
    outputs = {10: PIECES[f"out/guided_uncond_{mean_type}"], 3: PIECES[f"out/guided_cond_{mean_type}"]}
    x_t, t = PIECES[f"out/guided_x_t_{mean_type}"], torch.tensor([250, 900])
    guided = ClassifierFree(
        NetworkDenoiser(by_class(outputs), process, False, low_res_upsampling="bilinear"), process, 1.5, num_classes=10
    )
    ours = guided(x_t, t, {"y": torch.tensor([3, 3])})
    golden = process.predict(PIECES[f"out/guided_{mean_type}"], x_t, t, clip=False)
    torch.testing.assert_close(ours.eps, golden.eps, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.log_variance, golden.log_variance, rtol=1e-4, atol=1e-5)
    # The reference goes through eps, whose float32 rounding grows by sqrt(1 / SNR) = 60 at t = 900 on the way back: it
    # is itself 3.3e-5 from the float64 value of start_x, which the next test holds ours to.
    torch.testing.assert_close(ours.x_start, golden.x_start, rtol=1e-4, atol=1e-5 if mean_type == "epsilon" else 5e-5)


def test_guided_x_start_is_exact_where_the_references_rounding_shows() -> None:
    process = GaussianDiffusion(NoiseSchedule.named("linear", 1000), parameterized("start_x"), "learned_range")
    given, null = PIECES["out/guided_cond_start_x"], PIECES["out/guided_uncond_start_x"]
    guided = ClassifierFree(
        NetworkDenoiser(by_class({10: null, 3: given}), process, False, low_res_upsampling="bilinear"),
        process,
        1.5,
        num_classes=10,
    )
    x_t, t = PIECES["out/guided_x_t_start_x"], torch.tensor([250, 900])
    ours = guided(x_t, t, {"y": torch.tensor([3, 3])}).x_start
    exact = null[:, :3].double() + 1.5 * (given[:, :3].double() - null[:, :3].double())
    torch.testing.assert_close(ours.double(), exact, rtol=1e-6, atol=1e-6)


def adjusted(adjustment: Adjustment, x_start: Tensor, unguided: Tensor | None = None, bands: int = 3) -> Tensor:
    """Images (B, C, H, W) adjusted one by one, each given in some bands."""
    results = []
    for number, image in enumerate(x_start):
        gathered = Gathered(adjustment, image.numel())
        others = [None] * bands if unguided is None else unguided[number].chunk(bands, dim=1)
        for rows, other in zip(image.chunk(bands, dim=1), others, strict=False):
            gathered.add(rows, other)
        results.append(gathered.adjusted(image))
    return torch.stack(results)


def thresholded(x_start: Tensor, bands: int = 3) -> Tensor:
    return adjusted(Adjustment(quantile=0.995), x_start, bands=bands)


def test_dynamic_threshold_matches_golden() -> None:
    ours = thresholded(PIECES["out/dynamic_threshold_in"])
    torch.testing.assert_close(ours, PIECES["out/dynamic_threshold_out"], rtol=1e-4, atol=1e-5)


def test_snr_split_matches_golden() -> None:
    schedule = NoiseSchedule.named("linear", 1000).respaced("250")
    assert expert_index(schedule, [0.25]).tolist() == PIECES["out/snr_split_0.25_model_index_respaced250"].tolist()


@pytest.mark.parametrize("mean_type", ["epsilon", "start_x", "v", "previous_x"])
def test_guidance_is_linear_in_eps_and_keeps_the_conditional_variance(mean_type: Any) -> None:
    process = GaussianDiffusion(
        NoiseSchedule.named("linear", 1000), parameterized(mean_type), "learned_range"
    ).respaced("trailing10")
    plain = class_denoiser(process)
    y = torch.tensor([1, 4])
    given, null = plain(normal(0), T, {"y": y}), plain(normal(0), T, {"y": torch.tensor([9, 9])})
    guided = ClassifierFree(plain, process, 2.25, num_classes=9)(normal(0), T, {"y": y})
    torch.testing.assert_close(guided.eps, null.eps + 2.25 * (given.eps - null.eps), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(guided.log_variance, given.log_variance)
    assert_consistent(process, guided, normal(0), T)


def test_scale_1_is_the_conditional_pass_alone_and_scale_0_the_null_pass() -> None:
    process = class_process()
    calls: list[int] = []

    def counting(x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
        calls.append(int(cond["y"][0]))
        return class_denoiser(process)(x_t, t, cond)

    cond = {"y": torch.tensor([1, 4])}
    off = ClassifierFree(counting, process, 1.0, num_classes=9)(normal(0), T, cond)
    torch.testing.assert_close(off.eps, class_denoiser(process)(normal(0), T, cond).eps)
    assert calls == [1]
    none = ClassifierFree(counting, process, 0.0, num_classes=9)(normal(0), T, cond)
    null = class_denoiser(process)(normal(0), T, {"y": torch.tensor([9, 9])})
    torch.testing.assert_close(none.eps, null.eps)
    assert cond["y"].tolist() == [1, 4]


def test_rescale_restores_the_deviation_of_each_sample() -> None:
    process = class_process()
    cond = {"y": torch.tensor([1, 4])}
    given = class_denoiser(process)(normal(0), T, cond)

    guided = ClassifierFree(class_denoiser(process), process, 6.0, num_classes=9, keep_unguided=True)
    prediction = guided(normal(0), T, cond)
    assert_consistent(process, prediction, normal(0), T)
    assert prediction.unguided is not None
    torch.testing.assert_close(prediction.unguided, given.x_start)

    def deviations(rescale: float) -> Tensor:
        return adjusted(Adjustment(rescale), prediction.x_start, prediction.unguided).flatten(1).std(1)

    target, none, half, full = given.x_start.flatten(1).std(1), deviations(0.0), deviations(0.5), deviations(1.0)
    torch.testing.assert_close(full, target)
    torch.testing.assert_close(half, (none + target) / 2)
    assert ((none - target).abs() > 0.01).all()


def test_the_null_pass_of_a_restorer_keeps_or_weakens_low_res() -> None:
    cond = {"low_res": normal(0), "y": torch.tensor([1, 2]), "corruption_factor": torch.ones(2, 2)}
    kept = null_condition(cond, num_classes=5)
    assert kept["low_res"] is cond["low_res"]
    assert kept["corruption_factor"] is cond["corruption_factor"]
    assert kept["y"].tolist() == [5, 5]
    weak = null_condition({"low_res": cond["low_res"]}, None, low_res_strength=0.25)
    torch.testing.assert_close(weak["low_res"], 0.25 * cond["low_res"])


def test_guidance_of_a_restorer_moves_away_from_the_weakened_image() -> None:
    process = class_process()
    denoiser = NetworkDenoiser(
        lambda x, _, low_res: torch.cat([x - low_res, x], dim=1),
        process,
        clip_denoised=False,
        low_res_upsampling="bilinear",
    )
    low_res = normal(1)
    guided = ClassifierFree(denoiser, process, 1.5, low_res_strength=0.0)(normal(0), T, {"low_res": low_res})
    torch.testing.assert_close(guided.eps, normal(0) - 1.5 * low_res)


@pytest.mark.parametrize(
    ("cond", "message"),
    [({"y": torch.tensor([1, 2])}, "needs num_classes"), ({"low_res": torch.ones(SHAPE)}, "nothing to leave out")],
)
def test_guidance_with_nothing_to_guide_by_says_so(cond: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        null_condition(cond, num_classes=None)


def test_dynamic_threshold_is_per_sample_and_leaves_valid_images_alone() -> None:
    inside = normal(0).clamp(-1, 1)
    torch.testing.assert_close(thresholded(inside), inside, rtol=0, atol=0)
    mixed = torch.stack([inside[0], 3 * normal(1)[1]])
    both = thresholded(mixed)
    torch.testing.assert_close(both[0], inside[0], rtol=0, atol=0)
    torch.testing.assert_close(both[1:], thresholded(mixed[1:]))
    assert both.abs().max() == 1
    assert (both[1].abs() == 1).float().mean() < 0.02


def test_dynamic_threshold_takes_a_canvas_that_torch_quantile_refuses() -> None:
    canvas = torch.zeros(1, 1, 4100, 4100)
    canvas[..., :500] = 2.0
    with pytest.raises(RuntimeError, match="too large"):
        torch.quantile(canvas.flatten(1), 0.995, dim=1)
    assert thresholded(canvas, bands=7).max() == 1


def test_clipping_keeps_eps_and_x_start_together() -> None:
    process = class_process()
    prediction = Clipped(class_denoiser(process), process)(3 * normal(0), T, {"y": torch.tensor([0, 3])})
    assert prediction.x_start.abs().max() <= 1
    assert_consistent(process, prediction, 3 * normal(0), T)


def test_epsilon_scaling_divides_eps_and_moves_x_start() -> None:
    process = class_process()
    cond = {"y": torch.tensor([0, 3])}
    plain = class_denoiser(process)(normal(0), T, cond)
    scaled = EpsilonScaled(class_denoiser(process), process, 1.005)(normal(0), T, cond)
    torch.testing.assert_close(scaled.eps, plain.eps / 1.005)
    assert_consistent(process, scaled, normal(0), T)
    off = EpsilonScaled(class_denoiser(process), process, 1.0)(normal(0), T, cond)
    torch.testing.assert_close(off.x_start, plain.x_start, rtol=0, atol=0)


def test_experts_serve_their_own_steps_even_in_a_mixed_batch() -> None:
    process = class_process("trailing20")
    served: dict[int, list[int]] = {0: [], 1: [], 2: []}

    def expert(k: int) -> Denoiser:
        def denoise(x_t: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Prediction:
            served[k] += t.tolist()
            return Prediction(x_t + k, cond["y"].reshape(-1, 1, 1, 1) * torch.ones_like(x_t), x_t)

        return denoise

    split = SplitDenoiser([expert(0), expert(1), expert(2)], [1.0, 0.05], process.schedule)
    index = expert_index(process.schedule, [1.0, 0.05])
    assert set(index) == {0, 1, 2}
    t = torch.tensor([19, 0, 7, 12, 3])
    x_t, y = normal(0, (5, 3, 4, 6)), torch.arange(5)
    prediction = split(x_t, t, {"y": y})
    torch.testing.assert_close(prediction.x_start, x_t + torch.from_numpy(index[t]).reshape(-1, 1, 1, 1))
    torch.testing.assert_close(prediction.eps[:, 0, 0, 0], y.float())
    for k, times in served.items():
        assert all(index[time] == k for time in times)
    assert sorted(itertools.chain.from_iterable(served.values())) == sorted(t.tolist())
    for times in ([0, 0], [19, 19]):  # one tensor asked again, changed in place, and another
        t = torch.tensor(times)
        for _ in range(2):
            torch.testing.assert_close(split(x_t[:2], t, {"y": y[:2]}).x_start, x_t[:2] + int(index[times[0]]))
        t.fill_(7)
        torch.testing.assert_close(split(x_t[:2], t, {"y": y[:2]}).x_start, x_t[:2] + int(index[7]))


def test_wrappers_refuse_what_they_cannot_do() -> None:
    process = class_process()
    inner = class_denoiser(process)
    pure_noise = GaussianDiffusion(NoiseSchedule.named("linear", 20), parameterized("v"))
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: Adjustment(rescale=1.5), "rescale must lie in"),
        (lambda: ClassifierFree(inner, process, 2.0, low_res_strength=-1.0), "low_res_strength must lie in"),
        (lambda: EpsilonScaled(inner, process, 0.0), "must be positive"),
        (lambda: EpsilonScaled(inner, pure_noise, 1.01), "needs some signal"),
        (lambda: Adjustment(quantile=0.0), "quantile"),
        (lambda: SplitDenoiser([inner], [0.25], process.schedule), "need 2 networks, got 1"),
    ]
    for build, message in refused:
        with pytest.raises(ValueError, match=message):
            build()


WRAPPERS: dict[str, Callable[[Denoiser, GaussianDiffusion], Denoiser]] = {
    "guided": lambda inner, process: ClassifierFree(inner, process, 1.5, num_classes=9),
    "clipped": Clipped,
    "scaled": lambda inner, process: EpsilonScaled(inner, process, 1.01),
    "split": lambda inner, process: SplitDenoiser([inner, inner], [0.25], process.schedule),
}


@pytest.mark.parametrize("order", list(itertools.permutations(WRAPPERS)), ids="-".join)
def test_wrappers_compose_in_any_order_under_every_sampler(order: tuple[str, ...]) -> None:
    process = class_process("trailing4")
    denoiser: Denoiser = class_denoiser(process)
    for name in order:
        denoiser = WRAPPERS[name](denoiser, process)
    cond = {"y": torch.tensor([1, 4])}
    assert_consistent(process, denoiser(normal(0), torch.tensor([1, 3]), cond), normal(0), torch.tensor([1, 3]))
    for name in SAMPLERS.names():
        rule = SAMPLERS.get(name)()
        steps = list(steps_of(rule, denoiser, process, normal(0), cond, lambda i: normal(1 + i)))
        assert steps[-1].x_t.shape == SHAPE
        assert steps[-1].x_t.isfinite().all()
        second = {"y": cond["y"][1:]}
        *_, alone = steps_of(rule, denoiser, process, normal(0)[1:], second, lambda i: normal(1 + i)[1:])
        torch.testing.assert_close(alone.x_t, steps[-1].x_t[1:], rtol=1e-4, atol=1e-5)


def test_wrappers_that_change_nothing_keep_the_exact_solution() -> None:
    process = linear_process(1000, "trailing10")
    exact = ExactGaussian(process.schedule)
    wrapped = SplitDenoiser([EpsilonScaled(exact, process, 1.0)] * 2, [0.25], process.schedule)
    for name in SAMPLERS.names():
        a = list(steps_of(SAMPLERS.get(name)(), exact, process, normal(0), {}, lambda i: normal(1 + i)))[-1].x_t
        b = list(steps_of(SAMPLERS.get(name)(), wrapped, process, normal(0), {}, lambda i: normal(1 + i)))[-1].x_t
        torch.testing.assert_close(a, b, rtol=0, atol=0)
