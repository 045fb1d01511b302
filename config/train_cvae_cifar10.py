"""The textbook conditional VAE on CIFAR-10, whose pixels are logistic distributions cut into 256 bins.

5.37 bits per dimension on the validation and the test set (one run), after four and a half minutes on two CPU
cores: results/cvae.md. config/train_cvae_prior_cifar10.py trains the larger model, with what makes
photographs obey their label.
"""
dataset = 'cifar10'
flip = 'random'
channels_last = True

model = 'cvae'
likelihood = 'logistic'
width = 32
latent = 128
beta_warmup = 0.2
batch_size = 128
epochs = 10
eval_interval = 878

optimizer = 'adamw'
learning_rate = 5e-3
schedule = 'linear'
weight_decay = 0.0
ema = 0.999
