"""Code of a program that computes features without LUMEN, as an export writes it."""

from collections.abc import Callable
from typing import NamedTuple

# Function of the folder that holds a network's weights, and of a name for a copy of it. It returns a Python expression
# for the folder that holds them in an export.
WeightsExpression = Callable[[str, str], str]


class FeatureScript(NamedTuple):
    """Python code that computes the features of an image by one library alone.

    Attributes:
        library: Name of the library.
        imports: Statements beside those of torch.
        setup: Statements that load the network; the names of constants are in capitals.
        features: Body of a function of `image` (1, 3, H, W) in [-1, 1] that returns the feature maps.
    """

    library: str
    imports: str
    setup: str
    features: str
