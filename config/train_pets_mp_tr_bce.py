"""A U-Net on pets: max pooling, transposed convolutions, binary cross-entropy.

With --objective=bce+dice a Dice of 0.887 on the 298 test images that were available, after 29 minutes on
one CPU core: results/unet.md.
"""
dataset = 'pets'
flip = 'random'
shift = 24
zoom = 1.0
jitter = 0.6
cutout = 40
channels_last = True

model = 'unet'
down = 'maxpool'
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
