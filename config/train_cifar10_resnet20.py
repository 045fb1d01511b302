"""ResNet-20 of He et al. (2015, section 4.2) on CIFAR-10, 0.27 M parameters, for a CPU.

Not run yet.
"""
dataset = 'cifar10'
flip = 'alternating'
shift = 2
channels_last = True

model = 'resnet'
arch = 'resnet20'
tta = 'flip'
batch_size = 256
epochs = 26
eval_interval = 910
target = 0.90

optimizer = 'muon'
learning_rate = 2e-2
schedule = 'linear'
warmup_iters = 0.05
momentum = 0.6
weight_decay = 0.2
grad_clip = 0.0
