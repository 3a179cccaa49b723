"""Models that an edge must refuse, as real bytes, each with golden rows that are true where it can be run at all.

`HAZARDS` names them and the cause of their refusal; `bad_manifest` is what a signed manifest of one says, like
`tests.small_model.small_manifest`. `failing_model` passes every check and fails later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.features import FEATURES
from shared.manifest import INPUT, OUTPUT, Golden, Manifest, pack
from shared.refusals import Cause
from tests.small_model import SAID_QUANTILES, manifest_of, small_model

WIDTH = len(FEATURES)
GIGABYTE = [16_384, 16_384]  # of float32


@dataclass(frozen=True, slots=True)
class Hazard:
    """A model that an edge must refuse, and why."""

    cause: Cause
    artifact: bytes
    golden: Golden


HAZARDS: dict[str, Callable[[], Hazard]] = {}


def bad_manifest(name: str, version: int = 1, **claims: Any) -> tuple[Manifest, list[bytes]]:
    """A signed manifest of a hazard, true but for what the hazard is about, and its chunks."""
    hazard = HAZARDS[name]()
    return manifest_of(hazard.artifact, hazard.golden, version, **claims), pack(hazard.artifact).chunks


def failing_model(column: str = FEATURES[0], limit: float = 1e6) -> tuple[bytes, Golden]:
    """A model that passes every check, and gives NaN once a feature is over `limit`."""
    return _true(
        _artifact(
            [
                *_columns("start", INPUT),
                helper.make_node("Gather", [INPUT, "column"], ["watched"], axis=1),
                helper.make_node("Greater", ["watched", "limit"], ["over"]),
                helper.make_node("Where", ["over", "nan", "start"], [OUTPUT]),
            ],
            {"column": np.array([FEATURES.index(column)]), "limit": _float(limit), "nan": _float(np.nan)},
        )
    )


def biased_model(by: float, trees: int = 10) -> tuple[bytes, Golden]:
    """The small model with `by` added to all it says, in its normalised space: true to its claim, and always wrong."""

    def shift(model: onnx.ModelProto) -> None:
        model.graph.node[-1].output[0] = "honest"
        model.graph.node.append(helper.make_node("Add", ["honest", "bias"], [OUTPUT]))
        model.graph.initializer.extend(_tensors({"bias": _float(by)}))

    return _true(_edited(shift, trees))


def _hazard(cause: Cause) -> Callable[[Callable[[], bytes | tuple[bytes, Golden]]], Callable[[], Hazard]]:
    """Name the hazard that a function builds; one that cannot be run has the small model's golden rows."""

    def register(build: Callable[[], bytes | tuple[bytes, Golden]]) -> Callable[[], Hazard]:
        @cache
        def built() -> Hazard:
            made = build()
            artifact, golden = made if isinstance(made, tuple) else (made, small_model()[1])
            return Hazard(cause, artifact, golden)

        HAZARDS[build.__name__] = built
        return built

    return register


# Not ONNX


@_hazard(Cause.NOT_ONNX)
def noise() -> bytes:
    return np.random.default_rng(3).bytes(20_000)


@_hazard(Cause.NOT_ONNX)
def truncated() -> bytes:
    artifact, _ = small_model()
    return artifact[: len(artifact) // 2]


@_hazard(Cause.NOT_ONNX)
def flipped() -> bytes:
    artifact, _ = small_model()
    return bytes([artifact[0] ^ 0x04]) + artifact[1:]


@_hazard(Cause.NOT_ONNX)
def deep_nesting() -> bytes:
    """A graph in an attribute of a node of a graph, and so on: what a recursive reader would die of."""
    inner = b""
    for number in range(3_000):
        inner = _nested((6, 5, 1)[number % 3], inner)
    return _nested(7, inner)


@_hazard(Cause.NOT_ONNX)
def fields_of_another_format() -> bytes:
    artifact, _ = small_model()
    return artifact + _nested(999, b"for a reader that knows more")


@_hazard(Cause.NOT_ONNX)
def no_graph() -> bytes:
    return _edited(lambda model: model.ClearField("graph"))


# Too complex


@_hazard(Cause.TOO_COMPLEX)
def gigabyte_initializer() -> bytes:
    """An initializer that claims a gigabyte and holds nothing."""
    return _edited(lambda model: model.graph.initializer.append(_claiming(GIGABYTE)))


@_hazard(Cause.TOO_COMPLEX)
def gigabyte_sparse() -> bytes:
    """A sparse initializer of one number, which becomes a gigabyte once it is spread out."""
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("spread", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("at", TensorProto.INT64, [1, 2], [0, 0]),
        GIGABYTE,
    )
    return _edited(lambda model: model.graph.sparse_initializer.append(sparse))


@_hazard(Cause.TOO_COMPLEX)
def gigabyte_sparse_constant() -> bytes:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("spread", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("at", TensorProto.INT64, [1], [0]),
        [2**28],
    )
    return _before("Constant", [], sparse_value=sparse)


@_hazard(Cause.TOO_COMPLEX)
def negative_size() -> bytes:
    return _edited(lambda model: model.graph.initializer.append(_claiming([-1, 4])))


@_hazard(Cause.TOO_COMPLEX)
def many_nodes() -> bytes:
    nodes = [helper.make_node("Identity", ["unsorted"], [f"again{number}"]) for number in range(5_000)]
    return _edited(lambda model: model.graph.node.extend(nodes))


@_hazard(Cause.TOO_COMPLEX)
def many_parts() -> bytes:
    """Two bytes each on the wire, a hundred in memory."""
    artifact, _ = small_model()
    return artifact + _nested(14, b"") * 500_000


@_hazard(Cause.TOO_COMPLEX)
def huge_ensemble() -> bytes:
    return _edited(lambda model: _ensemble(model, "nodes_hitrates").floats.extend([0.0] * 2_100_000))


# External data


@_hazard(Cause.EXTERNAL_DATA)
def external_data() -> bytes:
    return _edited(lambda model: model.graph.initializer.append(_external()))


@_hazard(Cause.EXTERNAL_DATA)
def external_data_in_a_constant() -> bytes:
    return _before("Constant", [], value=_external())


@_hazard(Cause.EXTERNAL_DATA)
def external_data_in_a_sparse_tensor() -> bytes:
    sparse = onnx.SparseTensorProto(
        values=_external(), indices=helper.make_tensor("at", TensorProto.INT64, [4], [0, 1, 2, 3]), dims=[4]
    )
    return _edited(lambda model: model.graph.sparse_initializer.append(sparse))


@_hazard(Cause.EXTERNAL_DATA)
def external_data_in_a_branch() -> bytes:
    return _before("If", [INPUT], then_branch=_branch([_external()]), else_branch=_branch([]))


# Foreign domains and operators


@_hazard(Cause.FOREIGN_DOMAIN)
def custom_domain() -> bytes:
    return _before("Shell", [INPUT], domain="com.example")


@_hazard(Cause.FOREIGN_DOMAIN)
def imported_domain() -> bytes:
    return _edited(lambda model: model.opset_import.append(helper.make_opsetid("com.microsoft", 1)))


@_hazard(Cause.FOREIGN_DOMAIN)
def function_of_another_domain() -> bytes:
    return _with_function("com.example")


@_hazard(Cause.FOREIGN_OPERATOR)
def function() -> bytes:
    return _with_function("")


@_hazard(Cause.FOREIGN_OPERATOR)
def branch() -> bytes:
    return _before("If", [INPUT], then_branch=_branch([]), else_branch=_branch([]))


@_hazard(Cause.FOREIGN_OPERATOR)
def endless_loop() -> bytes:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"])],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])],
    )
    return _before("Loop", ["", "for_ever"], {"for_ever": np.array(True)}, body=body)


@_hazard(Cause.FOREIGN_OPERATOR)
def gigabyte_of_nothing() -> bytes:
    return _before("ConstantOfShape", ["shape"], {"shape": np.array(GIGABYTE)})


@_hazard(Cause.FOREIGN_OPERATOR)
def expanded() -> bytes:
    return _before("Expand", ["one", "shape"], {"one": _float(1), "shape": np.array(GIGABYTE)})


@_hazard(Cause.FOREIGN_OPERATOR)
def random_numbers() -> bytes:
    return _before("RandomNormal", [], shape=GIGABYTE)


@_hazard(Cause.FOREIGN_OPERATOR)
def training_steps() -> bytes:
    return _edited(lambda model: model.training_info.add())


# Another graph than was claimed


@_hazard(Cause.OTHER_GRAPH)
def two_outputs() -> bytes:
    more = helper.make_tensor_value_info("order", TensorProto.INT64, ["rows", len(SAID_QUANTILES)])
    return _edited(lambda model: model.graph.output.append(more))


@_hazard(Cause.OTHER_GRAPH)
def other_output_name() -> bytes:
    def rename(model: onnx.ModelProto) -> None:
        model.graph.output[0].name = model.graph.node[-1].output[0] = "prices"

    return _edited(rename)


@_hazard(Cause.OTHER_GRAPH)
def output_of_doubles() -> bytes:
    nodes = [*_columns("start", INPUT), helper.make_node("Cast", ["start"], [OUTPUT], to=TensorProto.DOUBLE)]
    return _artifact(nodes, {}, output=(TensorProto.DOUBLE, ["rows", len(SAID_QUANTILES)]))


@_hazard(Cause.OTHER_GRAPH)
def four_quantiles() -> bytes:
    def widen(model: onnx.ModelProto) -> None:
        model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4

    return _edited(widen)


@_hazard(Cause.OTHER_GRAPH)
def more_features() -> bytes:
    def widen(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = WIDTH + 1

    return _edited(widen)


@_hazard(Cause.OTHER_GRAPH)
def one_row_only() -> bytes:
    def fix(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    return _edited(fix)


@_hazard(Cause.OTHER_GRAPH)
def rows_that_come_and_go() -> tuple[bytes, Golden]:
    """Says rows of quantiles, gives one row whatever it is asked."""
    nodes = [*_columns("start", INPUT), helper.make_node("ReduceMax", ["start"], [OUTPUT], axes=[0], keepdims=1)]
    return _artifact(nodes, {}), small_model()[1]


@_hazard(Cause.OTHER_GRAPH)
def other_features_in_the_metadata() -> bytes:
    return _saying("features", '["moon"]')


@_hazard(Cause.OTHER_GRAPH)
def other_schema_in_the_metadata() -> bytes:
    return _saying("schema_hash", "other")


@_hazard(Cause.OTHER_GRAPH)
def other_horizon_in_the_metadata() -> bytes:
    return _saying("horizon_steps", "24")


@_hazard(Cause.OTHER_GRAPH)
def metadata_too_deep_to_read() -> bytes:
    return _saying("quantiles", "[" * 100_000)


@_hazard(Cause.OTHER_GRAPH)
def format_of_the_future() -> bytes:
    return _edited(lambda model: setattr(model, "ir_version", 99))


@_hazard(Cause.OTHER_GRAPH)
def operators_of_the_future() -> bytes:
    return _edited(lambda model: setattr(model.opset_import[0], "version", 99))


@_hazard(Cause.OTHER_GRAPH)
def trees_that_read_beyond_the_row() -> bytes:
    def point(model: onnx.ModelProto) -> None:
        _ensemble(model, "nodes_featureids").ints[0] = 1_000_000

    return _edited(point)


@_hazard(Cause.OTHER_GRAPH)
def trees_that_write_beyond_the_row() -> bytes:
    def point(model: onnx.ModelProto) -> None:
        _ensemble(model, "target_ids").ints[-1] = 1_000_000

    return _edited(point)


@_hazard(Cause.OTHER_GRAPH)
def arrays_that_do_not_fit() -> bytes:
    return _edited(lambda model: _ensemble(model, "nodes_values").floats.pop())


# Something else computed than was claimed


@_hazard(Cause.GOLDEN_ROWS)
def other_numbers() -> tuple[bytes, Golden]:
    artifact, golden = small_model()
    return artifact, golden.model_copy(update={"outputs": [[0.001 + cell for cell in row] for row in golden.outputs]})


@_hazard(Cause.GOLDEN_ROWS)
def nothing_but_nan() -> bytes:
    """NaN for every row; what its golden rows claim cannot be true, since NaN cannot be said."""
    nodes = [*_columns("start", INPUT), helper.make_node("Mul", ["start", "nan"], [OUTPUT])]
    return _artifact(nodes, {"nan": _float(np.nan)})


@_hazard(Cause.GOLDEN_ROWS)
def nan_where_a_feature_is_missing() -> tuple[bytes, Golden]:
    """Well on its golden rows, of which none has a hole."""
    return _true(
        _artifact([helper.make_node("Gather", [INPUT, "first"], [OUTPUT], axis=1)], {"first": np.arange(3) * 0}),
        holes=False,
    )


@_hazard(Cause.GOLDEN_ROWS)
def infinite_where_nothing_is_known() -> tuple[bytes, Golden]:
    """Well on its golden rows, of which each holds something."""
    nodes = [
        *_known("known", INPUT),
        helper.make_node("ReduceL1", ["known"], ["size"], axes=[1]),
        helper.make_node("Reciprocal", ["size"], ["inverse"]),
        *_columns(OUTPUT, "inverse"),
    ]
    return _true(_artifact(nodes, {}))


@_hazard(Cause.GOLDEN_ROWS)
def crossed_quantiles() -> tuple[bytes, Golden]:
    def turn(model: onnx.ModelProto) -> None:
        (largest,) = [each for each in model.graph.node[-1].attribute if each.name == "largest"]
        largest.i = 1

    return _true(_edited(turn))


@_hazard(Cause.GOLDEN_ROWS)
def fails_on_a_batch() -> tuple[bytes, Golden]:
    """Well on any multiple of seven rows, and as many are golden."""
    nodes = [
        *_columns("start", INPUT),
        helper.make_node("Reshape", ["start", "of_seven"], ["sevens"]),
        helper.make_node("Reshape", ["sevens", "of_one"], [OUTPUT]),
    ]
    count = len(SAID_QUANTILES)
    return _true(_artifact(nodes, {"of_seven": np.array([-1, 7 * count]), "of_one": np.array([-1, count])}), most=7)


# Out of bounds


@_hazard(Cause.TOO_SLOW)
def chained_products() -> tuple[bytes, Golden]:
    """A small file and no end of work: a matrix of 512 by 512, 900 times."""
    chain = [helper.make_node("MatMul", [f"step{number}", "turn"], [f"step{number + 1}"]) for number in range(900)]
    nodes = [
        *_known("known", INPUT),
        helper.make_node("MatMul", ["known", "widen"], ["step0"]),
        *chain,
        *_columns(OUTPUT, "step900"),
    ]
    return _true(
        _artifact(nodes, {"widen": np.eye(WIDTH, 512, dtype=np.float32), "turn": np.eye(512, dtype=np.float32)})
    )


@_hazard(Cause.TOO_MUCH_MEMORY)
def doubled_columns() -> tuple[bytes, Golden]:
    """Some megabytes for a row, gigabytes for a batch."""
    doublings = [
        helper.make_node("Concat", [f"wide{number}"] * 2, [f"wide{number + 1}"], axis=1) for number in range(15)
    ]
    nodes = [helper.make_node("Identity", [INPUT], ["wide0"]), *doublings, *_columns(OUTPUT, "wide15")]
    return _true(_artifact(nodes, {}))


@_hazard(Cause.TOO_MUCH_MEMORY)
def doubled_constants() -> bytes:
    """Gigabytes before the first row: a constant joined with itself, which onnxruntime does while it loads."""
    doublings = [
        helper.make_node("Concat", [f"wide{number}"] * 2, [f"wide{number + 1}"], axis=0) for number in range(22)
    ]
    nodes = [
        *doublings,
        helper.make_node("ReduceMax", ["wide22"], ["most"], keepdims=0),
        *_columns("start", INPUT),
        helper.make_node("Min", ["start", "most"], [OUTPUT]),
    ]
    return _artifact(nodes, {"wide0": np.full(1_000, 1e9, np.float32)})


# What they are made with


def _edited(change: Callable[[onnx.ModelProto], object], trees: int = 10) -> bytes:
    """The small model with something changed."""
    model = onnx.load_model_from_string(small_model(trees=trees)[0])
    change(model)
    return bytes(model.SerializeToString())


def _before(
    op_type: str, inputs: Sequence[str], constants: dict[str, NDArray[Any]] | None = None, **attributes: Any
) -> bytes:
    """The small model with a node put first, whose output nobody reads."""

    def put(model: onnx.ModelProto) -> None:
        model.graph.node.insert(0, helper.make_node(op_type, inputs, ["unread"], **attributes))
        model.graph.initializer.extend(_tensors(constants or {}))
        domain = attributes.get("domain", "")
        if domain not in {opset.domain for opset in model.opset_import}:
            model.opset_import.append(helper.make_opsetid(domain, 1))

    return _edited(put)


def _with_function(domain: str) -> bytes:
    body = [helper.make_node("Identity", ["x"], ["y"])]
    made = helper.make_function(domain, "Harmless", ["x"], ["y"], body, [helper.make_opsetid("", 15)])
    return _edited(lambda model: model.functions.append(made))


def _saying(key: str, value: str) -> bytes:
    """The small model with something else in its metadata."""

    def say(model: onnx.ModelProto) -> None:
        (entry,) = [each for each in model.metadata_props if each.key == key]
        entry.value = value

    return _edited(say)


def _ensemble(model: onnx.ModelProto, name: str) -> onnx.AttributeProto:
    """An attribute of the small model's trees, made where it has none."""
    attributes = model.graph.node[0].attribute
    found = [attribute for attribute in attributes if attribute.name == name]
    attribute: onnx.AttributeProto = found[0] if found else attributes.add(name=name, type=onnx.AttributeProto.FLOATS)
    return attribute


def _artifact(
    nodes: Sequence[onnx.NodeProto],
    constants: dict[str, NDArray[Any]],
    *,
    output: tuple[int, Sequence[str | int]] = (TensorProto.FLOAT, ("rows", len(SAID_QUANTILES))),
) -> bytes:
    """Other nodes behind the small model's ends and metadata; `_columns` and `_known` find their constants."""
    graph = helper.make_graph(
        nodes,
        "bad",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info(OUTPUT, *output)],
        _tensors({"nought": _float(0), "three": np.arange(len(SAID_QUANTILES)) * 0, **constants}),
    )
    return _edited(lambda model: model.graph.CopyFrom(graph))


def _known(name: str, of: str) -> list[onnx.NodeProto]:
    """`of` with 0 for NaN."""
    return [
        helper.make_node("IsNaN", [of], [f"{name}_missing"]),
        helper.make_node("Where", [f"{name}_missing", "nought", of], [name]),
    ]


def _columns(name: str, of: str) -> list[onnx.NodeProto]:
    """The first column of `of` for every quantile, 0 for NaN."""
    return [helper.make_node("Gather", [of, "three"], [f"{name}_first"], axis=1), *_known(name, f"{name}_first")]


def _true(artifact: bytes, *, holes: bool = True, most: int | None = None) -> tuple[bytes, Golden]:
    """The artifact and golden rows that say what it gives."""
    rows = [row for row in small_model()[1].inputs if holes or None not in row][:most]
    cells = np.array([[np.nan if cell is None else cell for cell in row] for row in rows], dtype=np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    (outputs,) = session.run([OUTPUT], {INPUT: cells})
    return artifact, Golden(inputs=rows, outputs=outputs.astype(float).tolist())


def _tensors(constants: dict[str, NDArray[Any]]) -> list[TensorProto]:
    return [numpy_helper.from_array(value, name) for name, value in constants.items()]


def _float(value: float) -> NDArray[np.float32]:
    return np.array(value, dtype=np.float32)


def _claiming(dims: Sequence[int]) -> TensorProto:
    return TensorProto(name="claimed", data_type=TensorProto.FLOAT, dims=dims)


def _external() -> TensorProto:
    tensor = TensorProto(name="elsewhere", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../../etc/hostname")
    return tensor


def _branch(initializers: Sequence[TensorProto]) -> onnx.GraphProto:
    made = [helper.make_tensor_value_info("made", TensorProto.FLOAT, [4])]
    constant = helper.make_node(
        "Constant", [], ["made"], value=helper.make_tensor("", TensorProto.FLOAT, [4], [0.0] * 4)
    )
    return helper.make_graph([constant], "branch", [], made, initializers)


def _nested(field: int, inner: bytes) -> bytes:
    """A message in a field of another, on the wire."""
    return _varint(field << 3 | 2) + _varint(len(inner)) + inner


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])
