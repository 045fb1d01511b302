"""Migration: checkpoints and logs of earlier revisions under the names of this one."""

# Of what is models/cvae_prior.py now: the beginnings of the names in its state_dict.
CVAE_PREFIXES = {
    'label_seen': 'encoder_class_embed', 'levels': 'stages', 'guess': 'to_posterior', 'take': 'from_latent',
    'label_made': 'decoder_class_embed', 'mix': 'bottleneck', 'draw': 'low_frequency.to_coefficients',
    'sketched': 'from_low_frequency', 'prior.common': 'prior.shared_factor',
    'prior.own': 'prior.class_factor', 'prior.shift': 'prior.bias'}


def migrate(state):
    """Return a checkpoint of an earlier revision, or a line of its log, under the names of this revision."""
    keys = state['keys']
    if 'warmup_iters' in keys and 'warmup_fraction' not in keys:        # one option meant both, by its size
        is_fraction = keys['warmup_iters'] < 1
        keys['warmup_fraction'] = keys['warmup_iters'] if is_fraction else 0.0
        keys['warmup_iters'] = 0 if is_fraction else int(keys['warmup_iters'])
    if 'streak' in state:                                               # good steps, or minus the bad ones
        streak = state.pop('streak')
        state['good_steps'] = max(streak, 0)
        state['bad_steps'] = max(-streak, 0)
        state['evals_since_best'] = state.pop('stale')
    config = state.get('config', {})
    if keys.get('model') == 'gpt':
        config.pop('label_smoothing', None)
    if keys.get('model') == 'gpt2':
        config.pop('flash', None)
    if 'waves' in config:                                               # of what is models/cvae_prior.py now
        config.pop('n_layer', None)                                     # was always 1
    if keys.get('model') == 'cvae' and 'waves' in config:
        keys['model'] = 'cvae_prior'
        if 'model' in state:
            state['model'] = {renamed(name): tensor for name, tensor in state['model'].items()}
    return state


def name_averages(averages, live):
    """Return the averages of a checkpoint by name. Earlier revisions have a list, in the order of `live`."""
    if isinstance(averages, list):
        averages = dict(zip(live, averages))
    return averages


def name_states(saved, net, optimizers):
    """Return the optimizers' states of an earlier revision, a list in the order of `optimizers`, by name.

    Also return the scales of their learning rates by name.
    """
    name_of = {p: name for name, p in net.named_parameters()}
    states = {}
    scales = {}
    for optimizer, old in zip(optimizers, saved, strict=True):
        for group, old_group in zip(optimizer.param_groups, old['param_groups'], strict=True):
            for p, number in zip(group['params'], old_group['params'], strict=True):
                if number in old['state']:
                    states[name_of[p]] = old['state'][number]
                if 'scale' in old_group:
                    scales[name_of[p]] = old_group['scale']
    return states, scales


def renamed(name):
    """Return the name of a tensor of the VAE in this revision."""
    for old, new in CVAE_PREFIXES.items():
        if name == old or name.startswith(f'{old}.'):
            return new + name.removeprefix(old)
    return name
