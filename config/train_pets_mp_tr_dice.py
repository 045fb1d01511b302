"""A U-Net on pets: max pooling, transposed convolutions, Dice.

Not run yet.
"""
dataset = 'pets'
flip = 'random'
shift = 16
zoom = 0.5
jitter = 0.3
channels_last = True

model = 'unet'
down = 'maxpool'
up = 'transpose'
objective = 'dice'
width = 16
tta = 'flip'
batch_size = 16
max_iters = 2000
eval_interval = 200

optimizer = 'muon'
learning_rate = 2e-2
