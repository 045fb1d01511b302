"""ResNet-20 of He et al. (2015, section 4.2) on CIFAR-10, 0.27 M parameters, for a CPU.

Not run yet.
"""
dataset = 'cifar10'
flip = 'random'
shift = 4
channels_last = True

model = 'resnet'
arch = 'resnet20'
batch_size = 256
epochs = 16
eval_interval = 350
target = 0.90

optimizer = 'muon'
learning_rate = 2e-2
schedule = 'linear'
warmup_iters = 0.05
momentum = 0.6
weight_decay = 0.1
grad_clip = 0.0
