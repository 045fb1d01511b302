"""A conditional VAE on MNIST, 1.1 M parameters, its pixels drawn black or white anew each time.

Not run yet; meant for five minutes on two CPU cores, with --epochs=80 for half an hour. With --eval_only
--eval_split=test --k=1000 it tells the likelihood from a thousand samples of each image.
"""
dataset = 'mnist'
channels_last = True

model = 'cvae'
likelihood = 'bernoulli'
width = 32
latent = 10
beta = 2.0
batch_size = 128
epochs = 12
eval_interval = 1290

optimizer = 'muon'
learning_rate = 2.5e-3
schedule = 'linear'
weight_decay = 0.0
ema = 0.999
