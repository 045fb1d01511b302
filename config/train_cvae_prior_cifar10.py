"""A conditional VAE on CIFAR-10 with a Gaussian prior for each class and a DCT basis, 12.5 M parameters.

4.56 bits per dimension on the test set after 19 minutes on two CPU cores. A classifier sees the class asked
for in 44.0% of new images: results/cvae.md. With beta = 0.5, z holds more and the images are sharper.
"""
dataset = 'cifar10'
flip = 'random'
channels_last = True

model = 'cvae_prior'
likelihood = 'logistic'
width = 32
latent = 512
waves = 1024
beta = 0.5
beta_warmup = 0.2
batch_size = 128
epochs = 10
eval_interval = 878

optimizer = 'muon'
learning_rate = 2.5e-3
schedule = 'linear'
weight_decay = 0.0
ema = 0.999
