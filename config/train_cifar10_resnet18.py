"""ResNet-18 (He et al. 2015, table 1) with a 3 x 3 stem on CIFAR-10, 11.2 M parameters.

94.6% test accuracy (one run), logits of six views averaged, in 69 minutes on two CPU cores with
bfloat16, in 3.3 GB: results/cifar10.md.
"""
dataset = 'cifar10'
flip = 'alternating'
shift = 4
cutout = 8
channels_last = True

model = 'resnet'
arch = 'resnet18'
label_smoothing = 0.2
tta = 'crop'
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
