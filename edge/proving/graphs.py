"""Whether a graph holds only what a forecast needs: looked at as a message, before anything runs it.

Invariants:
    What is not on a list is refused: fields, domains, operators. The lists are what forecasts need, not what is known
    to be dangerous.
    No operator on the list makes memory out of a number (Expand, Tile, ConstantOfShape, Range, Pad, OneHot, Random…),
    holds a graph (If, Loop, Scan), or reads or writes anything but its inputs and outputs. What inputs can be grown to
    by joining and multiplying is for the trial to measure.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from edge.claims import FLOAT32, Claim, End, Interface, judge_interface
from edge.proving.trees import ENSEMBLE, MAX_TREE_NODES, judge_trees, tree_nodes
from shared.errors import ModelRefused
from shared.refusals import Cause

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, ValueInfoProto

MAX_PARTS: Final = 20_000  # messages in the message: nodes, attributes, tensors, dimensions …
MAX_NODES: Final = 1_000
MAX_ENDS: Final = 64  # inputs and outputs of a node
MAX_ELEMENTS: Final = 8_388_608  # of all tensors together, as their dimensions claim
MAX_DIMENSIONS: Final = 8

IR_VERSIONS: Final = range(7, 11)
OPSETS: Final[Mapping[str, range]] = {"": range(13, 22), "ai.onnx.ml": range(1, 4)}

_ELEMENTWISE: Final = """
    Abs Add And Ceil Clip Cos Div Elu Equal Erf Exp Floor Greater GreaterOrEqual HardSigmoid IsInf IsNaN LeakyRelu Less
    LessOrEqual Log Max Mean Min Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Sigmoid Sign Sin Softplus
    Softsign Sqrt Sub Sum Tan Tanh ThresholdedRelu Where Xor
"""
_ALGEBRA: Final = "BatchNormalization Gemm LayerNormalization LogSoftmax MatMul Softmax"
_OVER_AN_AXIS: Final = """
    ArgMax ArgMin CumSum ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare TopK
"""
_THE_SAME_NUMBERS_ELSEWHERE: Final = """
    Cast Concat Constant Flatten Gather GatherElements Identity Reshape Shape Slice Split Squeeze Transpose Unsqueeze
"""
_LEARNED: Final = f"{ENSEMBLE} ArrayFeatureExtractor Imputer LinearRegressor Normalizer Scaler"

OPERATORS: Final[Mapping[str, frozenset[str]]] = {
    "": frozenset(f"{_ELEMENTWISE} {_ALGEBRA} {_OVER_AN_AXIS} {_THE_SAME_NUMBERS_ELSEWHERE}".split()),
    "ai.onnx.ml": frozenset(_LEARNED.split()),
}

# Every kind of message that a forecast's graph is made of, and which of its fields may be set.
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    kind: frozenset(fields.split())
    for kind, fields in {
        "ModelProto": "ir_version opset_import producer_name producer_version domain model_version doc_string graph"
        " metadata_props",
        "OperatorSetIdProto": "domain version",
        "StringStringEntryProto": "key value",
        "GraphProto": "name node initializer input output value_info doc_string metadata_props",
        "NodeProto": "name domain op_type input output attribute doc_string metadata_props",
        "AttributeProto": "name type f i s t floats ints strings tensors doc_string",
        "TensorProto": "name dims data_type data_location raw_data float_data int32_data int64_data double_data"
        " uint64_data string_data doc_string metadata_props",
        "ValueInfoProto": "name type doc_string metadata_props",
        "TypeProto": "tensor_type denotation",
        "Tensor": "elem_type shape",
        "TensorShapeProto": "dim",
        "Dimension": "dim_value dim_param denotation",
    }.items()
}
_EXTERNAL: Final = 1  # TensorProto.DataLocation
_FLOAT: Final = 1  # TensorProto.DataType

Parts = Mapping[str, list[Any]]


def judge_graph(model: ModelProto, claim: Claim) -> None:
    """Raise ModelRefused with the first thing in the model that a forecast does not need, or was not claimed."""
    parts = _parts(model)
    _judge_size(parts)
    _judge_external_data(parts)
    _judge_domains(model, parts)
    _judge_operators(parts)
    _judge_versions(model)
    judge_interface(_interface(model), claim)
    for node in model.graph.node:
        if node.op_type == ENSEMBLE:
            judge_trees(node, claim)


def _parts(model: ModelProto) -> Parts:
    """Every message in the message, by kind; not by recursion, since it is not ours to say how deep it is."""
    found: dict[str, list[Any]] = defaultdict(list)
    waiting: list[Any] = [model]
    for count in range(MAX_PARTS):
        if not waiting:
            return found
        message = waiting.pop()
        found[message.DESCRIPTOR.name].append(message)
        for field, value in message.ListFields():
            if field.message_type is not None:
                inner = [value] if hasattr(value, "ListFields") else value
                if count + len(waiting) + len(inner) > MAX_PARTS:
                    break
                waiting.extend(inner)
        else:
            continue
        break
    raise ModelRefused(Cause.TOO_COMPLEX, f"made of more than {MAX_PARTS} parts")


def _judge_size(parts: Parts) -> None:
    nodes = parts["NodeProto"]
    _at_most(MAX_NODES, "nodes", len(nodes))
    _at_most(MAX_ENDS, "inputs and outputs of a node", *(len(node.input) + len(node.output) for node in nodes))
    _at_most(MAX_TREE_NODES, "nodes of trees", sum(map(tree_nodes, nodes)))
    tensors = [*parts["TensorProto"], *parts["SparseTensorProto"]]
    if any(size < 0 for tensor in tensors for size in tensor.dims):
        raise ModelRefused(Cause.TOO_COMPLEX, "a tensor claims a negative size")
    _at_most(MAX_DIMENSIONS, "dimensions of a tensor", *(len(tensor.dims) for tensor in tensors))
    _at_most(MAX_ELEMENTS, "elements of tensors", sum(math.prod(tensor.dims) for tensor in tensors))


def _at_most(limit: int, what: str, *counts: int) -> None:
    if max(counts, default=0) > limit:
        raise ModelRefused(Cause.TOO_COMPLEX, f"{max(counts)} {what}, a forecast needs at most {limit}")


def _judge_external_data(parts: Parts) -> None:
    for tensor in parts["TensorProto"]:
        if tensor.data_location == _EXTERNAL or tensor.external_data:
            raise ModelRefused(Cause.EXTERNAL_DATA, f"tensor {_quoted(tensor.name)} has its data in another file")


def _judge_domains(model: ModelProto, parts: Parts) -> None:
    imports = [*model.opset_import, *(opset for function in model.functions for opset in function.opset_import)]
    for part in [*imports, *parts["NodeProto"], *model.functions]:
        if part.domain not in OPERATORS:
            raise ModelRefused(Cause.FOREIGN_DOMAIN, f"domain {_quoted(part.domain)}, where operators are not ONNX's")


def _judge_operators(parts: Parts) -> None:
    for node in parts["NodeProto"]:
        if node.op_type not in OPERATORS[node.domain]:
            raise ModelRefused(Cause.FOREIGN_OPERATOR, f"operator {_quoted(node.op_type)} is none a forecast needs")
    for kind, messages in parts.items():
        allowed = _FIELDS.get(kind, frozenset())
        for message in messages:
            other = [field.name for field, _ in message.ListFields() if field.name not in allowed]
            if other or kind not in _FIELDS:
                what = f"{kind}.{other[0]}" if other else kind
                raise ModelRefused(Cause.FOREIGN_OPERATOR, f"it holds {what}, which no forecast needs")


def _judge_versions(model: ModelProto) -> None:
    if model.ir_version not in IR_VERSIONS:
        raise ModelRefused(Cause.OTHER_GRAPH, f"IR version {model.ir_version}, {_span(IR_VERSIONS)} are known here")
    imports = [opset.domain for opset in model.opset_import]
    if len(set(imports)) != len(imports):
        raise ModelRefused(Cause.OTHER_GRAPH, "it names the operators of one domain in two versions")
    for opset in model.opset_import:
        if opset.version not in OPSETS[opset.domain]:
            name, known = opset.domain or "ai.onnx", _span(OPSETS[opset.domain])
            raise ModelRefused(Cause.OTHER_GRAPH, f"operators {name} {opset.version}, {known} are known here")


def _interface(model: ModelProto) -> Interface:
    graph: GraphProto = model.graph
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Interface(_ends(graph.input), _ends(graph.output), metadata)


def _ends(values: Iterable[ValueInfoProto]) -> tuple[End, ...]:
    return tuple(
        End(
            value.name,
            FLOAT32 if value.type.tensor_type.elem_type == _FLOAT else f"type {value.type.tensor_type.elem_type}",
            tuple(
                size.dim_value if size.HasField("dim_value") else size.dim_param or None
                for size in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
    )


def _span(versions: range) -> str:
    return f"{versions.start} to {versions.stop - 1}"


def _quoted(name: str) -> str:
    return repr(name[:60])
