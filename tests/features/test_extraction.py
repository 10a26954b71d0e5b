"""Layer selection, captured outputs and image sizes of feature extraction."""

import pytest
import torch
from torch import nn

from lumen.core.errors import BadConfig, BadSize
from lumen.features.extraction import Normalization, capture_outputs, resize_to_multiple, select_layers, tokens_to_map


@pytest.mark.parametrize(("layer", "expected"), [(-1, [11]), (0, [0]), ([5, 2, -7], [2, 5]), ((8,), [8])])
def test_layers_are_ascending_and_unique(layer, expected):
    assert select_layers(layer, 12, "net") == expected


@pytest.mark.parametrize("layer", [12, -13, [0, 12], []])
def test_layers_that_do_not_exist_are_an_error(layer):
    with pytest.raises(BadConfig, match="net .*0 to 11"):
        select_layers(layer, 12, "net")


def test_captured_outputs_end_the_forward_pass():
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.Identity())
    calls = []
    handle = network[3].register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(5, 2)
    with capture_outputs([network[0], network[2]]) as outputs:
        network(x)
    handle.remove()
    assert not calls and not any(module._forward_hooks for module in network)
    assert torch.equal(outputs[0], network[0](x)) and torch.equal(outputs[1], network[:3](x))


def test_captured_outputs_remove_their_hooks_after_an_error():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5))
    with pytest.raises(RuntimeError), capture_outputs([network[1]]):
        network(torch.randn(5, 2))
    assert not any(module._forward_hooks for module in network)


def test_sizes_that_fit_are_returned_unchanged():
    image = torch.rand(1, 3, 28, 42)
    assert resize_to_multiple(image, 14, fit=False, name="net") is image
    assert resize_to_multiple(torch.rand(1, 3, 20, 512), 14, fit=True, name="net").shape[-2:] == (14, 518)
    with pytest.raises(BadSize, match="net .*14, not 20 x 512; .* 14 x 504 and 28 x 518"):
        resize_to_multiple(torch.rand(1, 3, 20, 512), 14, fit=False, name="net")


def test_normalization_is_torchvisions():
    from torchvision.transforms.functional import normalize

    image, mean, std = torch.rand(2, 3, 4, 5), [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    torch.testing.assert_close(Normalization(mean, std)(image * 2 - 1), normalize(image, mean, std))


def test_tokens_return_to_their_cells():
    maps = torch.randn(2, 5, 3, 4)
    assert torch.equal(tokens_to_map(maps.flatten(2).mT, (3, 4)), maps)
