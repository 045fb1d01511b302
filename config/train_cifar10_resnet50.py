"""ResNet-50 (He et al. 2015, table 1) with a 3 x 3 stem on CIFAR-10, 23.5 M parameters, for one GPU.

Not run: no GPU was available. On two CPU cores with bfloat16 a step takes 8.1 s: results/cifar10.md.
"""
dataset = 'cifar10'
flip = 'alternating'
shift = 4
cutout = 8
channels_last = True

model = 'resnet'
arch = 'resnet50'
label_smoothing = 0.2
tta = 'flip'
batch_size = 512
epochs = 16
eval_interval = 696

optimizer = 'muon'
learning_rate = 2e-2
schedule = 'linear'
warmup_fraction = 0.1
momentum = 0.6
weight_decay = 0.25
grad_clip = 0.0
