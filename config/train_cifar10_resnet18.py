"""ResNet-18 (He et al. 2015, table 1) with a 3 x 3 stem on CIFAR-10, 11.2 M parameters.

Not run yet.
"""
dataset = 'cifar10'
flip = 'alternating'
shift = 2
channels_last = True

model = 'resnet'
arch = 'resnet18'
label_smoothing = 0.2
tta = 'flip'
batch_size = 512
epochs = 9
eval_interval = 783

optimizer = 'muon'
learning_rate = 2e-2
schedule = 'linear'
warmup_iters = 0.1
momentum = 0.6
weight_decay = 0.25
grad_clip = 0.0
