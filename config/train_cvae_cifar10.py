"""A conditional VAE on CIFAR-10 with a z in every level, 2.1 M parameters.

Not run yet; meant for 40 minutes on two CPU cores.
"""
dataset = 'cifar10'
channels_last = True

model = 'cvae'
likelihood = 'logistic'
width = 32
latent = 64
local = 8
batch_size = 128
epochs = 45
eval_interval = 1755

optimizer = 'muon'
learning_rate = 1e-2
schedule = 'linear'
weight_decay = 0.0
