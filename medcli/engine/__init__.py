"""The machine: a network, a strategy and an array of any size go in; an array of the same shape and dtype comes out.

device      what the work runs on, and with how many bits
memory      how much room there is, and what being out of it looks like
pixels      arrays to network floats and back; the only place that knows what a dtype means
tiling      where tiles lie and how their answers grow together, in bands from top to bottom
strategies  how a network is asked
denoiser    all of it in one call
"""
