"""The network, how it is trained and calibrated, and how that is measured."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from predictor.graph import read_graph
from predictor.metadata import INPUTS, TensorSpec
from predictor.runtime import open_graph
from serving.scores import LABELS
from tests.programs import ROOT
from tests.synthetic import digits
from training.checkpoint import Checkpoint, CheckpointError
from training.config import Config, ConfigError
from training.data import Digits
from training.fit import fit
from training.measure import calibration_error, measure
from training.network import NETWORKS, Served, export, fold, multiply_adds, network, scale
from training.train import calibrate
from transformer.image import SIDE

CPU = torch.device("cpu")
SMALL = Config(
    network="plain",
    epochs=4,
    batch_size=32,
    augmented_share=0,
    round_trip_share=0,
    outlier_share=0,
    threads=1,
)


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Training sets torch's threads and determinism for its process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(mode=False)


# The network


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - {"large"}))
def test_a_network_costs_at_most_three_million_multiply_adds(name: str) -> None:
    assert multiply_adds(network(name)) <= 3_000_000


def test_multiply_adds_are_counted_per_image() -> None:
    layers = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    assert multiply_adds(layers) == 26 * 26 * 4 * 9 + 4 * 26 * 26 * 10


def test_folding_keeps_what_the_network_computes() -> None:
    torch.manual_seed(0)
    model = network("plain", dropout=0.5)
    for _ in range(3):  # so that batch norm has something to fold
        model(scale(digits(32, seed=1).images))
    images = scale(digits(32, seed=2).images)
    folded = fold(model)
    assert not any(isinstance(layer, nn.BatchNorm2d | nn.Dropout) for layer in folded)
    torch.testing.assert_close(folded(images), model.eval()(images), rtol=1e-4, atol=1e-5)


def test_images_are_scaled_to_one() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1)
    assert scale(images).flatten().tolist() == pytest.approx([0, 0.2, 1])
    assert scale(images).shape == (3, 1, 1, 1)


@pytest.mark.parametrize(("threshold", "accepted"), [(0.3, True), (0.5, True), (0.51, False)])
def test_an_image_is_accepted_from_the_threshold_on(threshold: float, accepted: bool) -> None:
    class Even(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[0.0, 0.0] + [-math.inf] * 8]).repeat(len(images), 1)

    served = Served(Even(), temperature=2.0, threshold=threshold)
    assert served(torch.zeros(1, 28, 28, dtype=torch.uint8))[1].tolist() == [accepted]


def test_the_graph_takes_pictures_of_the_shape_that_is_declared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mean(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1).float().mean(1)

    colours = TensorSpec(name="images", datatype="UINT8", shape=(-1, 2, 2, 3))
    monkeypatch.setattr("training.network.INPUTS", (colours,))
    graph = read_graph(export(Mean()))
    (means,) = graph(torch.arange(36, dtype=torch.uint8).reshape(3, 2, 2, 3))
    assert means.tolist() == [5.5, 17.5, 29.5]


# Training


def test_it_learns() -> None:
    model = fit(digits(256, seed=1), SMALL, device=CPU)
    served = calibrate(model, digits(64, seed=2), accepted_share=0.99)
    graph = open_graph(export(served))
    assert measure(graph, digits(64, seed=3)).values["accuracy"] == 1


def weights(config: Config) -> bytes:
    model = fit(digits(64, seed=1), config, device=CPU)
    return b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())


def test_the_seed_decides_the_weights() -> None:
    config = Config(epochs=1, batch_size=16, threads=1)
    first = weights(config)
    torch.rand(7)  # what was drawn before does not matter
    assert weights(config) == first
    assert weights(dataclasses.replace(config, seed=2)) != first


@pytest.mark.parametrize(
    ("setting", "value"),
    [("epochs", 0), ("batch_size", -1), ("threads", 0), ("dropout", 1.0), ("learning_rate", -1.0),
     ("learning_rate", math.nan), ("validation_share", 1.0), ("accepted_share", 1.5),
     ("seed", 2**32)],
)  # fmt: skip
def test_a_setting_out_of_range_is_named(setting: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{setting} must be at least .*, found {value}"):
        Config(**{setting: value})  # type: ignore[arg-type]


def test_a_share_may_be_all_and_no_more() -> None:
    assert Config(outlier_share=1.0).outlier_share == 1
    with pytest.raises(ConfigError, match="outlier_share must be at least 0 and at most 1, found"):
        Config(outlier_share=1.005)


class Fixed(nn.Sequential):
    """A network whose logits are given: the first pixel of an image is its number."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits[(images[:, 0, 0, 0] * 255).round().long()]


def numbered(count: int, labels: torch.Tensor) -> Digits:
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    images[:, 0, 0] = torch.arange(count)
    return Digits("numbered", images, labels)


def test_the_temperature_undoes_overconfidence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.train.fold", lambda model: model)
    # In 3 of 4 images the digit of the larger logit is right. For two digits that far apart,
    # softmax gives 0.75 where the logits differ by ln 3, so 6 has to be divided by 6 / ln 3.
    logits = torch.full((100, 10), -1e4)
    logits[:, 0], logits[:, 1] = 6.0, 0.0
    labels = (torch.arange(100) % 4 == 0).long()
    served = calibrate(Fixed(logits), numbered(100, labels), accepted_share=0.9)
    assert served.temperature == pytest.approx(6 / math.log(3), rel=0.005)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99, 0.995])
def test_the_threshold_accepts_the_share_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    monkeypatch.setattr("training.train.fold", lambda model: model)
    torch.manual_seed(0)
    validation = numbered(200, torch.randint(0, 10, (200,)))
    served = calibrate(Fixed(torch.randn(200, 10)), validation, accepted_share=share)
    accepted = served(validation.images)[1].float().mean().item()
    assert share <= accepted <= share + 1 / 200


# Evaluation


def test_what_is_measured() -> None:
    probabilities = torch.zeros(4, 10)
    for row, (digit, confidence) in enumerate([(0, 0.9), (0, 0.6), (1, 0.8), (2, 1.0)]):
        probabilities[row, digit] = confidence
    labels = torch.tensor([0, 1, 1, 2])
    accepted = torch.tensor([True, False, True, True])
    values = measure(
        lambda _: (probabilities.numpy(), accepted.numpy()), numbered(4, labels)
    ).values
    assert values["accuracy"] == 0.75
    assert values["accepted"] == 0.75
    assert values["accuracy_of_accepted"] == 1
    assert values["recall"] == [1, 0.5, 1] + [None] * 7
    nothing = [0] * 10
    assert values["confusion"] == [
        [1, *nothing[1:]], [1, 1, *nothing[2:]], [0, 0, 1, *nothing[3:]], *[nothing] * 7,
    ]  # fmt: skip
    assert values["calibration_error"] == pytest.approx((0.1 + 0.6 + 0.2 + 0) / 4)


def test_the_calibration_error_is_taken_over_bins() -> None:
    # Within a bin, errors of opposite sign cancel: 0.75 is right in 3 of 4.
    confidence = torch.tensor([0.75] * 4 + [0.2] * 4)
    right = torch.tensor([True, True, True, False, True, False, False, False])
    assert calibration_error(confidence, right) == pytest.approx(0.05 * 4 / 8, abs=1e-6)
    assert calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([False, True])) == 0


# Going on after an interruption


def test_training_goes_on_from_a_checkpoint_to_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(network="plain", epochs=3, batch_size=16, threads=1)
    whole = fit(digits(64, seed=1), config, device=CPU).state_dict()
    checkpoint = Checkpoint(tmp_path / "checkpoint.pt", {"settings": {"seed": 1}})
    write = Checkpoint.write

    def interrupted(self: Checkpoint, state: dict[str, Any]) -> None:
        write(self, state)
        if state["epochs"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fit(digits(64, seed=1), config, device=CPU, checkpoint=checkpoint)
    monkeypatch.setattr(Checkpoint, "write", write)
    resumed = fit(digits(64, seed=1), config, device=CPU, checkpoint=checkpoint).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    Checkpoint(path, {"settings": {"seed": 1}}).write({"epochs": 1})
    with pytest.raises(CheckpointError, match="other settings: finish that one"):
        Checkpoint(path, {"settings": {"seed": 2}}).read()


def test_of_two_trainings_in_one_directory_the_second_to_finish_an_epoch_is_refused(
    tmp_path: Path,
) -> None:
    first, second = (
        Checkpoint(tmp_path / "checkpoint.pt", {"settings": {"seed": seed}}) for seed in (1, 2)
    )
    assert first.read() is second.read() is None
    first.write({"epochs": 1})
    with pytest.raises(CheckpointError, match="other settings: finish that one"):
        second.write({"epochs": 1})
    assert first.read() == {"epochs": 1}


@pytest.mark.parametrize("content", [b"", b"damaged", b"\x80\x02}q\x00.", None])
def test_a_damaged_checkpoint_is_refused_in_one_line(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint = Checkpoint(path, {})
    checkpoint.write({"epochs": 1})
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged: delete .*--run$"):
        checkpoint.read()


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(ConfigError, match="the loss is no number"):
        fit(
            digits(64, seed=1),
            dataclasses.replace(SMALL, learning_rate=1e9),
            device=CPU,
        )


def test_all_parts_agree_on_the_classes_and_on_the_picture() -> None:
    """docs/another-model.md has each place."""
    document = yaml.safe_load((ROOT / "docs/openapi.yaml").read_text(encoding="utf-8"))
    prediction = document["components"]["schemas"]["Prediction"]["properties"]
    output = document["components"]["schemas"]["Output"]
    assert {
        prediction["digit"]["maximum"] + 1,
        prediction["probabilities"]["minItems"],
        prediction["probabilities"]["maxItems"],
        output["oneOf"][0]["properties"]["data"]["items"]["maximum"] + 1,
        output["properties"]["data"]["maxItems"] // 256,
    } == {len(LABELS)}
    assert INPUTS[0].shape == (-1, SIDE, SIDE)
