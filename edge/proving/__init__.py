"""The gate's child process: what tries a model out, confined, and answers with one line.

    python -m edge.proving < task + artifact > answer

In this order: parsed by protobuf alone, bounded (`protobuf`); every part of the graph on a list of what forecasts need
(`graphs`, `trees`); opened by onnxruntime, golden rows, a full batch of drawn rows within time and memory (`trial`).
`confinement` is what the process gives up before it sees a byte of the artifact, `dialogue` what goes in and comes out.

Invariants: the only home of `onnx` at the edge, imported when it runs and by no other process; what is not on a list is
refused; whatever happens in here, the edge goes on.
"""
