"""Whether the arrays of a tree ensemble point only where there is something: onnxruntime follows them unchecked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edge.claims import Claim
from shared.errors import ModelRefused
from shared.refusals import Cause

if TYPE_CHECKING:
    from onnx import NodeProto

ENSEMBLE: Final = "TreeEnsembleRegressor"
MAX_TREE_NODES: Final = 2_000_000

_OF_NODES: Final = (
    "nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids", "nodes_modes",
    "nodes_values",
)  # fmt: skip
_OF_LEAVES: Final = ("target_treeids", "target_nodeids", "target_ids", "target_weights")
_KNOWN: Final = frozenset(
    (*_OF_NODES, *_OF_LEAVES, "nodes_hitrates", "nodes_missing_value_tracks_true", "base_values", "n_targets",
     "post_transform", "aggregate_function")
)  # fmt: skip


def tree_nodes(node: NodeProto) -> int:
    """How many nodes of trees, and leaves' weights, a node of the graph claims."""
    return max((len(attribute.ints) + len(attribute.floats) for attribute in node.attribute), default=0)


def judge_trees(node: NodeProto, claim: Claim) -> None:
    """Raise ModelRefused unless the ensemble reads features of the claim's input, and its arrays fit each other."""
    arrays = {attribute.name: attribute for attribute in node.attribute}
    if foreign := sorted(arrays.keys() - _KNOWN):
        raise ModelRefused(Cause.OTHER_GRAPH, f"a tree ensemble with {foreign[0][:60]!r}")
    if list(node.input) != [claim.input]:
        raise ModelRefused(Cause.OTHER_GRAPH, f"a tree ensemble that reads something else than {claim.input}")
    for names in (_OF_NODES, _OF_LEAVES):
        if len({_length(arrays.get(name)) for name in names}) != 1:
            raise ModelRefused(Cause.OTHER_GRAPH, "the arrays of a tree ensemble differ in length")
    _judge_within("feature", arrays["nodes_featureids"], len(claim.features))
    targets = arrays["n_targets"].i if "n_targets" in arrays else 1
    if not 1 <= targets <= len(claim.quantiles):
        raise ModelRefused(Cause.OTHER_GRAPH, f"a tree ensemble of {targets} targets")
    _judge_within("target", arrays["target_ids"], targets)


def _length(attribute: Any) -> int:
    if attribute is None:
        return 0
    return len(attribute.ints) + len(attribute.floats) + len(attribute.strings)


def _judge_within(what: str, attribute: Any, count: int) -> None:
    numbers = np.array(attribute.ints, dtype=np.int64)
    outside = numbers[(numbers < 0) | (numbers >= count)]
    if outside.size:
        raise ModelRefused(Cause.OTHER_GRAPH, f"a tree reads {what} {outside[0]}, there are {count}")
