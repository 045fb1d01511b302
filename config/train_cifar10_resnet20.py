"""ResNet-20 of He et al. (2015, section 4.2) on CIFAR-10, 0.27 M parameters, for a CPU.

90.5 ± 0.3% test accuracy, 90.9 ± 0.1% on the validation set (3 seeds), in 13 minutes on two CPU cores
with bfloat16, in 0.9 GB: results/cifar10.md.
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
warmup_fraction = 0.05
momentum = 0.6
weight_decay = 0.2
grad_clip = 0.0
