"""A binary MobileNet after MoBiNet (Phan et al. 2020) on CIFAR-10, 3.4 M parameters.

Not run yet. To train in two stages, the first with real weights:

    python train.py config/train_cifar10_mobinet.py --weights=real --out_dir=out/cifar10_mobinet_real
    python train.py config/train_cifar10_mobinet.py --init_from=out/cifar10_mobinet_real
"""
dataset = 'cifar10'
flip = 'alternating'
shift = 2
channels_last = True

model = 'mobinet'
block = 'mid'
k = 4
tta = 'crop'
batch_size = 256
epochs = 24
eval_interval = 1050

optimizer = 'adamw'
learning_rate = 1e-2
schedule = 'linear'
warmup_fraction = 0.1
weight_decay = 0.0
grad_clip = 1.0
