"""ResNet-18 (He et al. 2015, table 1) with a 3 x 3 stem on CIFAR-10, for one GPU.

Not run yet: no GPU was at hand.
"""
dataset = 'cifar10'
flip = 'random'
shift = 4
cutout = 8
channels_last = True

model = 'resnet'
arch = 'resnet18'
tta = 'flip'
batch_size = 512
epochs = 30
eval_interval = 264

optimizer = 'muon'
learning_rate = 1e-2
schedule = 'linear'
warmup_iters = 0.1
weight_decay = 0.1
grad_clip = 0.0
