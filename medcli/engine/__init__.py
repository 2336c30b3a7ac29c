"""The machine: a network, a strategy and an array of any size go in; an array of the same shape and dtype comes out.

runtimes    what runs the network: PyTorch, ONNX Runtime or OpenVINO; everything above it works on arrays
device      where PyTorch computes, and with how many bits
memory      how much room there is, and what being out of it looks like
pixels      arrays to network floats and back; in the image's range of values
tiling      where tiles lie and how they are blended, in bands from top to bottom
strategies  how a network is applied to a tile
denoiser    all of it in one call
"""
