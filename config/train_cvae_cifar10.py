"""A conditional VAE on CIFAR-10 with a z in every level, 2.1 M parameters.

Not run yet; meant for 40 minutes on two CPU cores.
"""
dataset = 'cifar10'
channels_last = True

model = 'cvae'
likelihood = 'logistic'
width = 32
latent = 512
grids = 1
local = 32
beta_warmup = 0.2
batch_size = 128
epochs = 18
eval_interval = 1580

optimizer = 'muon'
learning_rate = 2.5e-3
schedule = 'linear'
weight_decay = 0.0
ema = 0.999
