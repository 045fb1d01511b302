"""MobileNet (Howard et al. 2017) on CIFAR-10, 3.2 M parameters, with a stem of stride 1.

91.5 % test accuracy (one run) with --dtype=float32 after 77 minutes on two CPU cores, other programs beside
it, in 4.3 GB: results/mobilenet.md. In bfloat16 the gradient of a strided depthwise convolution is slow on a
CPU. Muon trains the pointwise convolutions, which have 98 % of the parameters; AdamW trains the rest.
"""
dataset = 'cifar10'
flip = 'alternating'
shift = 4
cutout = 8
channels_last = True

model = 'mobilenet'
label_smoothing = 0.2
tta = 'crop'
batch_size = 512
epochs = 24
eval_interval = 522

optimizer = 'muon'
learning_rate = 2e-2
schedule = 'linear'
warmup_fraction = 0.1
momentum = 0.6
weight_decay = 0.25
grad_clip = 0.0
