"""The textbook conditional VAE on MNIST, whose pixels are binarised dynamically.

Minus the ELBO is 90.2 nats per image on the validation set and 89.4 on the test set (one run), after two
minutes on two CPU cores: results/cvae.md. config/train_cvae_prior_mnist.py trains the larger
model, with a Gaussian prior for each class.
"""
dataset = 'mnist'
channels_last = True

model = 'cvae'
likelihood = 'bernoulli'
width = 32
latent = 16
batch_size = 128
epochs = 12
eval_interval = 1290

optimizer = 'adamw'
learning_rate = 5e-3
schedule = 'linear'
weight_decay = 0.0
ema = 0.999
