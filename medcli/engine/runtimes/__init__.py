"""What runs a network below the engine: PyTorch, ONNX Runtime or OpenVINO. Each is imported when it is used.

base      what the engine asks of a runtime
graph     what the two without PyTorch share
choice    which one `auto` means
pytorch   all networks, strategies and devices
onnx      plain networks on the CPU, without PyTorch
openvino  the same on Intel's runtime, with bf16
"""
