"""A U-Net on pets: strided convolutions, transposed convolutions, binary cross-entropy.

Compared with the other three in results/unet.md, in runs of 500 steps.
"""
dataset = 'pets'
flip = 'random'
shift = 24
zoom = 1.0
jitter = 0.6
cutout = 40
channels_last = True

model = 'unet'
down = 'stride'
up = 'transpose'
objective = 'bce'
width = 16
tta = 'flip'
batch_size = 16
max_iters = 4500
eval_interval = 300

optimizer = 'muon'
learning_rate = 2e-2
weight_decay = 0.2
ema = 0.99
