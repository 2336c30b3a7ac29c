"""Networks as ONNX graphs, built from a configuration and weights without PyTorch, for the runtimes that need none.

Each module writes the graph of the network of the same name in `medcli.archs`. A test compares the two.
"""
