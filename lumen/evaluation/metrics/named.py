"""Named: values of an attribute of scenes, such as skies and colours, that directions reach (our definition)."""

import torch
from jaxtyping import Float
from torch import Tensor

from lumen.core.errors import BadConfig
from lumen.core.interfaces import Batch
from lumen.core.registry import metrics
from lumen.evaluation.edits import EditMetric
from lumen.evaluation.feature_extractors import ScalingLayer, key_suffix, load_timm_network

SHARE = "share of "  # beginning of the labels that are no values


@metrics.register
class Named(EditMetric):
    """Mean number of skies, or of an object's colours, that a network sees among the edits of one noise.

    Its labels are "VALUE CLASS", as in "red ball", and the skies. Images whose class has no values, such as a ground,
    are left out.

    Args:
        network: "scenes", or a timm folder with such labels.
    """

    output_kind = "edits"
    display_name = "values reached"
    higher_is_better = True

    def __init__(self, network: str = "scenes", *, classes: tuple[str, ...]):
        model, card = load_timm_network(network)
        labels = (model.pretrained_cfg or {}).get("label_names") or []
        self.columns_of_class = {i: _find_values(name, labels, classes) for i, name in enumerate(classes)}
        if not any(self.columns_of_class.values()):
            raise BadConfig(
                f"metrics: named knows no values of the classes of this data set by network={network}; leave it out "
                "of metrics."
            )
        super().__init__(torch.nn.Sequential(ScalingLayer(card), model), classes)
        self.network = network

    @property
    def key(self) -> str:
        """Name of the metric's values."""
        return super().key + key_suffix(self.network) * (self.network != "scenes")

    def per_sample(self, batch: Batch, generated: Float[Tensor, "b n m 4 H W"]) -> Float[Tensor, "b n 2"]:
        """Return the number of values among the edits of each noise, and the class."""
        edits = generated[:, :, 1:, :3]
        outputs = self.evaluator(edits.flatten(0, 2)).unflatten(0, tuple(edits.shape[:3]))
        scores = self.with_class(batch, generated, torch.full(edits.shape[:2], torch.nan, device=edits.device))
        for i, row in enumerate(scores):
            if columns := self.columns_of_class.get(int(row[0, 1]), []):
                winners = outputs[i][..., columns].argmax(-1)
                row[:, 0] = torch.nn.functional.one_hot(winners, len(columns)).amax(1).sum(1)
        return scores


def _find_values(name: str, labels: list[str], classes: tuple[str, ...]) -> list[int]:
    """Return the columns of the labels that are values of a class; those that name no class are values of the sky."""
    values = [i for i, label in enumerate(labels) if label.endswith(f" {name}") and not label.startswith(SHARE)]
    if name == "sky":
        values += [i for i, label in enumerate(labels) if " " not in label and label not in classes]
    return values
